"""Operating points: what a threshold chosen on validation gives on other images.

Two-class tasks are looked at for the finding alone, since the other class is its mirror image; with
more classes each is one against the rest. Where one of them is normal, its row is that of any
finding against none. The interval of a rate is that of the threshold as it
is. Two classifiers with thresholds of their own differ for one more reason, that either was set by
the chance of its validation images; the interval of a change between them has that too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import DataError
from clinipress.evidence.calibration import Together, called_together, thresholds
from clinipress.evidence.evidence import unchanged
from clinipress.evidence.family import (
    ITSELF,
    check_pair,
    check_same_images,
    combine,
    identical,
    joint_confidence,
    judge_family,
)
from clinipress.evidence.gate import CLASS_MARGIN_FACTOR, IDENTICAL
from clinipress.evidence.scores import Scores
from clinipress.records.judgement import OperatingRow, OperatingSection
from clinipress.records.result import Interval, Reason, Rule, Verdict
from clinipress.reporting.wording.reasons import worded
from clinipress.stats.intervals import effective_units, proportion, resample, t_value, unit_index
from clinipress.stats.paired import paired_difference
from clinipress.stats.predictive import complement, predictive_value

__all__ = ["operating_section"]

Integers = NDArray[np.int64]
RESAMPLES = 200  # of validation: only a standard deviation is asked of them


def operating_section(
    reference_validation: Scores,
    candidate_validation: Scores,
    reference: Scores,
    candidate: Scores,
    *,
    prevalence: Mapping[str, float] | None = None,
    aims: Sequence[float] = (0.95,),
    margin: float,
    class_margins: Mapping[str, float] | None = None,
    chosen_on: str = "validation",
    seed: int = 0,
) -> OperatingSection:
    """Sensitivity at a fixed specificity and the reverse, of a candidate beside its reference.

    Thresholds are on calibrated probabilities and the same as those a bundle's card carries
    (`clinipress.evidence.calibration.thresholds`). Sensitivity and specificity have Wilson's
    interval, their changes Tango's, a patient or cluster counting as far as its images tell more
    than one; predictive values `predictive_value`. With own thresholds, each end of a change is
    moved out to ``sqrt(d^2 + (t s)^2)``, d being its distance by Tango and s the standard deviation
    of the change when both thresholds are chosen again on 200 resamples of validation, widened by
    sqrt(m / (m - 1)), and t Student's for the m effective units that a threshold hangs on. Without,
    two equally good classifiers that differ in one answer of ten were failed in 23 % of simulated
    studies at the narrowest margin.

    What is judged: with the candidate's own thresholds, the sensitivity at the threshold for a
    specificity and the specificity at the threshold for a sensitivity, of every class, each
    against `CLASS_MARGIN_FACTOR` times the margin (`clinipress.evidence.family`). With the
    reference's thresholds kept, a loss is told and not judged: no bundle carries them.

    Args:
        reference_validation: The reference's answers that its thresholds are chosen on.
        candidate_validation: The candidate's.
        reference: The reference's answers on the split that is looked at.
        candidate: The candidate's on the same images; the very same object for the reference
            itself, which then has neither changes nor rows with kept thresholds.
        prevalence: Class -> its share where the model will be used; what is not named, and
            everything with None, takes its share of the split.
        aims: Sensitivities and specificities aimed at, each inside (0, 1).
        margin: Largest loss of accuracy allowed, a share.
        class_margins: Class -> largest loss of its sensitivity, in place of the factor above.
        chosen_on: What the validation split is called.
        seed: Of the resamples of validation.

    Returns:
        The section; a class without an image, or without one of another class, has no row.

    Raises:
        DataError: Answers that do not belong together, an aim or a prevalence outside (0, 1), a
            prevalence of an unknown class.
    """
    check = check_same_images if reference.several else check_pair
    check(reference, candidate)
    check(reference_validation, candidate_validation)
    if reference_validation.classes != reference.classes:
        raise DataError("the same classes in both splits", ", ".join(reference_validation.classes))
    shares = dict(prevalence or {})
    _check_shares(shares, aims, reference.classes)
    itself = candidate is reference
    lines: list[_Line] = []
    same = identical(reference, candidate) and identical(reference_validation, candidate_validation)
    both = (reference, candidate), (reference_validation, candidate_validation)
    for target in _targets(reference):
        pair, validation = (_Pair.of(target, *answers) for answers in both)
        if not len(pair.mine):  # of a finding that this set does not know
            continue
        share = _declared(shares, reference, target)
        share = float(pair.mine.mean()) if share is None else share
        if pair.two_sided and validation.two_sided:
            for aim in aims:
                lines += _lines(pair, validation, aim, share, seed, itself=itself)
    rows = tuple(_unchanged(line.row) if same and not itself else line.row for line in lines)
    verdict = (
        ITSELF
        if itself
        else IDENTICAL
        if same
        else _verdict(lines, margin, class_margins or {}, reference.several)
    )
    return OperatingSection(chosen_on=chosen_on, declared=bool(shares), rows=rows, verdict=verdict)


def _targets(scores: Scores) -> list[Together]:
    """What thresholds call: classes, or each finding by itself."""
    if scores.several:
        return [Together(name, (number,)) for number, name in enumerate(scores.classes)]
    targets = called_together(scores.classes, normal=scores.normal, order=scores.order)
    two = scores.positive is not None and len(targets) == 2
    return [t for t in targets if t.label == scores.positive] if two else targets


def _declared(shares: Mapping[str, float], scores: Scores, target: Together) -> float | None:
    """Share of the classes together where the model will be used; None where it does not follow."""
    classes = scores.classes
    if scores.several:
        return shares.get(target.label)
    mine = [name for number, name in enumerate(classes) if number in target.columns]
    others = [name for name in classes if name not in mine]
    if target.complement is None and shares.keys() >= set(mine):
        return sum(shares[name] for name in mine)
    follows = len(others) == 1 or len(mine) > 1
    return 1 - sum(shares[n] for n in others) if follows and shares.keys() >= set(others) else None


def _unchanged(row: OperatingRow) -> OperatingRow:
    ends = ("sensitivity_change", "specificity_change")
    known = {name: getattr(row, name) for name in ends}
    return row.model_copy(
        update={name: change and unchanged(change) for name, change in known.items()}
    )


def _check_shares(shares: Mapping[str, float], aims: Sequence[float], names: Sequence[str]) -> None:
    wrong = [share for share in (*aims, *shares.values()) if not 0 < share < 1]
    if wrong or not aims:
        raise DataError("aims and prevalences between 0 and 1", f"{wrong[0] if wrong else 'none'}")
    unknown = sorted(set(shares) - set(names))
    if unknown:
        raise DataError(f"prevalences of {', '.join(names)}", f"one of '{unknown[0]}'")


@dataclass(frozen=True)
class _Pair:
    """One class, or all others, in the answers of both: probabilities ``[n]``, truth ``[n]``."""

    label: str
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    mine: NDArray[np.bool_]
    units: Integers
    keys: tuple[str, ...]

    @classmethod
    def of(cls, target: Together, reference: Scores, candidate: Scores) -> _Pair:
        before, after = (target.chances(s.probabilities) for s in (reference, candidate))
        if reference.several:  # of the images of which it is known
            truth = reference.labels[:, target.columns[0]]
            rows = np.flatnonzero(truth >= 0)
            mine = truth[rows] == 1
        else:
            rows, mine = np.arange(len(reference.keys)), target.of(reference.labels)
        return cls(
            target.label,
            before[rows],
            after[rows],
            mine,
            unit_index(reference.units[rows], len(rows)),
            tuple(reference.keys[row] for row in rows),
        )

    @property
    def two_sided(self) -> bool:
        return bool(self.mine.any() and not self.mine.all())


@dataclass(frozen=True)
class _Line:
    """A row, and the calls it was counted from.

    Attributes:
        row: What is shown.
        pair: The class.
        known: What the reference calls at its own threshold, bool ``[n]``.
        called: What the candidate calls.
        moved: "sensitivity" and "specificity" -> standard deviation of the change from choosing
            thresholds again; 0 where the threshold was kept.
        freedom: Of that deviation: one less than the effective validation units that the threshold
            hangs on.
    """

    row: OperatingRow
    pair: _Pair
    known: NDArray[np.bool_]
    called: NDArray[np.bool_]
    moved: Mapping[str, float]
    freedom: float

    @property
    def fixed(self) -> str:
        """What the threshold was chosen for: "sensitivity" or "specificity"."""
        return self.row.aim.partition(" ")[0]

    @property
    def carried(self) -> float:
        """Effective units of the images that what it may cost is a share of."""
        mine = self.pair.mine if _OTHER[self.fixed] == "sensitivity" else ~self.pair.mine
        return effective_units(self.pair.units[mine])

    def change(self, what: str, confidence: float = 0.95) -> Interval | None:
        """Of the class's own images called, or of the others not called."""
        mine = self.pair.mine
        if what == "sensitivity":
            before, after, units = self.known[mine], self.called[mine], self.pair.units[mine]
        else:
            before, after = ~self.known[~mine], ~self.called[~mine]
            units = self.pair.units[~mine]
        interval = paired_difference(after, before, units, confidence)
        if interval is None or not self.moved[what]:
            return interval
        more = t_value(self.freedom, confidence) * self.moved[what]
        down, up = (np.hypot(end - interval.value, more) for end in (interval.low, interval.high))
        update = {
            "low": max(float(interval.value - down), -1.0),
            "high": min(float(interval.value + up), 1.0),
            "method": f"{interval.method}, thresholds resampled",
        }
        return interval.model_copy(update=update)


