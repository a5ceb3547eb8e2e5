"""The command line: a thin skin. One command, one public function; ``--json`` on every one.

Exit codes: 0 done and passed, or the reader of the output left; 1 done, but a gate failed or was
inconclusive; 2 the input or the call is wrong, or memory, disk or an engine gave out; 130 and 143
interrupted, to be resumed. What is not 0 or 1 comes with one line on stderr. Nothing heavy is
imported before a command runs, so that ``--help`` and ``predict`` start at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, cast

import typer

from clinipress.text import plain, without_steering

if TYPE_CHECKING:
    from clinipress.progress import Progress
    from clinipress.records.result import Audit, Result

__all__ = ["app", "main"]

app = typer.Typer(
    name="clinipress",
    help="Make a medical-image classifier small and fast for its device, and prove what was lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Risk = Literal["critical", "high", "medium", "low"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Run the functions of yours that files name as a factory."),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")]
TaskOption = Annotated[
    Literal["multiclass", "multilabel"] | None,
    typer.Option("--task", help="One class for each image, or several findings. Default: as read."),
]
ClassMap = Annotated[
    list[str] | None,
    typer.Option("--class-map", help="theirs=ours, separated by commas; may be repeated."),
]


def _typed(path: Path) -> str:
    """As a shell must be told it."""
    return shlex.quote(str(path))


def _pairs(class_map: list[str] | None) -> str:
    return ",".join(class_map or ())


PASSED, NOT_PASSED, FAILED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
RESUME = "{}; run the same command again to go on"
DEBUG = "CLINIPRESS_DEBUG"


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()  # an answer is there as soon as it is known, in a pipe too


def _write_lines(lines: Iterable[str]) -> None:
    """Lines for people; what names hold cannot steer the terminal."""
    _write("\n".join(map(plain, lines)))


def _write_json(value: Any) -> None:
    """Plain data or a record as JSON; what would steer a terminal is written as an escape."""
    record = getattr(value, "model_dump_json", None)
    text = record(indent=1) if record else json.dumps(value, indent=1, allow_nan=False)
    _write(without_steering(text, lambda character: json.dumps(character)[1:-1], keep="\n"))


@contextlib.contextmanager
def _reader() -> Iterator[None]:
    """Whoever reads the output may leave (head, less): that changes no verdict."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout_if_closed()


class _Unheard:
    """A listener that goes on where nobody reads standard error any more: the work counts."""

    def __init__(self, listener: Progress) -> None:
        self._listener = listener

    def __getattr__(self, name: str) -> Callable[..., None]:
        heard = getattr(self._listener, name)

        def call(*arguments: Any, **named: Any) -> None:
            with contextlib.suppress(BrokenPipeError):
                heard(*arguments, **named)

        return call


def _say_what_runs(names: Iterable[str]) -> None:
    """Name the users' functions on stderr before the first of them runs."""
    from clinipress.recipe.code import what_runs

    if words := what_runs(tuple(names)):
        sys.stderr.write(f"{words}\n")
        sys.stderr.flush()


def _allowed_in(allow_code: bool, *paths: Path | None) -> bool:
    """The same, having said what will run of what these candidate folders name."""
    from clinipress.recipe.code import code_in

    if allow_code:
        _say_what_runs(dict.fromkeys(name for path in paths if path for name in code_in(path)))
    return allow_code


def _progress(quiet: bool) -> Progress:
    from clinipress.cli.terminal import listener

    return cast("Progress", _Unheard(listener(quiet)))


