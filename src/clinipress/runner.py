"""How a piece of the flow is made, kept and read back: the workbench under `pipeline`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinipress import distributed
from clinipress.candidate import Candidate, Context, Step, run, with_history
from clinipress.data.sources import decode_item
from clinipress.data.study import Rows, StudyData
from clinipress.evaluate.measure import Timed, latency, peak_memory
from clinipress.models.classifier import TorchCandidate
from clinipress.progress import SILENT, Progress
from clinipress.recipe import ExportRecipe, Study
from clinipress.records import Applied, Card, Latency
from clinipress.runtimes.onnx import OnnxCandidate
from clinipress.steps.export import calibration_rows, export_file
from clinipress.steps.train import fresh_candidate, step_seed
from clinipress.store import Store, read_json, write_atomically

__all__ = ["Runner", "predict_rows"]

LATENCY_IMAGES = 16
PREDICT_BATCH = 64


def predict_rows(candidate: Candidate, data: StudyData, rows: Rows) -> NDArray[np.float32]:
    """Logits float32 ``[n, classes]`` of some images, read from the cache in batches."""
    cache = data.cache(candidate.card.input)
    starts = range(0, len(rows.index), PREDICT_BATCH)
    parts = [candidate.predict(cache.take(rows.index[s : s + PREDICT_BATCH])) for s in starts]
    return np.concatenate(parts)


@dataclass
class Runner:
    """Makes, keeps and reads back what a study consists of.

    Attributes:
        study: The recipe.
        store: The run folder.
        data: The images; the test split sealed.
        progress: The listener.
        seconds: Wall time per phase of this process; a resumed run counts only what it did.
    """

    study: Study
    store: Store
    data: StudyData
    progress: Progress = SILENT
    seconds: dict[str, float] = field(default_factory=dict)

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
            "recipe": step.recipe.model_dump(mode="json"),  # type: ignore[attr-defined]
            "parent": parent.digest,
            "reference": reference.digest if reference else None,
            "data": self.data.digest,
            "seed": self.study.seed,
        }

        def make(folder: Path) -> None:
            context = Context(
                data=self.data,
                reference=reference,
                work=folder,
                shared=self.store.folder,
                seed=self.study.seed,
                threads=self.study.threads,
                progress=self.progress,
            )
            applied, child = run(step, parent, _plan_once(step, parent, context), context)
            child.card = with_history(child.card, parent, applied, name)  # type: ignore[misc]
            if distributed.is_main():
                child.save(folder)

        with self.phase(name):
            folder = self.store.once(step.kind, inputs, make, together=True)
        return TorchCandidate.load(folder)

    def export(self, name: str, parent: TorchCandidate, recipe: ExportRecipe) -> OnnxCandidate:
        """Write a file for a runtime, or find the one written before; load it by its runtime."""
        spec = parent.card.input
        train = self.data.rows("train", spec)
        params: dict[str, Any] = recipe.model_dump(mode="json")
        chosen: NDArray[np.int64] | None = None
        if recipe.precision == "int8":
            seed = step_seed(self.study.seed, "calibration")
            chosen = calibration_rows(train.labels, recipe.calibration_images, seed)
            params |= {"calibration_seed": seed, "calibration_images": len(chosen)}
            params |= {"calibration_split": "train", "calibration_augmented": False}
        else:
            for key in ("calibration_images", "calibration_method", "per_channel"):
                params.pop(key)
        inputs = {"export": params, "parent": parent.digest, "data": self.data.digest}

        def make(folder: Path) -> None:
            began = time.monotonic()
            images = None
            if chosen is not None:
                images = self.data.cache(spec).take(train.index[chosen])
            facts = export_file(parent, folder / "model.onnx", recipe, images, folder / "scratch")
            facts["seconds"] = round(time.monotonic() - began, 3)
            applied = Applied(step="export", params=params, parent=parent.digest, facts=facts)
            card = with_history(parent.card, parent, applied, name)
            card = card.model_copy(update={"format": "onnx", "precision": recipe.precision})
            write_atomically(folder / "card.json", card.model_dump_json(indent=1))

        with self.phase(f"export {name}"):
            folder = self.store.once("export", inputs, make)
        card = Card.model_validate(read_json(folder / "card.json"))
        card = card.model_copy(update={"name": name})
        return OnnxCandidate.load(folder / "model.onnx", card=card, threads=self.study.threads)

    def logits(
        self, candidate: Candidate, split: Literal["train", "validation"]
    ) -> NDArray[np.float32]:
        """A candidate's logits on a split that is not sealed."""
        rows = self.data.rows(split, candidate.card.input)
        return self._scores(candidate, rows, split)

    def open_test(
        self, candidates: Mapping[str, Candidate], reason: str
    ) -> tuple[Rows, dict[str, NDArray[np.float32]]]:
        """Open the sealed test split once for all finalists together.

        A second run over the same finalists reads the scores back and opens nothing.
        """
        digests = {name: candidate.digest for name, candidate in candidates.items()}
        inputs = {"candidates": digests, "data": self.data.digest}

        def make(folder: Path) -> None:
            spec = next(iter(candidates.values())).card.input
            rows = self.data.open_test(spec, tuple(candidates), reason)
            for name, candidate in candidates.items():
                _save_scores(folder / f"{name}.npz", predict_rows(candidate, self.data, rows), rows)

        with self.phase("test"):
            folder = self.store.once("test", inputs, make)
        scores = {}
        for name in candidates:
            logits, rows = _load_scores(folder / f"{name}.npz")
            scores[name] = logits
        return rows, scores

    def latencies(self, candidates: Sequence[OnnxCandidate]) -> dict[str, dict[str, Any]]:
        """Latency and memory of every file, interleaved in one go so that the ratios hold."""
        inputs = {
            "candidates": {c.card.name: c.digest for c in candidates},
            "threads": self.study.latency_threads,
        }

        def make(folder: Path) -> None:
            found = self._measure(candidates)
            write_atomically(folder / "latency.json", json.dumps(found, indent=1))

        with self.phase("latency"):
            folder = self.store.once("latency", inputs, make)
        found: dict[str, dict[str, Any]] = read_json(folder / "latency.json")
        return found

    def _measure(self, candidates: Sequence[OnnxCandidate]) -> dict[str, dict[str, Any]]:
        threads = self.study.latency_threads
        spec = candidates[0].card.input
        keys = self.data.rows("validation", spec).keys[:LATENCY_IMAGES]
        by_key = {item.key: item for item in self.data.dataset.items}
        items = [by_key[key] for key in keys]
        loaded = {
            c.card.name: OnnxCandidate.load(c.path, card=c.card, threads=threads)
            for c in candidates
        }
        pixels = {n: [decode_item(i, c.card.input)[None] for i in items] for n, c in loaded.items()}
        bare = {n: Timed(c.predict, pixels[n], c.runtime) for n, c in loaded.items()}
        whole = {
            n: Timed(lambda item, c=c: c.predict(decode_item(item, c.card.input)[None]), items, c.runtime)  # type: ignore[misc]
            for n, c in loaded.items()
        }
        plain = latency(bare, threads=threads)
        with_files = latency(whole, threads=threads, preprocessing=True)
        return {
            name: {
                "latency": plain[name].model_dump(),
                "with_preprocessing": with_files[name].model_dump(),
                "peak_memory": peak_memory(candidate.path, candidate.card.input),
            }
            for name, candidate in loaded.items()
        }

    def _scores(self, candidate: Candidate, rows: Rows, split: str) -> NDArray[np.float32]:
        inputs = {"candidate": candidate.digest, "split": split, "data": self.data.digest}

        def make(folder: Path) -> None:
            _save_scores(folder / "logits.npz", predict_rows(candidate, self.data, rows), rows)

        with self.phase("predict"):
            folder = self.store.once("scores", inputs, make)
        return _load_scores(folder / "logits.npz")[0]


def _plan_once(step: Step, parent: TorchCandidate, context: Context) -> dict[str, Any]:
    """The step's plan; a run that was killed finds the one it had decided on."""
    path = context.work / "plan.json"
    if distributed.is_main() and not path.is_file():
        write_atomically(path, json.dumps(step.plan(parent, context), indent=1))
    distributed.barrier()
    plan: dict[str, Any] = read_json(path)
    return plan


def _save_scores(path: Path, logits: NDArray[np.float32], rows: Rows) -> None:
    """Per-image scores: everything a statistic needs, so that it re-runs without the model."""
    keys = np.asarray(rows.keys, dtype=np.str_)
    np.savez_compressed(
        path, logits=logits, labels=rows.labels, units=rows.units, keys=keys, index=rows.index
    )


def _load_scores(path: Path) -> tuple[NDArray[np.float32], Rows]:
    with np.load(path, allow_pickle=False) as file:
        keys = tuple(str(key) for key in file["keys"])
        rows = Rows(file["index"], file["labels"], file["units"], keys)
        return file["logits"], rows


def latency_of(found: Mapping[str, Any], key: str) -> Latency:
    """A latency record read back."""
    return Latency.model_validate(found[key])
