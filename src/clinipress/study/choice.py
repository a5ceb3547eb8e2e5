"""Which file is shipped to which device, and what to try where none may be; on validation alone.

Among the files whose verdict is best (pass before inconclusive; a failed file is never shipped) and
that fit the device, the fastest here is taken, and the smallest of those that are equally fast; for
a device whose engine is not on this machine, the precision that is listed first for it, then the
smallest file. Without a device: the largest product of size and speed gains over the reference.
Where this machine was too busy to measure times, nothing is chosen or passed over by them.

Where no low-precision file may be shipped, the policy's ladder is climbed rung by rung: int8 after
training -> the worst layers in float -> quantization-aware training -> float16. Each rung is
measured and judged like anything the study names; what was made before stays, and the best of all
is shipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clinipress.evidence.gate import loss_status
from clinipress.recipe.formats import format_facts
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import CandidateRecord, Judged, extended
from clinipress.records.result import RiskLevel, TargetOutcome
from clinipress.study.devices import Target, fits, unknown
from clinipress.study.policy import next_steps, objection
from clinipress.text import capital

__all__ = ["NOTHING", "Attempt", "Choice", "choose", "chosen", "next_attempt", "objection_to"]

RANK = {"pass": 0, "inconclusive": 1, "fail": 2}
FASTER = ("int8", "int8-dynamic", "mixed")  # precisions that promise time
TOO_BUSY = "times were not compared, since this machine was too busy when they were measured"
NOISE = 0.05  # of a median of interleaved calls, between one run and the next


@dataclass(frozen=True)
class Choice:
    """What is shipped.

    Attributes:
        shipped: Name of the file for the first device that gets one, or None.
        finalists: Names of the candidates whose test scores are wanted; none where nothing is
            shipped, and the test split stays sealed.
        outcomes: One per device the study aims at.
        selected: Name -> devices it was chosen for; ("",) where the study names none.
        rejected: Name -> why it is not shipped.
    """

    shipped: str | None = None
    finalists: tuple[str, ...] = ()
    outcomes: tuple[TargetOutcome, ...] = ()
    selected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)


NOTHING = Choice()


@dataclass(frozen=True)
class Attempt:
    """One more thing to make.

    Attributes:
        train: Train for quantization first; the export is then of that network.
        export: The file to make.
        of: Name of the candidate whose network it is made of.
        because: The rest of a sentence that begins with "Tried because".
    """

    train: bool
    export: ExportRecipe
    of: str
    because: str

    @property
    def rung(self) -> str:
        """What is tried, in words."""
        return "quantization-aware training" if self.train else self.export.precision


def choose(judged: Sequence[Judged], risk: RiskLevel, targets: Sequence[Target] = ()) -> Choice:
    """Decide on validation.

    Args:
        judged: Every candidate, the reference first.
        risk: Of the study; its policy may bar a technique.
        targets: Devices of the study.
    """
    reference, *others = judged
    objections = {r.name: objection_to(r, judged, risk, targets) for r in others}
    able = [record for record in others if objections[record.name] is None]
    rejected = {name: reason for name, reason in objections.items() if reason is not None}
    devices: Sequence[Target | None] = targets or (None,)
    best = [(device, _best(reference, able, device)) for device in devices]
    outcomes = tuple(_outcome(judged, device, record) for device, record in best if device)
    shipped = [record for _, record in best if record is not None]
    if not shipped:  # nothing to decide: the test split stays sealed
        return Choice(outcomes=outcomes, rejected=rejected)
    believed = _reliable(*able)
    for record in able:
        if record not in shipped:
            reasons = (
                _why_not(reference, record, better, device, len(targets), believed)
                for device, better in best
                if better is not None and not _misfits(record, device)
            )
            rejected[record.name] = "; ".join(dict.fromkeys(reasons))
    controls = [record.control for record in able if record.control is not None]
    selected = {
        record.name: tuple(
            device.name if device else "" for device, better in best if better is record
        )
        for record in shipped
    }
    finalists = (reference.name, *(record.name for record in able), *controls)
    return Choice(shipped[0].name, finalists, outcomes, selected, rejected)


def chosen(record: Judged, choice: Choice) -> CandidateRecord:
    """The last stage of a record: what ``result.json`` holds of a candidate."""
    return extended(
        CandidateRecord,
        record,
        selected_for=choice.selected.get(record.name, ()),
        rejected=choice.rejected.get(record.name),
    )


def next_attempt(
    judged: Sequence[Judged],
    risk: RiskLevel,
    targets: Sequence[Target],
    exports: Sequence[ExportRecipe],
) -> Attempt | None:
    """The next rung, or None: a low-precision file may be shipped, or nothing is left to try.

    Nothing is tried where the network in float32 fails already or is barred: no precision mends it.

    Args:
        judged: Every candidate, the reference first.
        risk: Of the study.
        targets: Devices of the study.
        exports: Of the study; their calibration is kept.
    """
    made = [record for record in judged if record.origin == "export"]
    low = [record for record in made if next_steps(risk, (), record.precision)]
    if not low or any(objection_to(record, judged, risk, targets) is None for record in low):
        return None
    last = low[-1]
    whole = float_candidate(last, judged)
    if whole.verdict is not None and whole.verdict.status == "fail":
        return None
    if objection(risk, whole.history, whole.precision):
        return None  # and no file of it may be shipped either
    calibration = next((e for e in exports if e.precision == "int8"), ExportRecipe())
    because = f"'{last.name}' may not be shipped: {objection_to(last, judged, risk, targets)}"
    for rung in next_steps(risk, last.history, last.precision):
        train = rung == "qat"
        precision = "int8" if train else rung
        if precision not in format_facts(calibration.format).precisions:
            continue  # other toolchains have no "mixed", a microcontroller no float16
        plain = {"equalize": False, "smooth": None} if train else {}
        export = calibration.model_copy(update={"precision": precision} | plain)
        # one float16 file is enough: training for 8 bits does not make a better one
        done = any(
            rung == "float16" or record.parent == last.parent
            for record in made
            if record.precision == precision
        )
        if train or not done:
            return Attempt(train, export, whole.name, because)
    return None


def float_candidate(record: Judged, judged: Sequence[Judged]) -> Judged:
    """The float32 candidate of the network that a file is of: an export's parent, else itself."""
    if record.origin != "export":
        return record
    return next(other for other in judged if other.name == record.parent)