def _lines(
    pair: _Pair, validation: _Pair, aim: float, share: float, seed: int, *, itself: bool
) -> Iterator[_Line]:
    """Own threshold, then the reference's, for each kind of aim."""
    kept = thresholds(validation.before[validation.mine], validation.before[~validation.mine], aim)
    own = thresholds(validation.after[validation.mine], validation.after[~validation.mine], aim)
    still = dict.fromkeys(own, 0.0)
    moved = dict.fromkeys(own, still) if itself else _moved(pair, validation, aim, seed)
    for what in own:
        known = pair.before >= kept[what]
        freedom = _carrying(validation, what) - 1
        name = f"{what} {aim:g}"
        line = partial(_line, pair, name, share=share, known=known, freedom=freedom, itself=itself)
        yield line(own[what], moved=moved[what], kept=False)
        if not itself:
            yield line(kept[what], moved=still, kept=True)


def _carrying(validation: _Pair, what: str) -> float:
    """Effective units of the images whose share a threshold fixes; 2 at the least."""
    side = validation.mine if what == "sensitivity" else ~validation.mine
    return max(effective_units(validation.units[side]), 2.0)


def _moved(pair: _Pair, validation: _Pair, aim: float, seed: int) -> dict[str, dict[str, float]]:
    """What is fixed -> "sensitivity" and "specificity" -> `_Line.moved`."""
    mine = validation.mine
    blocks = [
        counts[validation.units]
        for counts in resample(validation.units, mine.astype(np.int64), RESAMPLES, seed)
    ]
    weights = np.concatenate(blocks, axis=1)
    drawn = [
        {
            "sensitivity": _quantiles(scores[mine], weights[mine], 1 - aim, above=True),
            "specificity": _quantiles(scores[~mine], weights[~mine], aim, above=False),
        }
        for scores in (validation.before, validation.after)
    ]
    deviations: dict[str, dict[str, float]] = {}
    for what in drawn[0]:
        called = [
            [_share_at(scores[side], cuts[what]) for side in (pair.mine, ~pair.mine)]
            for scores, cuts in zip((pair.before, pair.after), drawn, strict=True)
        ]
        # resamples of m units vary by (m - 1) / m of the variance between units
        carrying = _carrying(validation, what)
        wider = (carrying / (carrying - 1)) ** 0.5
        sensitivity, specificity = (
            wider * float(np.std(before - after)) for before, after in zip(*called, strict=True)
        )
        deviations[what] = {"sensitivity": sensitivity, "specificity": specificity}
    return deviations


