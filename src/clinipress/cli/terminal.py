"""What the command line shows: progress bars, tables, the verdict. Only this module names rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import console as rich_console
from rich import table as rich_table
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from clinipress.progress import SILENT
from clinipress.progress import Progress as Listener
from clinipress.recipe.formats import format_facts
from clinipress.records.candidate import Task
from clinipress.records.item import plural_of
from clinipress.records.judgement import SECTIONS
from clinipress.text import (
    DASH,
    STATUS_WORDS,
    counted,
    fixed,
    not_used,
    plain,
    signed,
    tally,
    trial_words,
)

if TYPE_CHECKING:
    from clinipress.models.catalogue import NamedModel
    from clinipress.papers.records import Table as PaperTable
    from clinipress.records.candidate import CandidateRecord
    from clinipress.records.result import Audit, ExternalTest, Interval, Result
    from clinipress.reporting.measures import Measure
    from clinipress.reporting.view import View
    from clinipress.study.devices import Target

__all__ = [
    "listener",
    "show_audit",
    "show_bench",
    "show_comparison",
    "show_evidence",
    "show_external",
    "show_models",
    "show_result",
    "show_sets",
    "show_table",
    "show_targets",
]

FIGURES = ("parameters", "MACs", "pixels")
NAME_WIDTH = 40  # of a row of a table; longer names are folded
COLOUR = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


class _PlainConsole(rich_console.Console):
    """A console to which a string is text: it holds no markup and cannot steer the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        """What rich prints, strings made plain first; colours come as `Text`."""
        super().print(*(_text(entry) for entry in objects), **options)


class _PlainTable(rich_table.Table):
    """A table of such strings: names of classes keep their brackets."""

    def __init__(self, *heads: Any, title: Any = None, **options: Any) -> None:
        super().__init__(*map(_text, heads), title=_text(title), **options)

    def add_column(self, header: Any = "", *arguments: Any, **options: Any) -> None:
        super().add_column(_text(header), *arguments, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_text, cells), **options)


Console = _PlainConsole
Table = _PlainTable


def _text(content: Any) -> Any:
    if isinstance(content, str):
        return Text(plain(content))
    if isinstance(content, Text):  # of several lines, perhaps
        content.plain = "\n".join(map(plain, content.plain.split("\n")))
    return content


def _coloured(*parts: str | tuple[str, str]) -> Text:
    """Words, some of them with a style: ("warning", "yellow")."""
    whole = Text()
    for part in parts:
        words, style = (part, "") if isinstance(part, str) else part
        whole.append(plain(words), style)
    return whole


def _word(status: str, style: str = "") -> tuple[str, str]:
    """A verdict's word in its colour."""
    return STATUS_WORDS[status], f"{style} {COLOUR[status]}".strip()  # type: ignore[index]


def listener(quiet: bool) -> Listener:
    """Bars on a terminal, plain lines in a log, nothing when asked to be quiet."""
    if quiet:
        return SILENT
    console = Console(stderr=True)
    return _Bars(console) if console.is_terminal else _Lines()


class _Bars:
    """Nested progress bars with time left."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=False,
        )
        self._tasks: dict[str, TaskID] = {}

    def start(self, what: str, total: int) -> None:
        if not self._tasks:
            self._bars.start()
        self._tasks[what] = self._bars.add_task(plain(what), total=total, note="")

    def advance(self, what: str, units: int = 1, note: str = "") -> None:
        """Move it."""
        if what in self._tasks:
            self._bars.update(self._tasks[what], advance=units)
            if note:
                self._bars.update(self._tasks[what], note=plain(note))

    def finish(self, what: str, note: str = "") -> None:
        task = self._tasks.pop(what, None)
        if task is not None and note:
            self._bars.update(task, note=plain(note))
        if not self._tasks:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Print above the bars."""
        self._bars.console.print(_text(text), highlight=False)


