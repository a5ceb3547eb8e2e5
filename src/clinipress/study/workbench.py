"""How a piece of the flow is made, kept and read back: the workbench under `pipeline`."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinipress import distributed
from clinipress.data.cache import DECODERS
from clinipress.data.sources import decode_item
from clinipress.data.study import (
    Rows,
    StudyData,
    predict_rows,
)
from clinipress.errors import ModelError
from clinipress.formats.file import FILES, FileCandidate
from clinipress.formats.make import CALIBRATED, apply_export, file_facts, plan_export
from clinipress.formats.measure import latency, peak_memory
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.write import card_for
from clinipress.formats.open import (
    TRAINING_PACKAGES,
    engine_packages,
    open_file,
    place_of,
    timed_here,
    toolchain_packages,
)
from clinipress.formats.parity import parity
from clinipress.models.classifier import TorchCandidate
from clinipress.progress import SILENT, Progress
from clinipress.recipe.study import ExportRecipe, Study
from clinipress.records.candidate import (
    Applied,
    Candidate,
    Card,
)
from clinipress.records.store import Store, read_json, versions, write_atomically
from clinipress.steps.distill.soft_targets import outside_teachers
from clinipress.steps.fitting import calibration_rows, fresh_candidate, step_seed
from clinipress.steps.step import (
    Context,
    Step,
    run,
    with_history,
)

__all__ = ["FLOAT32", "Runner"]

FLOAT32 = ExportRecipe(precision="float32")
LATENCY_IMAGES = 16
PARITY_IMAGES = 128


@dataclass
class Runner:
    """Makes, keeps and reads back what a study consists of.

    Attributes:
        study: The recipe.
        store: The run folder.
        data: The images; the test split sealed.
        progress: The listener.
        seconds: Wall time per phase of this process; a resumed run counts only what it did.
        root: The reference as the network it is exported from, once there is one.
    """

    study: Study
    store: Store
    data: StudyData
    progress: Progress = SILENT
    seconds: dict[str, float] = field(default_factory=dict)
    root: TorchCandidate | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 2)

    def fresh(self) -> TorchCandidate:
        """The reference before training."""
        recipe, spec = self.study.reference.model, self.study.data.input
        seed = step_seed(self.study.seed, "reference")
        return fresh_candidate(recipe, self.data, spec, seed=seed, name="reference")

    def step(
        self, name: str, step: Step, parent: TorchCandidate, reference: Candidate | None
    ) -> TorchCandidate:
        """Plan and apply a torch-side step, or read back what it made before."""
        inputs = {
            "step": step.kind,
            "recipe": step.recipe.model_dump(mode="json"),
            "parent": parent.digest,
            "reference": reference.digest if reference else None,
            "data": self.data.digest,
            "seed": self.study.seed,
        }
        outside = outside_teachers(step.recipe)
        if outside:  # files may change behind an unchanged path
            inputs["teachers"] = [teacher.digest for teacher in outside]

        def make(folder: Path) -> None:
            context = Context(
                data=self.data,
                reference=reference,
                work=folder,
                shared=self.store.folder,
                seed=self.study.seed,
                threads=self.study.threads,
                progress=self.progress,
                root=self.root,
            )
            applied, child = run(step, parent, _plan_once(step, parent, context), context)
            card = with_history(child.card, parent if step.inherits else None, applied, name)
            if not isinstance(child, TorchCandidate):
                raise ModelError("a PyTorch candidate from a step", type(child).__name__)
            if distributed.is_main():
                TorchCandidate(card, child.module).save(folder)

        with self.phase(name):
            folder = self.store.once(
                step.kind, inputs, make, packages=(*TRAINING_PACKAGES, *DECODERS), together=True
            )
        return TorchCandidate.load(folder)

    def export(self, name: str, parent: TorchCandidate, recipe: ExportRecipe) -> FileCandidate:
        """Write a file for a runtime, or find the one written before; load it by its runtime.

        Raises:
            MissingExtraError: The format's toolchain or engine is not installed.
            ModelError: The network cannot be exported so.
        """
        params, chosen = self._export_params(parent, recipe)
        inputs = {"export": params, "parent": parent.digest, "data": self.data.digest}
        inputs |= _places([recipe.format])
        source = None
        if recipe != FLOAT32:
            source = self.export(parent.card.name, parent, FLOAT32).path

        def make(folder: Path) -> None:
            began = time.monotonic()
            path = folder / FILES[recipe.format][0]
            # the card inside the file holds no history: it has times in it, and the bytes of a
            # file must depend on what it computes alone
            card = parent.card.model_copy(update={"name": name, "history": ()})
            if source is None:
                export_onnx(TorchCandidate(card, parent.module), path)
                plan = {}
            else:
                plan = self._export_plan(parent, recipe, source, folder, chosen)
                apply_export(recipe, parent, source, path, plan, card)
            facts = self._file_facts(parent, recipe, path, plan, card)
            if facts.get("left_out"):
                facts["left_out"] = self._keys(parent, np.sort(chosen)[facts["left_out"]])
                self.progress.say(f"{name}: {_strange(facts['left_out'])}")
            if "warning" in facts:
                self.progress.say(f"{name}: {facts['warning']}")
            facts["seconds"] = round(time.monotonic() - began, 3)
            applied = Applied(step="export", params=params, parent=parent.digest, facts=facts)
            card = with_history(parent.card, parent, applied, name)
            card = card_for(card, recipe.precision, recipe.format)
            write_atomically(folder / "card.json", card.model_dump_json(indent=1))

        with self.phase(f"export {name}"):
            packages = (*toolchain_packages(recipe.format), *DECODERS)
            folder = self.store.once("export", inputs, make, packages=packages)
        card = Card.model_validate(read_json(folder / "card.json"))
        card = card.model_copy(update={"name": name})
        return open_file(folder / FILES[recipe.format][0], card, self.study.threads)

    def _export_params(
        self, parent: TorchCandidate, recipe: ExportRecipe
    ) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """What the history says of an export, and the calibration rows of the cache."""
        params: dict[str, Any] = recipe.model_dump(mode="json")
        if recipe.precision not in CALIBRATED:
            kept = {"format", "precision"}
            if recipe.precision == "int4-weights":
                kept |= {"block"}
            return {k: v for k, v in params.items() if k in kept}, np.empty(0, dtype=np.int64)
        train = self.data.rows("train", parent.card.input)
        seed = step_seed(self.study.seed, "calibration")
        chosen = calibration_rows(train.labels, recipe.calibration_images, seed)
        params |= {"calibration_seed": seed, "calibration_images": len(chosen)}
        params |= {"calibration_split": "train", "calibration_augmented": False}
        return params, train.index[chosen]

    def _export_plan(
        self,
        parent: TorchCandidate,
        recipe: ExportRecipe,
        source: Path,
        folder: Path,
        chosen: NDArray[np.int64],
    ) -> dict[str, Any]:
        """What was measured for the file; a run that was killed finds the plan it had made."""
        path = folder / "plan.json"
        if not path.is_file():
            images = self.data.cache(parent.card.input).take(np.sort(chosen))
            made = plan_export(
                recipe,
                parent,
                source,
                images,
                threads=self.study.latency_threads,
                seed=step_seed(self.study.seed, "agreement"),
            )
            write_atomically(path, json.dumps(made, indent=1))
        plan: dict[str, Any] = read_json(path)
        return plan

    def _keys(self, parent: TorchCandidate, rows: NDArray[np.int64]) -> list[str]:
        """Keys of training images by their rows in the cache."""
        train = self.data.rows("train", parent.card.input)
        keys = dict(zip(train.index.tolist(), train.keys, strict=True))
        return [keys[int(row)] for row in rows]

    def _file_facts(
        self,
        parent: TorchCandidate,
        recipe: ExportRecipe,
        path: Path,
        plan: dict[str, Any],
        card: Card,
    ) -> dict[str, Any]:
        """Parity with the parent on real images, and what really runs in low precision."""
        spec = parent.card.input
        rows = self.data.rows("validation", spec).index[:PARITY_IMAGES]
        images = self.data.cache(spec).take(rows)
        card = card_for(card, recipe.precision, recipe.format)
        loaded = open_file(path, card, self.study.threads)
        found = parity(parent, loaded, images).model_dump()
        return {"parity": found} | file_facts(recipe, path, plan)

    def logits(
        self, candidate: Candidate, split: Literal["train", "validation"]
    ) -> NDArray[np.float32]:
        """A candidate's logits on a split that is not sealed."""
        inputs = {"candidate": candidate.digest, "split": split, "data": self.data.digest}
        inputs |= _places([candidate.card.format])

        def make(folder: Path) -> None:
            rows = self.data.rows(split, candidate.card.input)
            self._predict(candidate, rows, folder / "logits.npz")

        with self.phase("predict"):
            packages = (*engine_packages([candidate.card.format]), *DECODERS)
            folder = self.store.once("scores", inputs, make, packages=packages)
        return _load_scores(folder / "logits.npz")[0]

    def open_test(
        self, candidates: Mapping[str, Candidate], reason: str
    ) -> tuple[Rows, dict[str, NDArray[np.float32]]]:
        """Open the sealed test split once for all finalists together.

        A second run over the same finalists reads the scores back and opens nothing; one with other
        versions of clinipress or of an engine scores them again, which is a further opening.

        Returns:
            The images, and per finalist its logits.
        """
        digests = {name: candidate.digest for name, candidate in candidates.items()}
        inputs = {"candidates": digests, "data": self.data.digest}
        inputs |= _places(one.card.format for one in candidates.values())
        packages = (*engine_packages(c.card.format for c in candidates.values()), *DECODERS)

        def make(folder: Path) -> None:
            spec = next(iter(candidates.values())).card.input
            changed = self.store.older("test", inputs, versions(packages))
            why = f"{reason}; again, with other versions: {changed}" if changed else reason
            rows = self.data.open_test(spec, tuple(candidates), why)
            for name, candidate in candidates.items():
                self._predict(candidate, rows, folder / f"{name}.npz")

        with self.phase("test"):
            folder = self.store.once("test", inputs, make, packages=packages)
        scores = {}
        for name in candidates:
            scores[name], rows = _load_scores(folder / f"{name}.npz")
        return replace(rows, groups=self.data.groups(rows.keys)), scores

    def _predict(self, candidate: Candidate, rows: Rows, path: Path) -> None:
        _save_scores(
            path, predict_rows(candidate, self.data.cache(candidate.card.input), rows), rows
        )

    def latencies(self, candidates: Sequence[FileCandidate]) -> dict[str, dict[str, Any]]:
        """Latency and memory of every file, interleaved in one go so that the ratios hold.

        Files of other devices' engines are not timed here: their entries are None.
        """
        inputs = {
            "candidates": {c.card.name: c.digest for c in candidates},
            "threads": self.study.latency_threads,
        } | _places(c.card.format for c in candidates)

        def make(folder: Path) -> None:
            found = self._measure(candidates)
            write_atomically(folder / "latency.json", json.dumps(found, indent=1))

        with self.phase("latency"):
            packages = (*engine_packages(c.card.format for c in candidates), *DECODERS)
            folder = self.store.once("latency", inputs, make, packages=packages)
        found: dict[str, dict[str, Any]] = read_json(folder / "latency.json")
        return found

    def _measure(self, candidates: Sequence[FileCandidate]) -> dict[str, dict[str, Any]]:
        threads, spec = self.study.latency_threads, candidates[0].card.input
        keys = self.data.rows("validation", spec).keys[:LATENCY_IMAGES]
        by_key = {item.key: item for item in self.data.dataset.items}
        files = itertools.cycle([by_key[key] for key in keys])
        loaded = {
            c.card.name: open_file(c.path, c.card, threads)
            for c in candidates
            if timed_here(c.card.format)
        }
        image = decode_item(by_key[keys[0]], spec)[None]

        def from_file(candidate: FileCandidate) -> Callable[[NDArray[np.uint8]], Any]:
            return lambda _: candidate.predict(decode_item(next(files), spec)[None])

        # with and without reading the file in one go: drift between two runs would hide reading
        whole = {f"{name} from file": from_file(one) for name, one in loaded.items()}
        timed = latency({**loaded, **whole}, image, threads=threads)
        measured: dict[str, dict[str, Any]] = {}
        for candidate in candidates:
            name = candidate.card.name
            if name not in loaded:
                arena = candidate.card.history[-1].facts.get("arena_bytes")
                measured[name] = {"latency": None, "with_preprocessing": None, "peak_memory": arena}
                continue
            read = timed[f"{name} from file"].model_dump()
            runtime = {"runtime": candidate.runtime}
            measured[name] = {
                "latency": timed[name].model_dump(),
                "with_preprocessing": read | runtime | {"preprocessing": True},
                "peak_memory": peak_memory(candidate.path, threads=threads, card=candidate.card),
            }
        return measured