def objection_to(
    record: Judged, judged: Sequence[Judged], risk: RiskLevel, targets: Sequence[Target] = ()
) -> str | None:
    """Why a candidate must not be shipped, whatever the others are; None where it may.

    A file in low precision has to be what it is named after, and not slower than the float32 file
    it was made from, where time is what its precision is for. A file has to fit one of the devices
    of the study.
    """
    if record.control_of is not None:
        return f"A control: it is here to be compared with '{record.control_of}', never shipped."
    barred = objection(risk, record.history, record.precision)
    if barred:
        return barred
    warning = record.history[-1].facts.get("warning")
    if warning:
        return f"Named {record.precision}, but {warning}."
    if record.verdict is not None and record.verdict.status == "fail":
        return "Failed its gate on validation. " + " ".join(record.verdict.deciding[:1])
    return _slow(record, float_candidate(record, judged)) or _unfit(record, targets)


def _slow(record: Judged, whole: Judged) -> str | None:
    """Slower than in float32, in a precision that promises time."""
    mine, other = _median(record), _median(whole)
    if record.precision not in FASTER or mine is None or other is None:
        return None
    if not (_reliable(record) and _reliable(whole)):
        return None
    if mine <= other * (1 + NOISE):
        return None
    return f"Slower than '{whole.name}' in float32: {mine:.2f} against {other:.2f} ms."