def _finish(result: Result, out: Path, as_json: bool) -> None:
    with _reader():
        if as_json:
            _write_json(result)
        else:
            from clinipress.cli.terminal import show_result

            show_result(result, out)
    raise typer.Exit(PASSED if result.verdict.status == "pass" else NOT_PASSED)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Run the main job on the embedded SYNTHETIC set, in minutes, to a report."""
    from clinipress.study.demo import run_demo

    _finish(run_demo(out, progress=_progress(as_json)), out, as_json)


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="The study file (.yaml).")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Images; overrides the study.")
    ] = None,
    out: Out = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, dotted; may be repeated.")
    ] = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Run a whole study; run it again to go on where it stopped."""
    from clinipress import distributed
    from clinipress.extras import require
    from clinipress.recipe.code import code_behind
    from clinipress.study.read import load_study

    recipe = load_study(study, tuple(changes or ()), allow_code=allow_code)
    folder = out or Path("runs") / recipe.name
    require("torch", extra="compress", what="running a study")
    from clinipress.study.flow import run_study

    quiet = as_json or not distributed.is_main()
    if distributed.is_main():
        _say_what_runs(code_behind(recipe))
    try:
        result = run_study(recipe, data, folder, progress=_progress(quiet), allow_code=allow_code)
    finally:
        distributed.leave()
    if not distributed.is_main():
        raise typer.Exit(PASSED)
    _finish(result, folder, as_json)


@app.command()
def compress(
    model: Annotated[
        Path, typer.Argument(help="A trained classifier: an .onnx file, or weights for --network.")
    ],
    data: Annotated[Path, typer.Argument(help="Labelled images: a folder, manifest or .npz.")],
    target: Annotated[
        str | None, typer.Option("--target", help="A device of 'clinipress targets'.")
    ] = None,
    risk: Annotated[Risk, typer.Option("--risk", help="What may be lost, and by what.")] = "medium",
    positive: Annotated[
        str | None, typer.Option("--positive", help="The finding of two classes.")
    ] = None,
    minutes: Annotated[float, typer.Option("--minutes", help="For all of it.")] = 60,
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            help="What the weights are of: a name of 'clinipress models', or "
            "module:function of yours, which is run.",
        ),
    ] = None,
    test: Annotated[
        Path | None, typer.Option("--test", help="A test set of its own, unseen by the model.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="a,b,c in the order of the model's outputs.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="Pixels of its input: 224, or HEIGHTxWIDTH.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option("--mean", help="Of pixels in [0, 1]: one number, or r,g,b.")
    ] = None,
    std: Annotated[str | None, typer.Option("--std", help="Likewise.")] = None,
    bgr: Annotated[
        bool | None,
        typer.Option("--bgr/--rgb", help="Whether its input has blue first, as OpenCV reads."),
    ] = None,
    checkpoint_key: Annotated[
        str | None,
        typer.Option(
            "--checkpoint-key", help="Of a file with several sets of weights: the name of yours."
        ),
    ] = None,
    student: Annotated[
        str | None, typer.Option("--student", help="Of an .onnx file: what learns from it.")
    ] = None,
    onnx: OnnxFacts = None,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="The model was trained on none of these images.")
    ] = False,
    post_training: Annotated[bool, typer.Option("--post-training", help="Train nothing.")] = False,
    task: TaskOption = None,
    order: Annotated[
        str | None, typer.Option("--order", help="Of grades: 0,1,2,3, the least first.")
    ] = None,
    class_map: ClassMap = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the study.")] = None,
    out: Out = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Make a trained classifier small and fast for a device: one call, bundle and report."""
    from clinipress.cli.values import numbers, pixels
    from clinipress.extras import require
    from clinipress.study.external import parse_class_map

    require("torch", extra="compress", what="compressing a classifier")
    from clinipress.study.compress import compress as run_compress
    from clinipress.study.compress import title_of

    title = name or title_of(model, network, data)
    folder = out or Path("runs") / title
    if network is not None and ":" in network:
        _say_what_runs((network,))
    result = run_compress(
        model,
        data,
        target=target,
        risk=risk,
        positive=positive,
        minutes=minutes,
        network=network,
        test=test,
        classes=None if classes is None else [part.strip() for part in classes.split(",")],
        size=None if size is None else pixels(size),
        mean=None if mean is None else numbers(mean, "--mean"),
        std=None if std is None else numbers(std, "--std"),
        bgr=bgr,
        checkpoint_key=checkpoint_key,
        class_map=parse_class_map(_pairs(class_map)),
        student=student,
        onnx=_onnx_facts(onnx),
        unseen=unseen,
        post_training=post_training or None,
        task=task,
        order=None if order is None else [part.strip() for part in order.split(",")],
        threads=threads,
        name=title,
        out=folder,
        allow_code=network is not None,  # typed here
        progress=_progress(as_json),
    )
    _finish(result, folder, as_json)


@app.command()
def init(
    data: Annotated[Path, typer.Argument(help="A data folder.")],
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("study.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    class_map: ClassMap = None,
    task: TaskOption = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="Pretrained weights: a file, package:NAME, hub, or none. "
            "Default: a package that carries some, if one is installed.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The network the weights are of, by timm's name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at a data folder and write a study.yaml with comments."""
    from clinipress.study.external import parse_class_map
    from clinipress.study.propose import finding_words, weights_words, write_study

    facts = write_study(
        data,
        out,
        force=force,
        class_map=parse_class_map(_pairs(class_map)),
        task=task,
        weights=weights,
        network=model,
    )
    if as_json:
        _write_json(facts)
    else:
        what = "findings" if facts["task"] == "multilabel" else "classes"
        _write_lines(
            [
                f"{facts['images']} images of {len(facts['classes'])} {what} ({facts['layout']}); "
                f"wrote {out}. Next: clinipress run {_typed(out)}"
            ]
        )
        _write(weights_words(facts))
        notes = (finding_words(facts), *facts["notes"])
        _write_lines(f"Check: {line}." for line in notes if line)


