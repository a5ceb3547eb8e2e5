"""How candidates are made, kept and read back: networks by steps, files by toolchains."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from clinipress import distributed
from clinipress.data.cache import DECODERS
from clinipress.data.study import StudyData
from clinipress.errors import ModelError
from clinipress.evidence.scores import Scores
from clinipress.formats.file import FILES, FileCandidate, digest_of_files
from clinipress.formats.make import Tried, apply_export, file_facts, open_made, plan_export
from clinipress.formats.measure import overflows_here
from clinipress.formats.onnx.adopt import FileNetwork
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.foreign import own_files
from clinipress.formats.onnx.names import by_module
from clinipress.formats.onnx.write import card_for
from clinipress.formats.open import TRAINING_PACKAGES, open_file, place_of, toolchain_packages
from clinipress.formats.parity import parity
from clinipress.formats.trials import trial_lines
from clinipress.models.classifier import TorchCandidate
from clinipress.models.cost import macs, parameters
from clinipress.models.origins import Hashed, outside, source_digest
from clinipress.progress import SILENT, Progress
from clinipress.recipe.formats import precision_facts
from clinipress.recipe.steps import ModelRecipe, OnnxRecipe
from clinipress.recipe.study import ExportRecipe, Study
from clinipress.records.candidate import ADOPTED, Applied, Card, Made, Origin, Parity
from clinipress.records.store import Store, read_json, write_atomically
from clinipress.steps.adopt import adopt_file, load_adopted
from clinipress.steps.distill.soft_targets import outside_teachers
from clinipress.steps.fitting import (
    calibration_rows,
    fresh_candidate,
    normalization_lines,
    step_seed,
)
from clinipress.steps.step import Context, Step, run, with_history
from clinipress.text import IN_FLOAT, capital, joined

__all__ = ["FLOAT32", "Network", "PhaseTimes", "Piece", "Workbench", "gpus"]

FLOAT32 = ExportRecipe(precision="float32")
Network = TorchCandidate | FileNetwork
PARITY_IMAGES = 128
# a file that answers a larger share of them otherwise than its network is named
UNLIKE = 0.1
NAMED = 5  # layers on a line of the terminal


R_co = TypeVar("R_co", bound=Made, covariant=True)


@dataclass(frozen=True)
class Piece(Generic[R_co]):
    """A candidate on its way through the flow: its record so far, and what it is run with.

    Attributes:
        record: What is known of it; each stage of the flow makes a longer one.
        file: The file, opened by its own runtime.
        network: The network the file is of.
        scores: split -> its answers to every image.
    """

    record: R_co
    file: FileCandidate
    network: Network
    scores: Mapping[str, Scores] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The candidate's name in the study."""
        return self.record.name