class _Lines:
    """One line at most every ten seconds: for logs and CI."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[int, int, float, float]] = {}

    def start(self, what: str, total: int) -> None:
        now = time.monotonic()
        self._tasks[what] = (0, total, now, now)

    def advance(self, what: str, units: int = 1, note: str = "") -> None:
        """Say how far it is, and how long it will take, when ten seconds have gone by."""
        if what not in self._tasks:
            return
        done, total, began, last = self._tasks[what]
        now = time.monotonic()
        if now - last >= 10:
            left = (now - began) / max(done + units, 1) * max(total - done - units, 0)
            self.say(f"{what}: {done + units} of {total}, {_clock(left)} left  {note}".rstrip())
            last = now
        self._tasks[what] = (done + units, total, began, last)

    def finish(self, what: str, note: str = "") -> None:
        _, total, began, _ = self._tasks.pop(what, (0, 0, time.monotonic(), 0.0))
        spent = time.monotonic() - began
        if spent >= 1:
            self.say(f"{what}: done, {total} in {_clock(spent)}  {note}".rstrip())

    def say(self, text: str) -> None:
        """Print to stderr, so that stdout stays the answer."""
        sys.stderr.write(plain(text) + "\n")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _console() -> Console:
    console = Console()
    # a pipe or a log has no width: do not fold tables at 80 columns there
    return console if console.is_terminal else Console(width=160)


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return "not measured"
    value, low, high = (fixed(100 * x, 1) for x in (interval.value, interval.low, interval.high))
    return f"{value}% ({low}{DASH}{high})"


def _points(interval: Interval | None) -> str:
    if interval is None:
        return "not measured"
    value, low, high = (signed(100 * x, 1) for x in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def show_result(result: Result, out: Path) -> None:
    """A study's table, its verdict and where the files are."""
    from clinipress.reporting.private import kept
    from clinipress.reporting.view import View
    from clinipress.reporting.wording.lead import selection_words
    from clinipress.reporting.wording.numbers import short_name
    from clinipress.reporting.wording.sentences import distillation_sentences

    result = kept(result)
    console = _console()
    split = "test" if any("test" in c.evidence for c in result.candidates) else "validation"
    table = Table(title=f"{result.study}: {'SYNTHETIC ' if result.synthetic else ''}{split} split")
    for column in (
        "candidate",
        "file MB",
        "smaller",
        "ms",
        "faster",
        short_name(result.overall),
        "change, points",
        "verdict",
    ):
        table.add_column(column, justify="left" if column in ("candidate", "verdict") else "right")
    root = next(c for c in result.candidates if c.name == result.reference)
    for row in result.candidates:
        words = selection_words(View(result), row)
        table.add_row(*_row(row, root, split, words, result.overall))
    console.print(table)
    view = View(result)
    _show_lead(console, view)
    for sentence in distillation_sentences(view):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)
    if trial := trial_words(result.audit.images, result.audit.trial_of):
        console.print(trial, highlight=False, soft_wrap=True)
    if result.bundle:
        console.print(f"bundle: {out / result.bundle}", highlight=False, soft_wrap=True)


def _show_lead(console: Console, view: View) -> None:
    """The report's first screen in lines."""
    from clinipress.reporting.wording.lead import lead, release_sentence

    first, released = lead(view), release_sentence(view)
    word = (first.word, f"bold {COLOUR[first.tone]}")
    marks = Text()
    for mark in first.sections:
        guard = " (can stop the model)" if mark.guard else ""
        shown = (mark.word, COLOUR.get(mark.status or "", ""))
        marks.append(", " if marks else "")
        marks.append_text(_coloured(f"{mark.title.lower()}{guard} ", shown))
    _print_lines(
        console,
        *first.facts,
        *(_coloured((text, "bold red")) for text in first.changed),
        _coloured(word, f" {first.headline} ({'; '.join(first.beside)})"),
        *first.lines,
        *(f"  {text}" for text in view.result.verdict.texts if first.tone != "pass"),
    )
    if first.changes:
        console.print(_changes_table(first.changes))
    _print_lines(
        console,
        *([f"answers changed: {first.flips}"] if first.flips else []),
        marks,
        f"external test: {' '.join(first.external)}",
        *([released] if released else []),
        *(f"next: {text}" for text in first.steps),
    )


def _print_lines(console: Console, *texts: str | Text) -> None:
    for text in texts:
        console.print(text, highlight=False, soft_wrap=True)


def _changes_table(changes: Iterable[Measure]) -> Table:
    from clinipress.reporting.wording.lead import change_words, measure_name, reading

    table = Table(title="what changed most, compressed minus original")
    for head in ("measure", "change, 95% CI", "reads as"):
        table.add_column(head)
    for measure in changes:
        change = change_words(measure.metric, measure.change, measure.limit)
        colour = {"worse": "red", "better": "green", None: ""}[measure.shown]
        table.add_row(measure_name(measure), change, _coloured((reading(measure), colour)))
    return table


