"""From logits to a row of the report: evidence, drop, verdict, and which file is shipped.

The choice is made on validation and before the test split is opened. It takes, among the files
whose verdict is best (pass before inconclusive; a failed file is never shipped), the one with the
largest product of size and speed gains over the reference.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinipress import distributed, gate
from clinipress.edge.bundle import clearest, write_bundle
from clinipress.evaluate.calibration import fit_temperature, uncertain_threshold
from clinipress.evaluate.cost import macs, parameters
from clinipress.evaluate.evidence import drops, evidence
from clinipress.evaluate.measure import environment
from clinipress.evaluate.metrics import confusion
from clinipress.evaluate.paired import discordance
from clinipress.models.classifier import TorchCandidate
from clinipress.policy import objection
from clinipress.records import (
    CandidateRecord,
    Card,
    Interval,
    Latency,
    Parity,
    Result,
    Rule,
    TestOpening,
    Verdict,
)
from clinipress.report.build import write_report
from clinipress.report.limits import limits
from clinipress.report.view import View
from clinipress.runner import Runner
from clinipress.runtimes.onnx import OnnxCandidate
from clinipress.store import write_atomically
from clinipress.targets import find_target, fits

__all__ = ["Row", "Scorecard", "blocked", "choose", "summarise"]

Kind = Literal["reference", "step", "export", "control"]
RANK = {"pass": 0, "inconclusive": 1, "fail": 2}
FASTER = ("int8", "int8-dynamic", "mixed")  # precisions that promise time
NOISE = 0.05  # of a median of interleaved calls, between one run and the next


@dataclass
class Row:
    """A candidate and what is known of it so far; `to`: the row that a control is compared with."""

    name: str
    file: OnnxCandidate
    torch: TorchCandidate
    of: Kind
    to: str | None = None
    logits: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    evidence: dict[str, dict[str, Interval]] = field(default_factory=dict)
    drops: dict[str, dict[str, Interval]] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    scores: dict[str, Path] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    rejected: str | None = None
    because: str | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the most decisive split measured."""
        return self.verdicts.get("test") or self.verdicts.get("validation")


@dataclass
class Scorecard:
    """All rows of a study, judged against the first."""

    runner: Runner
    rules: tuple[Rule, ...]
    rows: list[Row] = field(default_factory=list)
    cases: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict)

    @property
    def reference(self) -> Row:
        """The root of every comparison."""
        return self.rows[0]

    def add_reference(self, file: OnnxCandidate, torch: TorchCandidate) -> None:
        """The first row."""
        self._add(Row("reference", file, torch, "reference"))

    def add(
        self,
        file: OnnxCandidate,
        torch: TorchCandidate,
        *,
        of: Kind,
        to: str | None = None,
        because: str | None = None,
    ) -> None:
        """Measure a file on validation and judge it against the reference.

        Args:
            file: The candidate.
            torch: The network it was made from.
            of: What it is.
            to: Name of the row that a control is compared with.
            because: Why it was tried although the study does not name it.
        """
        self._add(Row(file.card.name, file, torch, of, to, because=because))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        rows = self.runner.data.rows("validation", row.file.card.input)
        row.logits["validation"], row.scores["validation"] = self.runner.logits(
            row.file, "validation"
        )
        self._score(row, "validation", rows.labels, rows.units)

    def _score(
        self, row: Row, split: str, labels: NDArray[np.int64], units: NDArray[np.int64]
    ) -> None:
        study, classes = self.runner.study, row.file.card.classes
        self.cases[split] = labels, units
        root = None if row is self.reference else self.reference.logits[split]
        options: dict[str, Any] = {
            "units": units,
            "resamples": study.bootstrap,
            "seed": study.seed,
            "positive": study.data.positive,
        }
        logits = row.logits[split]
        row.evidence[split] = evidence(logits, labels, classes, reference=root, **options)
        row.confusion[split] = confusion(logits, labels, len(classes)).tolist()
        accuracy = row.evidence[split]["accuracy"]
        span = f"{accuracy.low:.1%} to {accuracy.high:.1%}"
        said = f"{row.name}: {split} accuracy {accuracy.value:.1%} ({span})"
        if root is not None:
            row.drops[split] = drops(root, logits, labels, classes, **options)
            found = discordance(root, logits, labels, classes)
            row.verdicts[split] = gate.judge(self.rules, row.drops[split], discordance=found)
            said += f", {row.verdicts[split].status}"
        self.runner.progress.say(said)

    def measure(self) -> None:
        """Latency, memory, size and arithmetic of every file."""
        found = self.runner.latencies([row.file for row in self.rows])
        for row in self.rows:
            row.cost = {**found[row.name], "file_bytes": row.file.path.stat().st_size}

    def open_test(self, names: Sequence[str], reason: str) -> None:
        """Score the finalists on the sealed test split."""
        rows, scores = self.runner.open_test(
            {row.name: row.file for row in self.rows if row.name in names}, reason
        )
        for row in self.rows:
            if row.name in scores:
                row.logits["test"], row.scores["test"] = scores[row.name]
                self._score(row, "test", rows.labels, rows.units)

    def control(self, row: Row) -> Row | None:
        """The row's control, if it has one."""
        return next((one for one in self.rows if one.to == row.name), None)

    def over_control(self, row: Row) -> dict[str, dict[str, Interval]]:
        """What the teacher gave: the row minus its control, paired, split -> metric -> interval."""
        control, study = self.control(row), self.runner.study
        if control is None:
            return {}
        found = {}
        for split in [name for name in row.logits if name in control.logits]:
            labels, units = self.cases[split]
            found[split] = drops(
                row.logits[split], control.logits[split], labels, row.file.card.classes,
                units=units, resamples=study.bootstrap, seed=study.seed,
                positive=study.data.positive,
            )  # fmt: skip
        return found

    def gain(self, row: Row) -> float:
        """Product of size and speed gains over the reference; larger is better."""
        root = self.reference.cost
        size = root["file_bytes"] / row.cost["file_bytes"]
        key = "with_preprocessing"
        return float(size * root[key]["median"] / row.cost[key]["median"])