def _places(kinds: Iterable[str]) -> dict[str, Any]:
    """GPUs that run files of these formats here, as part of what their answers were made from.

    A run that goes on where there is a GPU, or no longer one, measures such files again.
    """
    found = sorted({place_of(kind) for kind in kinds} - {""})
    return {"places": found} if found else {}


def _strange(keys: Sequence[str]) -> str:
    """What to say of calibration images that were left out."""
    named = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    what = "image excites" if len(keys) == 1 else "images excite"
    return (
        f"{len(keys)} calibration {what} the network more than twice as much as the others and "
        f"had no say in its ranges; look whether they belong to the data: {named}"
    )


def _plan_once(step: Step, parent: TorchCandidate, context: Context) -> dict[str, Any]:
    """The step's plan; a run that was killed finds the one it had decided on."""
    path = context.work / "plan.json"
    if not distributed.agree(path.is_file()):
        # in every process: steps are measured with all of them at work
        plan_made = step.plan(parent, context)
        if distributed.is_main():
            write_atomically(path, json.dumps(plan_made, indent=1))
        distributed.barrier()
    plan: dict[str, Any] = read_json(path)
    return plan


def _save_scores(path: Path, logits: NDArray[np.float32], rows: Rows) -> None:
    """Logits and the images they belong to."""
    keys = np.asarray(rows.keys, dtype=np.str_)
    np.savez_compressed(
        path, logits=logits, labels=rows.labels, units=rows.units, keys=keys, index=rows.index
    )


def _load_scores(path: Path) -> tuple[NDArray[np.float32], Rows]:
    with np.load(path, allow_pickle=False) as file:
        keys = tuple(str(key) for key in file["keys"])
        rows = Rows(file["index"], file["labels"], file["units"], keys)
        return file["logits"], rows