def _quantiles(
    scores: NDArray[np.float64], weights: NDArray[np.float64], share: float, *, above: bool
) -> NDArray[np.float64]:
    """What `thresholds` chooses from scores ``[n]`` that were drawn ``[n, m]`` times, ``[m]``."""
    order = np.argsort(scores, kind="stable")
    so_far = np.cumsum(weights[order], axis=0)
    goal = share * so_far[-1]
    reached = so_far > goal + 1e-9 if above else so_far >= goal - 1e-9
    cuts = scores[order][reached.argmax(axis=0)]
    return np.asarray(cuts if above else np.nextafter(cuts, 2.0))


def _share_at(scores: NDArray[np.float64], cuts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of scores at or above each of many thresholds."""
    return np.asarray(1 - np.searchsorted(np.sort(scores), cuts, side="left") / len(scores))


def _line(
    pair: _Pair,
    aim: str,
    threshold: float,
    *,
    share: float,
    known: NDArray[np.bool_],
    moved: Mapping[str, float],
    freedom: float,
    kept: bool,
    itself: bool,
) -> _Line:
    called, mine, units = pair.after >= threshold, pair.mine, pair.units
    sensitivity = proportion(called[mine], units[mine])
    specificity = proportion(~called[~mine], units[~mine])
    if sensitivity is None or specificity is None:  # only classes with both sides come here
        raise DataError(f"images of '{pair.label}' and of others", "none on one side")
    row = OperatingRow(
        label=pair.label,
        aim=aim,
        kept=kept,
        threshold=threshold,
        sensitivity=sensitivity,
        specificity=specificity,
        ppv=predictive_value(sensitivity, complement(specificity), share),
        npv=predictive_value(specificity, complement(sensitivity), 1 - share),
        prevalence=share,
        positives=int(mine.sum()),
        missed=int((mine & ~called).sum()),
    )
    line = _Line(row, pair, known, called, moved, freedom)
    if itself:
        return line
    new = np.flatnonzero(mine & known & ~called)
    surest = new[np.argsort(pair.after[new], kind="stable")]
    compared = {
        "sensitivity_change": line.change("sensitivity"),
        "specificity_change": line.change("specificity"),
        "missed_by_reference": int((mine & ~known).sum()),
        "newly_missed": tuple(pair.keys[i] for i in surest),
    }
    return replace(line, row=row.model_copy(update=compared))


def _verdict(
    lines: Sequence[_Line], margin: float, class_margins: Mapping[str, float], several: bool
) -> Verdict:
    own = [line for line in lines if not line.row.kept]
    if not own:
        reason = Reason(
            kind="no threshold",
            status="inconclusive",
            rule="primary",
            parameters={"several": True} if several else {},
        )
        return Verdict(status="inconclusive", reasons=worded([reason]))
    verdict = _family(own, CLASS_MARGIN_FACTOR * margin, class_margins)
    kept = [line for line in lines if line.row.kept]
    notes = [_missed(own)]
    # noted, not judged: what would be lost if only the weights were exchanged
    if kept and _family(kept, CLASS_MARGIN_FACTOR * margin, class_margins).status == "fail":
        notes.append(Reason(kind="kept thresholds"))
    return verdict.model_copy(update={"reasons": (*verdict.reasons, *worded(notes))})


def _family(lines: Sequence[_Line], limit: float, class_margins: Mapping[str, float]) -> Verdict:
    """One verdict of all lines; a class with a margin of its own has a rule of its own."""
    plain, joint = _judged(lines, 0.95), _judged(lines, joint_confidence(len(lines)))
    carried = {_judged_name(line): line.carried for line in lines}
    apart = {
        _judged_name(line): class_margins[line.row.label]
        for line in lines
        if line.row.label in class_margins and _OTHER[line.fixed] == "sensitivity"
    }
    rest, rest_joint = (
        {name: change for name, change in changes.items() if name not in apart}
        for changes in (plain, joint)
    )
    rules = [Rule(metric=f"{what}[*]", margin=limit) for what in _OTHER.values()]
    verdicts = [judge_family(rules, rest, rest_joint, carried)] if rest else []
    verdicts += [
        judge_family([Rule(metric=name, margin=least)], plain, joint, carried)
        for name, least in apart.items()
    ]
    return combine([(verdict, True) for verdict in verdicts])


# what a threshold fixes -> what it may cost
_OTHER = {"specificity": "sensitivity", "sensitivity": "specificity"}


def _judged(lines: Sequence[_Line], confidence: float) -> dict[str, Interval]:
    """The changes that are judged, by a name that reads well in a sentence."""
    changes = {_judged_name(x): x.change(_OTHER[x.fixed], confidence) for x in lines}
    return {name: change for name, change in changes.items() if change is not None}


def _judged_name(line: _Line) -> str:
    aim = float(line.row.aim.partition(" ")[2])
    where = f"{line.row.label} at the threshold for {100 * aim:g}% {line.fixed}"
    return f"{_OTHER[line.fixed]}[{where}]"


def _missed(own: Sequence[_Line]) -> Reason:
    """The row with most new misses, counted."""
    row = max(own, key=lambda line: len(line.row.newly_missed)).row
    fixed, _, aim = row.aim.partition(" ")
    return Reason(
        kind="missed",
        where=row.label,
        parameters={
            "fixed": fixed,
            "aim": float(aim),
            "positives": row.positives,
            "missed": row.missed,
            "missed_by_reference": row.missed_by_reference,
            "newly_missed": len(row.newly_missed),
        },
    )