@app.command()
def audit(
    data: Annotated[Path, typer.Argument(help="A data folder, manifest or .npz.")],
    class_map: ClassMap = None,
    task: TaskOption = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Table to write: every file that is named.")
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Count, find unreadable files, duplicates, leaks, shortcuts and what is not used."""
    from clinipress.data.audit.audit import audit as run_audit
    from clinipress.data.sources import read_dataset
    from clinipress.errors import DataError
    from clinipress.study.external import parse_class_map

    facts: Audit
    dataset = read_dataset(
        data, class_map=parse_class_map(_pairs(class_map)), task=task, readers="majority",
        contradictions="note",
    )  # fmt: skip
    facts, _ = run_audit(dataset, progress=_progress(as_json), threads=threads)
    if csv is not None:
        from clinipress.data.audit.listing import write_listing

        write_listing(facts, csv)
    if as_json:
        _write_json(facts)
    else:
        from clinipress.cli.terminal import show_audit

        show_audit(facts, dataset.task)
    if 2 * len(facts.unreadable) > facts.images:
        bad = facts.unreadable[0]
        raise DataError(
            "images most of which can be read",
            f"{len(facts.unreadable):,} of {facts.images:,} that cannot, first '{bad.path}'",
            "check that this is the folder you mean",
        )
    if not as_json:
        option = f" --task {task}" if task else ""
        _write(f"next: clinipress init {_typed(data)}{option}")


@app.command("data")
def named_data(
    name: Annotated[str | None, typer.Argument(help="A public set; none lists them.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default data/NAME.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is missing.")] = False,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="Where the manifest goes; default in --out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the public sets known by name, or check, unpack and (with --fetch) download one."""
    from clinipress.cli.named import show_prepared
    from clinipress.data.named.prepare import list_sets, prepare

    if name is None:
        if as_json:
            _write_json(list_sets())
        else:
            from clinipress.cli.terminal import show_sets

            show_sets(list_sets())
        return
    folder = out or Path("data") / name
    prepared = prepare(name, folder, fetch=fetch, manifest=manifest, progress=_progress(as_json))
    if as_json:
        _write_json(prepared.as_facts())
    else:
        _write_lines(show_prepared(prepared))
    if prepared.status != "complete":
        raise typer.Exit(FAILED if prepared.status == "absent" else NOT_PASSED)


OnnxFacts = Annotated[
    list[str] | None,
    typer.Option(
        "--onnx",
        help="key=value: what an ONNX file that others made does not say itself (classes, scale, "
        "channels, fit, size, ...); may be repeated.",
    ),
]


def _onnx_facts(texts: list[str] | None) -> dict[str, Any]:
    from clinipress.study.external import parse_onnx

    return parse_onnx(texts or ())


Overlap = Literal["refuse", "leave-out", "keep"]
Positive = Annotated[
    str | None,
    typer.Option("--positive", help="The finding of two classes, where the card names none."),
]
Unsaid = Literal["unknown", "absent", "present"]
Blank = Annotated[
    Unsaid,
    typer.Option(
        "--blank", help="Where each finding has a column of DATA: what an empty cell says."
    ),
]
Uncertain = Annotated[Unsaid, typer.Option("--uncertain", help="And what -1 says.")]
Readers = Annotated[
    Literal["any", "majority"] | None,
    typer.Option("--readers", help="Which answer counts where several readers of an image differ."),
]
SplitName = Annotated[
    str | None, typer.Option("--split", help="Only images published under this split.")
]


@app.command()
def evaluate(
    model: Annotated[
        Path, typer.Argument(help="A bundle, a model file, a candidate folder or a run folder.")
    ],
    data: Annotated[Path, typer.Argument(help="Labelled images.")],
    class_map: ClassMap = None,
    split: SplitName = None,
    positive: Positive = None,
    overlap: Annotated[
        Overlap,
        typer.Option(
            "--overlap",
            help="Images that the study has, too: refuse them, leave them "
            "out, or keep them (not with a run: they are not from elsewhere).",
        ),
    ] = "refuse",
    blank: Blank = "unknown",
    uncertain: Uncertain = "unknown",
    readers: Readers = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the set, with a run; default its folder's.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option("--scores", help="Keep the per-image scores (.npz).")
    ] = None,
    onnx: OnnxFacts = None,
    threads: Threads = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Measure a model or a whole run on a data set, with 95 % intervals.

    With a run folder, its reference and what it shipped are measured on images from elsewhere,
    judged by the study's own rules, and shown in its report beside the internal figures.
    """
    if (model / "result.json").is_file():
        _external_test(
            model, data, threads, as_json,
            name=name, class_map=_pairs(class_map), split=split, positive=positive, overlap=overlap,
            blank=blank, uncertain=uncertain, readers=readers,
        )  # fmt: skip
    from clinipress.study.external import evaluate as run_evaluate

    facts = run_evaluate(
        model, data, class_map=_pairs(class_map), split=split, positive=positive, overlap=overlap,
        blank=blank, uncertain=uncertain, readers=readers, threads=threads, scores=scores,
        progress=_progress(as_json), allow_code=_allowed_in(allow_code, model),
        onnx=_onnx_facts(onnx),
    )  # fmt: skip
    if as_json:
        _write_json(facts)
    else:
        from clinipress.cli.terminal import show_evidence

        show_evidence(facts)


def _external_test(
    run: Path, data: Path, threads: int | None, as_json: bool, **options: Any
) -> NoReturn:
    """Measure a run elsewhere, draw its report again, and leave with the verdict's exit code."""
    from clinipress.study.external import evaluate_run
    from clinipress.study.redraw import redraw

    test = evaluate_run(run, data, threads=threads, progress=_progress(as_json), **options)
    result, pages = redraw(run)
    with _reader():
        if as_json:
            _write_json(test)
        else:
            from clinipress.cli.terminal import show_external

            show_external(test, result, pages[0])
    verdicts = [row.verdict.status for row in test.rows.values() if row.verdict]
    raise typer.Exit(PASSED if set(verdicts) == {"pass"} else NOT_PASSED)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="The reference: bundle, model file, scores (.npz).")],
    b: Annotated[Path, typer.Argument(help="The candidate, likewise.")],
    data: Annotated[
        Path | None, typer.Argument(help="Labelled images; none where A and B are scores.")
    ] = None,
    risk: Annotated[str, typer.Option(help="critical, high, medium or low.")] = "medium",
    floor: Annotated[
        list[str] | None,
        typer.Option("--floor", help="metric=least figure to be shown; may be repeated."),
    ] = None,
    class_map: ClassMap = None,
    split: SplitName = None,
    positive: Positive = None,
    overlap: Annotated[
        Overlap,
        typer.Option(
            "--overlap",
            help="Images that the study behind A or B has, too: refuse them, leave them out, or "
            "keep them and say so.",
        ),
    ] = "keep",
    blank: Blank = "unknown",
    uncertain: Uncertain = "unknown",
    readers: Readers = None,
    onnx: OnnxFacts = None,
    threads: Threads = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Compare two models on the same images, paired, with a verdict.

    Per-image scores (.npz, from a run's scores folder or evaluate --scores) need no model and no
    images.
    """
    from clinipress.study.external import compare as run_compare
    from clinipress.study.external import parse_floors

    comparison = run_compare(
        a, b, data, risk=risk, floors=parse_floors(floor or ()), class_map=_pairs(class_map),
        split=split, positive=positive, overlap=overlap, blank=blank, uncertain=uncertain,
        readers=readers, threads=threads, progress=_progress(as_json),
        allow_code=_allowed_in(allow_code, a, b), onnx=_onnx_facts(onnx),
    )  # fmt: skip
    with _reader():
        if as_json:
            _write_json(comparison)
        else:
            from clinipress.cli.terminal import show_comparison

            show_comparison(comparison)
    passed = comparison["verdict"]["status"] == "pass"
    raise typer.Exit(PASSED if passed else NOT_PASSED)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    images: Annotated[list[str], typer.Argument(help="Images, folders, or - for stdin.")],
    as_json: Json = False,
) -> None:
    """Classify images on the device, without torch."""
    from clinipress.edge.predict import run_predict

    raise typer.Exit(run_predict(bundle, images, as_json=as_json, write=_write))


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    threads: Annotated[
        list[int] | None, typer.Option("--threads", min=1, help="May be repeated.")
    ] = None,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Images per call; may be repeated.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time per setting.", min=0.1)] = 2.0,
    against: Annotated[
        Path | None, typer.Option("--against", help="Another bundle or model file, timed in turn.")
    ] = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Measure a bundle on this device: latency, throughput, cold start, memory."""
    from clinipress.edge.bench import bench as run_bench

    facts = run_bench(
        bundle, threads=threads, batches=batches or (1, 8), seconds=seconds, against=against,
        allow_code=_allowed_in(allow_code, against),
    )  # fmt: skip
    if as_json:
        _write_json(facts)
    else:
        from clinipress.cli.terminal import show_bench

        show_bench(facts)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    as_json: Json = False,
) -> None:
    """Rebuild the report, and what lies beside it, from the records of a run."""
    from clinipress.study.redraw import redraw

    result, paths = redraw(folder)
    if as_json:
        documents = [str(path) for path in paths[1:]]
        aside = dict(result.set_aside)
        _write_json({"report": str(paths[0]), "documents": documents, "set_aside": aside})
    else:
        _write_lines([*result.set_aside.values(), *(f"wrote {path}" for path in paths)])


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Part of a name; * for any.")] = "",
    as_json: Json = False,
) -> None:
    """List the networks that can be named in a study; with a pattern, timm's that match too."""
    from clinipress.models.catalogue import named_models

    named = named_models(pattern)
    if not pattern and as_json:
        _write_json([model.as_row() for model in named])
        return
    names: list[str] = []
    if pattern:
        from clinipress.extras import require

        require("torch", extra="compress", what="listing timm's networks")
        from clinipress.models.zoo import list_models

        names = list_models(pattern)
    if as_json:
        _write_json(names)
    else:
        from clinipress.cli.terminal import show_models

        show_models(named, names)