def _row(
    row: CandidateRecord, root: CandidateRecord, split: str, selected: str | None, overall: str
) -> list[str]:
    from clinipress.reporting.wording.numbers import figure_interval

    mine, theirs = row.latency_with_preprocessing_ms, root.latency_with_preprocessing_ms
    times = f"{theirs.median / mine.median:.1f}x" if mine and theirs else "not measured"
    if row.speed is not None:
        times = f"{row.speed.ratio.value:.1f}x" if row.speed.reliable else "machine busy"
    figure = row.evidence.get(split, {}).get(overall)
    change = "" if row is root else _points(row.changes.get(split, {}).get(overall))
    verdict = (
        "reference" if row is root else STATUS_WORDS[row.verdict.status] if row.verdict else ""
    )
    return [
        f"{row.name}{f'  <- {selected}' if selected else ''}",
        f"{row.file_bytes / 1e6:.2f}",
        f"{root.file_bytes / row.file_bytes:.1f}x",
        f"{mine.median:.2f}" if mine else "not measured",
        times,
        figure_interval(overall, figure),
        change,
        verdict,
    ]


def show_audit(audit: Audit, task: Task = "multiclass") -> None:
    """What the audit found, warnings last so that they are what is left on the screen."""
    console = _console()

    def line(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, soft_wrap=True)

    splits = list(audit.splits)
    table = Table()
    table.add_column("finding" if task == "multilabel" else "class")
    for name in ("images", *splits):
        table.add_column(name, justify="right")
    for name, count in audit.classes.items():
        shown = (f"{audit.splits[s].get(name, 0):,}" for s in splits)
        table.add_row(name, f"{count:,}", *shown)
    line(f"{audit.path}: {counted(audit.images, 'image')}, {audit.layout}")
    console.print(table)
    for text in _audit_lines(audit):
        line(text)
    for warning in audit.warnings:
        line(f"warning {warning}", "yellow")
    line(f"{audit.seconds:.1f} s")


def _audit_lines(audit: Audit) -> Iterator[str]:
    yield f"unreadable files: {len(audit.unreadable):,}"
    yield f"exact duplicates: {audit.exact_duplicates:,}"
    yield f"near duplicates: {audit.near_duplicates:,}"
    yield f"clusters: {audit.clusters:,}"
    yield f"patients: {'not known' if audit.patients is None else audit.patients}"
    yield from (f"{plural_of(k)}: {n:,}" for k, n in audit.units.items() if k != "patient")
    yield f"images under two labels: {len(audit.conflicting_labels):,}"
    for name, count in audit.leaks.items():
        yield f"leak {name}: {counted(count, 'image')}"
    for column, counts in audit.groups.items():
        yield f"group {column}: {tally(list(counts.items())[:12])}"
    if audit.baseline_accuracy:
        yield f"statistics-only baseline accuracy, all images: {_percent(audit.baseline_accuracy)}"
    for text in not_used((x.path, x.kind, x.reason, x.count) for x in audit.left_out):
        if text not in audit.warnings:
            yield text


def show_evidence(facts: Mapping[str, Any]) -> None:
    """The metrics of one model on one data set."""
    from clinipress.records.result import Overlap
    from clinipress.reporting.wording.phrases import overlap_sentence

    console = _console()
    table = Table(title=f"{facts['name']} on {facts['data']}: {counted(facts['images'], 'image')}")
    for column in ("metric", "value", "95% CI"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, figure in _of_all(facts, facts["evidence"]).items():
        table.add_row(name, *_plain_figure(figure))
    console.print(table)
    if facts.get("task") == "multilabel":
        console.print(_findings_table(facts["evidence"]))
    lines = [f"sensitivity is that of {facts['positive']}"] if facts["positive"] else []
    for line in (*lines, overlap_sentence(Overlap.model_validate(facts["overlap"]))):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    unreadable = facts.get("unreadable", ())
    if unreadable:
        first = f"the first {unreadable[0]['path']}: {unreadable[0]['reason']}"
        text = f"warning: {counted(len(unreadable), 'file')} not read, {first}"
        console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)
    for text in facts.get("warnings", ()):
        line = f"warning: {text}"
        console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)