def choose(card: Scorecard) -> tuple[str | None, tuple[str, ...]]:
    """The file to ship, decided on validation, and the finalists whose test scores are wanted.

    Returns:
        Name of the shipped candidate, and names of the finalists, the reference among them; None
        and none where every candidate failed or is barred.
    """
    able = []
    for row in card.rows[1:]:
        row.rejected = blocked(card, row)
        if row.rejected is None:
            able.append(row)
    if not able:
        return None, ()  # nothing to decide: the test split stays sealed
    controls = [found for row in able if (found := card.control(row)) is not None]
    finalists = (card.reference.name, *(row.name for row in [*able, *controls]))
    best = min(able, key=lambda row: (RANK[row.verdicts["validation"].status], -card.gain(row)))
    for row in able:
        if row is not best:
            row.rejected = _why_not(card, row, best)
    return best.name, finalists


def blocked(card: Scorecard, row: Row) -> str | None:
    """Why a row must not be shipped, whatever the others are; None where it may.

    A file in low precision has to be what it is named after, and not slower than the float32 file
    it was made from, where time is what its precision is for.
    """
    if row.to is not None:
        return f"A control: it is here to be compared with '{row.to}', never shipped."
    study, file = card.runner.study, row.file.card
    barred = objection(study.risk, file.history, file.precision)
    if barred:
        return barred
    warning = file.history[-1].facts.get("warning")
    if warning:
        return f"Named {file.precision}, but {warning}."
    verdict = row.verdicts["validation"]
    if verdict.status == "fail":
        return "Failed its gate on validation. " + " ".join(verdict.reasons[:1])
    if file.precision in FASTER and row.cost:
        parent = next(r for r in card.rows if r.torch is row.torch and r.of != "export")
        mine, other = (r.cost["latency"]["median"] for r in (row, parent))
        if mine > other * (1 + NOISE):
            return f"Slower than '{parent.name}' in float32: {mine:.2f} against {other:.2f} ms."
    if study.target is not None and row.cost:
        misfits = fits(
            find_target(study.target), row.cost["file_bytes"], row.cost["peak_memory"],
            file.format, file.precision,
        )  # fmt: skip
        if misfits:
            return capital_first("; ".join(misfits)) + "."
    return None