@app.command()
def table(
    name: Annotated[str, typer.Argument(help="s0, s1, s2 or s4.")],
    data: Annotated[Path, typer.Option("--data", help="The images.")],
    scale: Annotated[str, typer.Option("--scale", help="small, moderate or full.")] = "small",
    out: Annotated[
        Path | None, typer.Option("--out", help="Default runs/table-NAME-SCALE.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", help="Address of a Ray cluster, or local.")
    ] = None,
    positive: Annotated[
        str | None, typer.Option("--positive", help="The finding, where there are two classes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a paper's table again, beside the figures it prints; run it again to go on."""
    from clinipress.extras import require

    require("torch", extra="compress", what="running a table")
    from clinipress.papers.run import run_table

    folder = out or Path("runs") / f"table-{name}-{scale}"
    paper_table = run_table(
        name,
        data,
        folder,
        scale=scale,  # type: ignore[arg-type]
        ray=ray,
        positive=positive,
        progress=_progress(as_json),
    )
    with _reader():
        if as_json:
            _write_json(paper_table)
        else:
            from clinipress.cli.terminal import show_table

            show_table(paper_table, folder)
    raise typer.Exit(NOT_PASSED if paper_table.failed else PASSED)


@app.command()
def targets(as_json: Json = False) -> None:
    """List the devices clinipress knows, with a source for each number."""
    from clinipress.study.devices import TARGETS

    if as_json:
        _write_json({name: target.model_dump(mode="json") for name, target in TARGETS.items()})
    else:
        from clinipress.cli.terminal import show_targets

        show_targets(TARGETS)


@app.callback()
def _before(
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG, help="Show where an error came from.")
    ] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"  # `main` reads it, whatever fails


def main() -> None:
    """Entry point: whatever goes wrong is one line, and the exit code says of what kind it is."""
    _steady_streams()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except SystemExit as end:
        code, line = _end_of(end)
    except BaseException as problem:
        code, line = _failure(problem)
        if code == FAILED and os.environ.get(DEBUG):
            traceback.print_exc()
    try:
        sys.stdout.flush()
    except OSError as problem:  # also what Python would say at exit, with a code of its own
        if code == PASSED or isinstance(problem, BrokenPipeError):
            code, line = _failure(problem)
    if code == PASSED or line:
        _forget_stdout_if_closed()
    if line:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"clinipress: {line}\n")
    sys.exit(code)


def _steady_streams() -> None:
    """Streams that can be written to: a closed one swallows, no letter is refused."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _terminate(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # what is being left cleans up in peace
    sys.exit(TERMINATED)


def _end_of(end: SystemExit) -> tuple[int, str]:
    """Exit code and line of a command that ended by itself, or was ended inside typer.

    Typer turns interruptions and closed pipes into codes that differ from version to version.
    """
    cause: BaseException | None = end
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt | BrokenPipeError):
            return _failure(cause)
        cause = cause.__cause__ or cause.__context__
    if end.code == TERMINATED:
        return TERMINATED, RESUME.format("terminated")
    return (end.code if isinstance(end.code, int) else FAILED if end.code else PASSED), ""


def _failure(problem: BaseException) -> tuple[int, str]:
    """Exit code and line of an exception."""
    from clinipress.errors import ClinipressError
    from clinipress.extras import missing_extra

    if isinstance(problem, ModuleNotFoundError):  # a door without its guard
        problem = missing_extra(problem) or problem
    if isinstance(problem, KeyboardInterrupt):
        return INTERRUPTED, RESUME.format("interrupted")
    if isinstance(problem, BrokenPipeError):
        return PASSED, ""  # the reader (head, less) has what it wanted
    if isinstance(problem, ClinipressError):
        return FAILED, str(problem)
    if isinstance(problem, OSError) and problem.filename is not None:  # a path nobody looked at
        what = f"'{problem.filename}' ({problem.strerror})"
        return FAILED, str(ClinipressError("files that can be read and written", what))
    frames = traceback.extract_tb(problem.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = f"{type(problem).__name__}: {problem}".strip(": ").partition("\n")[0]
    if isinstance(problem, MemoryError) or "allocate memory" in text or "out of memory" in text:
        what, fix = "memory for the work", "close other programs, or make the batches smaller"
    else:
        what, fix = "the work to go on", "'clinipress --debug COMMAND ...' shows where it came from"
    return FAILED, str(ClinipressError(what, text + where, f"{fix}; finished work is kept"))


def _forget_stdout_if_closed() -> None:
    """Let Python flush into nothing at exit where nobody reads any more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