def _plain_figure(figure: Mapping[str, float]) -> tuple[str, str]:
    low, high = (fixed(figure[end], 4) for end in ("low", "high"))
    return fixed(figure["value"], 4), f"{low} to {high}"


def _of_all(facts: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """All figures; of several findings those of all together: each has a row of its own below."""
    several = facts.get("task") == "multilabel"
    return {name: figure for name, figure in figures.items() if not (several and "[" in name)}


def _findings(figures: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(n.partition("[")[2][:-1] for n in figures if "[" in n))


def _findings_table(evidence: Mapping[str, Any]) -> Table:
    """A row for each finding, the least well told first."""
    families = ("auroc", "sensitivity", "specificity", "precision")
    table = Table(title="each finding, with its 95% CI")
    table.add_column("finding")
    for family in families:
        table.add_column("AUROC" if family == "auroc" else family, justify="right")

    def area(name: str) -> float:
        return float(evidence.get(f"auroc[{name}]", {}).get("value", 2.0))

    for name in sorted(_findings(evidence), key=area):
        found = [evidence.get(f"{family}[{name}]") for family in families]
        cells = ["{} ({})".format(*_plain_figure(x)) if x else "not measured" for x in found]
        table.add_row(name, *cells)
    return table


def _changed_findings(
    before: Mapping[str, Any], after: Mapping[str, Any], changes: Mapping[str, Any]
) -> Table:
    """A row for each finding, that which may have lost most first."""
    table = Table(title="area under the ROC curve of each finding")
    for column in ("finding", "reference", "candidate", "change", "95% CI"):
        table.add_column(column, justify="left" if column == "finding" else "right")

    def low(name: str) -> float:
        return float(changes.get(f"auroc[{name}]", {}).get("low", 2.0))

    for name in sorted(_findings(before), key=low):
        sides = [side.get(f"auroc[{name}]") for side in (before, after)]
        shown = [fixed(side["value"], 4) if side else "not measured" for side in sides]
        change = changes.get(f"auroc[{name}]")
        moved = ["not measured", ""]
        if change:
            ends = f"{signed(change['low'], 4)} to {signed(change['high'], 4)}"
            moved = [signed(change["value"], 4), ends]
        table.add_row(name, *shown, *moved)
    return table


def show_comparison(comparison: Mapping[str, Any]) -> None:
    """The paired changes and the verdict."""
    from clinipress.records.metrics import way
    from clinipress.records.result import Overlap
    from clinipress.reporting.wording.phrases import overlap_sentence

    console = _console()
    models = f"{comparison['candidate']} against {comparison['reference']}"
    table = Table(title=f"{models}: {comparison['images']} images")
    for column in ("metric", "reference", "candidate", "change", "95% CI", ""):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, change in _of_all(comparison, comparison["changes"]).items():
        both = [comparison["candidates"][i]["evidence"]["data"].get(name) for i in (0, 1)]
        shown = [fixed(v["value"], 4) if v else "not measured" for v in both]
        table.add_row(
            name,
            *shown,
            signed(change["value"], 4),
            f"{signed(change['low'], 4)} to {signed(change['high'], 4)}",
            way(name, change["value"]),
        )
    console.print(table)
    if comparison.get("task") == "multilabel":
        before, after = (each["evidence"]["data"] for each in comparison["candidates"])
        console.print(_changed_findings(before, after, comparison["changes"]))
    if comparison["positive"]:
        line = f"sensitivity is that of {comparison['positive']}"
        console.print(line, highlight=False, markup=False)
    overlap = overlap_sentence(
        Overlap.model_validate(comparison.get("overlap", {})), comparison.get("overlap_unknown", ())
    )
    console.print(overlap, highlight=False, markup=False, soft_wrap=True)
    console.print(_sections(comparison["judgements"]), highlight=False, soft_wrap=True)
    verdict = comparison["verdict"]
    console.print(_coloured(_word(verdict["status"], "bold")))
    for reason in verdict["reasons"]:
        console.print(reason["text"], highlight=False, markup=False, soft_wrap=True)
    console.print(
        "These rules came with the command; nothing shows that they were fixed before the answers "
        "were seen.",
        highlight=False,
    )


def _sections(judgements: Mapping[str, Any]) -> Text:
    line = Text()
    for name in SECTIONS:
        section = judgements.get(name)
        if section is None:
            continue
        word: str | tuple[str, str] = _word(section["verdict"]["status"])
        if name == "subgroups" and not section["columns"]:
            word = "no metadata"
        line.append(", " if line else "").append(f"{name} ").append_text(_coloured(word))
    return line


def show_external(test: ExternalTest, result: Result, report: Path) -> None:
    """A run on images from elsewhere: each candidate's accuracy beside the internal one."""
    from clinipress.reporting.private import kept
    from clinipress.reporting.wording.numbers import figure_interval, short_name
    from clinipress.reporting.wording.phrases import overlap_sentence
    from clinipress.reporting.wording.sentences import means_sentence

    number = [known.name for known in result.external_tests].index(test.name)
    result = kept(result)
    test = result.external_tests[number]
    console = _console()
    table = Table(
        title=f"{result.study} on {test.name}: {counted(test.images, 'image')} from elsewhere"
    )
    for column in (
        "candidate",
        f"{short_name(result.overall)} here",
        f"{short_name(result.overall)} there",
        "change there, points",
        "verdict",
    ):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    rows = {row.name: row for row in result.candidates}
    split = f"external: {test.name}"  # where the pages of the run have its figures
    for name, row in test.rows.items():
        inside, changes = rows[name].evidence, row.changes or rows[name].changes.get(split, {})
        here = inside.get("test") or inside["validation"]
        there = row.evidence or inside.get(split, {})
        verdict = row.verdict.status if row.verdict else None
        table.add_row(
            name,
            figure_interval(result.overall, here.get(result.overall)),
            figure_interval(result.overall, there.get(result.overall)),
            _points(changes.get(result.overall)) if changes else "",
            _coloured(_word(verdict)) if verdict else "reference",
        )
    console.print(table)
    shipped = [name for name in test.rows if name != result.reference]
    lines = [overlap_sentence(test.overlap), *(means_sentence(test.means, n) for n in shipped[:1])]
    for line in (*filter(None, lines), *(f"warning: {text}" for text in test.warnings)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for name, row in test.rows.items():
        for text in row.verdict.texts if row.verdict else ():
            console.print(f"{name}: {text}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)


def show_bench(facts: Mapping[str, Any]) -> None:
    """What `bench` measured: the machine, the start, then a row per setting."""
    console = _console()
    machine = facts["environment"]
    flags = ", ".join(machine["cpu_flags"]) or "not known"
    lines = (
        f"{facts['bundle']}: {facts['format']} {facts['precision']}, "
        f"{facts['file_bytes'] / 1e6:.2f} MB",
        f"{machine['cpu']}, {machine['cores']} cores; instruction sets: {flags}",
        f"cold start, from the command to the answer: {facts['cold_start_ms']:.0f} ms",
        f"opening {facts['load_ms']:.1f} ms, self-test {facts['self_test_ms']:.1f} ms",
        f"memory: the process {_megabytes(facts['peak_memory_bytes'])}, "
        f"the model alone {_megabytes(facts['model_memory_bytes'])}",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    rows = facts["latency_ms"]
    several = len({row["model"] for row in rows}) > 1
    table = Table(title="one call, milliseconds")
    for column in ("threads", "batch", "reads the file", "median", "p95", "images/s"):
        table.add_column(column, justify="right")
    if several:
        table.add_column("model")
        table.add_column("faster", justify="right")
    for row in rows:
        cells = [str(row["threads"]), str(row["batch"]), "yes" if row["preprocessing"] else "no"]
        cells += [f"{row['median']:.3f}", f"{row['p95']:.3f}", f"{row['images_per_second']:.0f}"]
        table.add_row(*cells, *(_beside(row, rows) if several else ()))
    console.print(table)
    scope = "These figures are of this processor; they hold for no other."
    note = format_facts(facts["format"]).timing_note
    if note and not _on_gpu(facts):
        scope = f"{note}: on the device nothing was measured."
    console.print(scope, highlight=False)
    if facts["busy"]:
        console.print(facts["busy"], highlight=False, markup=False, soft_wrap=True)


def _on_gpu(facts: Mapping[str, Any]) -> bool:
    """True when a TensorRT engine answered, on this machine's own GPU."""
    mine = [row for row in facts["latency_ms"] if row["model"] == facts["bundle"]]
    return any(row["runtime"].startswith("tensorrt ") for row in mine)


def _beside(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """The model's name, and how much faster the bundle is than the other, with its interval."""
    setting = ("threads", "batch", "preprocessing")
    same = [other for other in rows if all(other[key] == row[key] for key in setting)]
    speed = next(other["speed"] for other in same if other["speed"])
    if not speed["reliable"]:
        return row["model"], "machine busy"
    ratio = speed["ratio"]
    faster = f"{ratio['value']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f})"
    return row["model"], faster if row["speed"] else ""


def _megabytes(count: int | None) -> str:
    return "not measured" if count is None else f"{count / 1e6:.2f} MB"


def show_models(named: Iterable[NamedModel], names: Iterable[str]) -> None:
    """The catalogue as a table; then further names, one per line: made for grep."""
    rows = list(named)
    if rows:
        table = Table(title="networks by name; 'clinipress models PATTERN' lists timm's too")
        for column in ("name", "parameters", "MACs", "pixels", "pretrained", "note"):
            table.add_column(column, justify="right" if column in FIGURES else "left")
        for model in rows:
            table.add_row(
                model.name,
                f"{model.parameters / 1e6:.2f} M",
                f"{model.macs / 1e9:.3f} G",
                str(model.size),
                model.pretrained,
                model.note,
            )
        _console().print(table)
    known = {model.name for model in rows}
    for name in names:
        if name not in known:
            sys.stdout.write(name + "\n")


def show_sets(sets: Iterable[Mapping[str, Any]]) -> None:
    """The public sets known by name."""
    table = Table(title="public sets; 'clinipress data NAME' checks a folder, --fetch downloads")
    for column in ("name", "images", "classes", "kept whole", "known defects"):
        table.add_column(column, justify="right" if column in ("images", "classes") else "left")
    for facts in sets:
        table.add_row(
            facts["name"],
            f"{facts['images']:,}",
            str(len(facts["classes"])),
            facts["unit"] or "not known",
            "; ".join(facts["defects"]),
        )
    _console().print(table)


def show_table(table: PaperTable, folder: Path) -> None:
    """As many columns of a paper's table as fit, and where the whole of it is."""
    from clinipress.papers.render import shown_rows

    console = _console()
    console.print(f"Table {table.source}: {table.title}", style="bold", highlight=False)
    for sentence in table.said:
        console.print(sentence, highlight=False)
    rows = shown_rows(table)
    columns = zip(("", *table.columns), *rows, strict=True)
    widths = [max(map(len, column)) + 2 for column in columns]
    first = min(widths[0], NAME_WIDTH)
    many = sum(sum(widths[1 : at + 1]) + first <= console.width for at in range(1, len(widths)))
    view = Table(box=None, pad_edge=False)
    for head in ("", *table.columns[:many]):
        view.add_column(head, no_wrap=bool(head), min_width=0 if head else first - 2)
    for row in rows:
        view.add_row(*row[: many + 1])
    console.print(view)
    for key, why in table.failed.items():
        console.print(f"not measured, {key}: {why}", highlight=False)
    left = len(table.columns) - many
    remainder = f"{left} more columns and the notes" if left else "the notes"
    console.print(f"{remainder}: {folder / 'table.html'}, {folder / 'table.md'}", highlight=False)


def show_targets(targets: Mapping[str, Target]) -> None:
    """The devices, with sources."""
    console = _console()
    table = Table(title="targets")
    for column in ("name", "processor", "RAM", "model at most", "runtime", "precisions", "for"):
        table.add_column(column, overflow="fold")
    cited: dict[str, list[str]] = {}
    for target in targets.values():
        ram, file = (_bytes(n) for n in (target.ram_bytes, target.model_bytes))
        precisions = ", ".join(target.precisions)
        row = (target.name, target.processor, ram, file, target.runtime, precisions, target.use)
        table.add_row(*row)
        for number, source in target.sources.items():
            cited.setdefault(source, []).append(f"{target.name}: {number}")
    console.print(table)
    for source, numbers in cited.items():
        console.print(f"{source}: {'; '.join(numbers)}", highlight=False, soft_wrap=True)


def _bytes(count: int | None) -> str:
    if count is None:
        return "not stated"
    return f"{count / 1e9:g} GB" if count >= 1e9 else f"{count / 1e6:g} MB"