def _unfit(record: Judged, targets: Sequence[Target]) -> str | None:
    """What speaks against every device."""
    misfits = [_misfits(record, target) for target in targets]
    if not misfits or not all(misfits):
        return None
    # the device's name stands in every sentence but of those about memory and time of few devices
    return capital("; ".join(dict.fromkeys(r for reasons in misfits for r in reasons))) + "."


def _misfits(record: Judged, target: Target | None) -> tuple[str, ...]:
    if target is None:
        return ()
    return fits(
        target, record.file_bytes, record.peak_memory_bytes, record.format, record.precision,
        _median(record) if _reliable(record) else None,
    )  # fmt: skip


def _median(record: Judged) -> float | None:
    return record.latency_ms.median if record.latency_ms else None


def _reliable(*records: Judged) -> bool:
    """False where the machine was too busy when some of them were timed."""
    return all(record.speed is None or record.speed.reliable for record in records)


def _best(reference: Judged, able: Sequence[Judged], target: Target | None) -> Judged | None:
    """The candidate to ship to a device."""
    fit = [record for record in able if not _misfits(record, target)]
    if not fit:
        return None
    rank = min(_rank(record) for record in fit)
    fit = [record for record in fit if _rank(record) == rank]
    believed = _reliable(*fit)
    if target is None:
        return max(fit, key=lambda record: gain(reference, record, by_time=believed))
    timed = [(median, record) for record in fit if (median := _median(record)) is not None]
    if not timed or not believed:
        order = target.precisions.index
        return min(fit, key=lambda record: (order(record.precision), record.file_bytes))
    limit = min(median for median, _ in timed) * (1 + NOISE)
    return min((record for median, record in timed if median <= limit), key=lambda r: r.file_bytes)


def _rank(record: Judged) -> int:
    """By what rules and floors show: what caps all verdicts of a study tells none from another."""
    return RANK[loss_status(record.verdict) if record.verdict else "inconclusive"]


def gain(reference: Judged, record: Judged, *, by_time: bool = True) -> float:
    """Product of size and speed gains over the reference; of size alone where it is untimed."""
    size = reference.file_bytes / record.file_bytes
    theirs, mine = reference.latency_with_preprocessing_ms, record.latency_with_preprocessing_ms
    return size * (theirs.median / mine.median if theirs and mine and by_time else 1.0)


def _why_not(
    reference: Judged,
    record: Judged,
    better: Judged,
    target: Target | None,
    devices: int,
    believed: bool,
) -> str:
    where = f" for {target.title}" if target and devices > 1 else ""
    if _rank(record) > _rank(better):
        return f"'{better.name}' passed on validation; here the cases were too few to tell."
    if not believed:
        return f"'{better.name}' comes first{where} by its size and precision; {TOO_BUSY}."
    if target is None:
        return (
            f"'{better.name}' gains more: size times speed {gain(reference, better):.0f}-fold over "
            f"the reference, here {gain(reference, record):.0f}-fold."
        )
    mine, other = _median(record), _median(better)
    if mine is None or other is None:
        return f"'{better.name}' is the better kind of file{where}, and was not timed here either."
    if mine > other * (1 + NOISE):
        return f"'{better.name}' is faster{where}: {other:.2f} against {mine:.2f} ms."
    return f"'{better.name}' is as fast and smaller{where}."


def _outcome(judged: Sequence[Judged], target: Target, best: Judged | None) -> TargetOutcome:
    tried = {record.format for record in judged}
    rest = tuple(name for name in target.formats if name not in tried)
    facts = {"name": target.name, "title": target.title, "runtime": target.runtime}
    if best is None:
        return TargetOutcome(**facts, shipped=None, formats_not_tried=rest)
    return TargetOutcome(
        **facts,
        shipped=best.name,
        unknown=unknown(target, best.peak_memory_bytes, _median(best) if _reliable(best) else None),
        formats_not_tried=rest,
    )