class PhaseTimes:
    """Wall time per phase of this process; a resumed run counts only what it did.

    Attributes:
        seconds: Phase -> seconds so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 2)


@dataclass(frozen=True)
class Workbench:
    """Makes the pieces of a study and keeps them; one that was made before is read back.

    Attributes:
        study: The recipe.
        store: The run folder.
        data: The images; the test split sealed.
        progress: The listener.
        times: Wall time per phase.
        code: The users' functions that may build networks read back from folders.
        hashed: Files from outside that this run has hashed.
    """

    study: Study
    store: Store
    data: StudyData
    progress: Progress = SILENT
    times: PhaseTimes = field(default_factory=PhaseTimes)
    code: Collection[str] = ()
    hashed: Hashed = field(default_factory=dict)
    _sources: dict[str | None, str] = field(default_factory=dict)
    _tried: Tried = field(default_factory=dict)

    def _source(self, network: Network) -> str:
        """Digest of the source that a network is built by, read once: it is imported by now."""
        factory = network.spec.factory
        if factory not in self._sources:
            self._sources[factory] = source_digest(factory)
        return self._sources[factory]

    def fresh(self) -> Network:
        """The reference before training; of an ONNX file, as it is."""
        reference, spec = self.study.reference, self.study.data.input
        if reference.onnx is not None:
            return self._adopted(reference.onnx)
        recipe = cast(ModelRecipe, reference.model)
        seed = step_seed(self.study.seed, "reference")
        candidate = fresh_candidate(
            recipe, self.data, spec, seed=seed, name="reference", progress=self.progress
        )
        trained = self.study.reference.train is None
        for line in normalization_lines(candidate, recipe, self.data, trained=trained):
            self.progress.say(capital(line) + ".")
        return candidate

    def _adopted(self, recipe: OnnxRecipe) -> FileNetwork:
        """The reference's ONNX file in our own terms."""
        study, spec = self.study, self.study.data.input
        inputs = {
            "recipe": recipe.model_dump(mode="json"),
            "files": digest_of_files(own_files(Path(recipe.file))),
            "input": [spec.model_dump(mode="json"), "fit" in spec.model_fields_set],
            "data": self.data.digest,
            "seed": study.seed,
        }

        def make(folder: Path) -> None:
            trials = adopt_file(
                recipe, self.data, spec, folder,
                name="reference", seed=study.seed, threads=study.threads,
            )  # fmt: skip
            for line in trial_lines(trials):
                self.progress.say(f"'{Path(recipe.file).name}', {line}")

        with self.times.phase("reference"):
            packages = (*toolchain_packages("onnx"), *DECODERS)
            folder = self.store.once(ADOPTED, inputs, make, packages=packages)
        network = load_adopted(folder, study.threads)
        if network.file.largest_batch == 1:
            self.progress.say(f"'{Path(recipe.file).name}' takes one image at a time")
        return network

    def step(
        self, name: str, step: Step, parent: Network, reference: Piece[Made] | None
    ) -> tuple[TorchCandidate, str]:
        """Plan and apply a torch-side step, or read back what it made before.

        Returns:
            The network, and its folder below the run folder.
        """
        inputs = {
            "step": step.kind,
            "recipe": step.recipe.model_dump(mode="json"),
            "parent": parent.digest,
            "reference": reference.file.digest if reference else None,
            "data": self.data.digest,
            "modality": self.data.modality,
            "seed": self.study.seed,
            "threads": self.study.threads,
            # what stands behind an unchanged path or name may change
            "outside": outside(step.recipe, self.hashed),
            "source": self._source(parent),
            "teachers": outside_teachers(step.recipe, self.code),
        }

        def make(folder: Path) -> None:
            context = Context(
                data=self.data,
                reference=reference.file if reference else None,
                work=folder,
                shared=self.store.folder,
                seed=self.study.seed,
                threads=self.study.threads,
                progress=self.progress,
                root=reference.network if reference else None,
                code=self.code,
            )
            applied, child = run(step, parent, _plan_once(step, parent, context), context)
            card = with_history(child.card, parent if step.inherits else None, applied, name)
            if not isinstance(child, TorchCandidate):
                raise ModelError("a PyTorch candidate from a step", type(child).__name__)
            if distributed.is_main():
                TorchCandidate(card, child.module).save(folder)

        with self.times.phase(name):
            folder = self.store.once(
                step.kind, inputs, make, packages=(*TRAINING_PACKAGES, *DECODERS), together=True
            )
        network = TorchCandidate.load(folder, allow_code=self.code)
        return network, folder.relative_to(self.store.folder).as_posix()

    def export(self, name: str, parent: Network, recipe: ExportRecipe) -> FileCandidate:
        """Write a file for a runtime, or find the one written before; load it by its runtime.

        Raises:
            MissingExtraError: The format's toolchain or engine is not installed.
            ModelError: The network cannot be exported so.
        """
        params, chosen = self._export_params(parent, recipe)
        inputs: dict[str, Any] = {
            "export": params,
            "parent": parent.digest,
            "source": self._source(parent),
            "data": self.data.digest,
            "threads": self.study.threads,
        } | gpus([recipe.format])
        if params.get("reduce_range", False) is None:  # then the processor decides
            inputs["overflows_here"] = overflows_here()
        source = None
        if recipe != FLOAT32:
            source = self.export(parent.card.name, parent, FLOAT32).path
        elif isinstance(parent, FileNetwork):
            source = parent.file.path

        def make(folder: Path) -> None:
            began = time.monotonic()
            path = folder / FILES[recipe.format][0]
            # the card inside the file holds no history: it has times in it, and the bytes of a
            # file must depend on what it computes alone
            card = parent.card.model_copy(update={"name": name, "history": ()})
            if isinstance(parent, TorchCandidate) and source is None:
                export_onnx(TorchCandidate(card, parent.module), path)
                plan = {}
            elif source is not None:
                plan = self._export_plan(parent, recipe, source, folder, chosen)
                apply_export(recipe, parent, source, path, plan, card, self._tried)
            facts = self._file_facts(parent, recipe, path, plan, card)
            if facts.get("left_out"):
                facts["left_out"] = self._keys(parent, np.sort(chosen)[facts["left_out"]])
            if facts.get("in_float") and isinstance(parent, TorchCandidate):
                facts["in_float"] = by_module(facts["in_float"], parent, source)
            for line in _remarks(facts):
                self.progress.say(f"{name}: {line}")
            facts["seconds"] = round(time.monotonic() - began, 3)
            applied = Applied(step="export", params=params, parent=parent.digest, facts=facts)
            card = with_history(parent.card, parent, applied, name)
            card = card_for(card, recipe.precision, recipe.format)
            write_atomically(folder / "card.json", card.model_dump_json(indent=1))

        with self.times.phase(f"export {name}"):
            packages = (*toolchain_packages(recipe.format), *DECODERS)
            folder = self.store.once("export", inputs, make, packages=packages)
        card = Card.model_validate(read_json(folder / "card.json"))
        # not in the file, whose bytes depend on what it computes alone
        data = self.study.data
        finding = {"positive": data.positive, "normal": data.normal, "order": data.order}
        card = card.model_copy(update={"name": name} | finding)
        return open_file(folder / FILES[recipe.format][0], card, self.study.threads)

    def piece(
        self,
        name: str,
        network: Network,
        recipe: ExportRecipe,
        *,
        origin: Origin,
        parent: str | None,
        folder: str | None,
        control_of: str | None = None,
        because: str | None = None,
    ) -> Piece[Made]:
        """A network's file, written and opened, with the first stage of its record.

        Args:
            name: Of the candidate.
            network: What the file is made of.
            recipe: Of the file.
            origin: What made it.
            parent: Name of the candidate whose network it was made from.
            folder: Of the network's weights below the run folder.
            control_of: Of a control, what it is compared with.
            because: Why it was tried although the study does not name it.
        """
        file = self.export(name, network, recipe)
        facts = file.card.history[-1].facts
        if isinstance(network, FileNetwork):
            weights, multiplications = network.parameters, network.macs
        else:
            weights = parameters(network.module)
            multiplications = macs(network.module, network.card.input)
        record = Made(
            name=name,
            origin=origin,
            parent=parent,
            control_of=control_of,
            because=because,
            history=file.card.history,
            format=file.card.format,
            precision=file.card.precision,
            network=folder,
            path=file.path.relative_to(self.store.folder).as_posix(),
            digest=file.digest,
            file_bytes=file.file_bytes,
            parameters=weights,
            macs=multiplications,
            low_precision_operators=facts.get("operators", {}),
            parity=Parity.model_validate(facts["parity"]) if "parity" in facts else None,
        )
        return Piece(record, file, network)

    def _export_params(
        self, parent: Network, recipe: ExportRecipe
    ) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """What the history says of an export, and the calibration rows of the cache."""
        params: dict[str, Any] = recipe.model_dump(mode="json", exclude={"of"})
        if not precision_facts(recipe.precision).calibrated:
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
        parent: Network,
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
                tried=self._tried,
            )
            write_atomically(path, json.dumps(made, indent=1))
        plan: dict[str, Any] = read_json(path)
        return plan

    def _keys(self, parent: Network, rows: NDArray[np.int64]) -> list[str]:
        """Keys of training images by their rows in the cache."""
        train = self.data.rows("train", parent.card.input)
        keys = dict(zip(train.index.tolist(), train.keys, strict=True))
        return [keys[int(row)] for row in rows]

    def _file_facts(
        self, parent: Network, recipe: ExportRecipe, path: Path, plan: dict[str, Any], card: Card
    ) -> dict[str, Any]:
        """Parity with the parent on real images, and what really runs in low precision."""
        spec = parent.card.input
        rows = self.data.rows("validation", spec).index[:PARITY_IMAGES]
        images = self.data.cache(spec).take(rows)
        card = card_for(card, recipe.precision, recipe.format)
        loaded = open_made(path, card, self.study.threads, images[:1])
        agreement = parity(parent, loaded, images)
        facts = {"parity": agreement.model_dump()} | file_facts(recipe, path, plan)
        several = card.task == "multilabel"
        answers = agreement.images * (len(card.classes) if several else 1)
        if agreement.label_flips > UNLIKE * answers:
            what = "answers about findings in validation" if several else "validation"
            facts["unlike"] = (
                f"of {answers} {what} images, its network answers {agreement.label_flips} otherwise"
            )
        return facts


def gpus(formats: Iterable[str]) -> dict[str, Any]:
    """GPUs that run files of these formats here, as part of what their answers were made from.

    A run that goes on where there is a GPU, or no longer one, measures such files again.
    """
    names = sorted({place_of(name) for name in formats} - {""})
    return {"places": names} if names else {}


def _remarks(facts: Mapping[str, Any]) -> Iterator[str]:
    """What a person should know of a file that was made."""
    if facts.get("left_out"):
        yield _strange(facts["left_out"])
    if left := facts.get("in_float"):
        more = [f"{len(left) - NAMED} more, in the report"] if len(left) > NAMED else []
        yield f"stays in float, where {IN_FLOAT}: {joined([*left[:NAMED], *more])}"
    yield from (facts[key] for key in ("warning", "lost", "unlike") if key in facts)


def _strange(keys: Sequence[str]) -> str:
    """What to say of calibration images that were left out."""
    named = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    what = "image excites" if len(keys) == 1 else "images excite"
    return (
        f"{len(keys)} calibration {what} the network more than twice as much as the others and "
        f"had no say in its ranges; look whether they belong to the data: {named}"
    )


def _plan_once(step: Step, parent: Network, context: Context) -> dict[str, Any]:
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