def capital_first(text: str) -> str:
    """With a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def _why_not(card: Scorecard, row: Row, best: Row) -> str:
    mine, other = row.verdicts["validation"].status, best.verdicts["validation"].status
    if RANK[mine] > RANK[other]:
        return f"'{best.name}' passed on validation; here the cases were too few to tell."
    return (
        f"'{best.name}' gains more: size times speed {card.gain(best):.0f}-fold over the "
        f"reference, here {card.gain(row):.0f}-fold."
    )


def summarise(card: Scorecard, shipped: str | None, out: Path) -> Result:
    """Write the bundle, result.json with its schema, and the report.

    Returns:
        The result as written.
    """
    study, data = card.runner.study, card.runner.data
    row = next((row for row in card.rows if row.name == shipped), None)
    nothing = "Nothing is shipped: each candidate failed on validation or is not allowed."
    none = Verdict(status="fail", reasons=(nothing,))
    if not study.open_test:  # nothing is decided: that nobody passed does not say that all failed
        nothing = "Nothing is shipped: the study asks to leave the test split sealed (open_test)."
        none = Verdict(status="inconclusive", reasons=(nothing,))
    verdict = (row.verdict if row else None) or none
    result = Result(
        study=study.name,
        risk=study.risk,
        synthetic=study.synthetic,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        recipe=study.model_dump(mode="json"),
        classes=data.classes,
        rules=card.rules,
        reference=card.reference.name,
        shipped=shipped,
        bundle="bundle" if row else None,
        verdict=verdict,
        candidates=tuple(_record(card, row, out) for row in card.rows),
        audit=data.audit,
        split=data.summary,
        test_openings=_openings(out),
        environment=environment(),
        seconds=card.runner.seconds,
    )
    result = result.model_copy(update={"limits": tuple(limits(View(result)))})
    if distributed.is_main():
        shutil.rmtree(out / "bundle", ignore_errors=True)  # of an earlier recipe in this folder
        if row:
            _ship(card, row, out, result)
        write_atomically(out / "result.json", result.model_dump_json(indent=1))
        schema = json.dumps(Result.model_json_schema(), indent=1)
        write_atomically(out / "result.schema.json", schema)
        write_report(result, out)
    return result


def _record(card: Scorecard, row: Row, out: Path) -> CandidateRecord:
    split = "test" if "test" in row.evidence else "validation"
    applied = row.file.card.history[-1]
    control = card.control(row)
    parent = None if row.of == "reference" else _parent_name(card, row)
    export_facts = applied.facts
    return CandidateRecord(
        name=row.name,
        parent=parent,
        history=row.file.card.history,
        format=row.file.card.format,
        precision=row.file.card.precision,
        path=row.file.path.relative_to(out).as_posix(),
        digest=row.file.digest,
        file_bytes=row.cost["file_bytes"],
        parameters=parameters(row.torch.module),
        macs=macs(row.torch.module, row.torch.card.input),
        latency_ms=Latency.model_validate(row.cost["latency"]),
        latency_with_preprocessing_ms=Latency.model_validate(row.cost["with_preprocessing"]),
        peak_memory_bytes=row.cost["peak_memory"],
        low_precision_operators=export_facts.get("operators", {}),
        evidence=row.evidence,
        confusion=row.confusion,
        drop=row.drops.get(split, {}),
        drop_split=split if row.drops else None,
        drops=row.drops,
        parity=Parity.model_validate(export_facts["parity"]) if "parity" in export_facts else None,
        verdict=row.verdict,
        rejected=row.rejected,
        because=row.because,
        per_image={split: path.relative_to(out).as_posix() for split, path in row.scores.items()},
        control=control.name if control else None,
        over_control=card.over_control(row),
    )


def _parent_name(card: Scorecard, row: Row) -> str | None:
    """The row whose weights this one's were made from."""
    before = card.rows[: card.rows.index(row)]
    digest = row.file.card.history[-1].parent if row.of == "export" else None
    if row.of in ("step", "control"):
        steps = [a for a in row.file.card.history if a.step != "export"]
        digest = steps[-1].parent
    names = [r.name for r in before if r.torch.digest == digest]
    return names[-1] if names else card.reference.name


def _openings(out: Path) -> tuple[TestOpening, ...]:
    log = out / "test_openings.jsonl"
    if not log.is_file():
        return ()
    lines = log.read_text(encoding="utf-8").splitlines()
    return tuple(TestOpening.model_validate_json(line) for line in lines if line.strip())


def _ship(card: Scorecard, row: Row, out: Path, result: Result) -> None:
    """The bundle: the file, its card with calibration, a sample image, hashes."""
    data, study = card.runner.data, card.runner.study
    rows = data.rows("validation", row.file.card.input)
    logits = row.logits["validation"]
    temperature = fit_temperature(logits, rows.labels)
    shipped: Card = row.file.card.model_copy(
        update={
            "temperature": temperature,
            "uncertain_below": uncertain_threshold(logits / temperature, rows.labels),
            "intended_use": study.intended_use,
            "positive": study.data.positive,
            "synthetic": study.synthetic,
        }
    )
    # an image the file is sure of: a self-test must not hang on the last digit
    sample = data.cache(row.file.card.input).take(rows.index[[clearest(logits)]])[0]
    summary = {
        "study": study.name,
        "risk": study.risk,
        "verdict": result.verdict.model_dump(mode="json"),
        "evidence": {s: {k: v.model_dump() for k, v in e.items()} for s, e in row.evidence.items()},
        "drop": {s: {k: v.model_dump() for k, v in d.items()} for s, d in row.drops.items()},
    }
    write_bundle(out / "bundle", row.file.path, shipped, sample=sample, evidence=summary)
