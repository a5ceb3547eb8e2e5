"""Rules and verdicts: whether a loss is proven to be small enough.

Margins are absolute, positive and go by the risk level: critical 0.5 points, high 1, medium 2, low
5. The loss of a metric is its change turned so that more is worse. A candidate passes when the
upper end of the two-sided 95 % interval of the loss is below the margin, fails when the lower end
is at or above it, and is inconclusive in between, where the number of cases that would decide is
worked out. The upper end of a two-sided 95 % interval is a one-sided 97.5 % bound: stricter than a
one-sided 5 % test, and what the mammography non-inferiority trials used.

Figures are compared as they are given, unrounded and without tolerance: a loss equal to the margin
does not pass. Whoever wants 0.962 - 0.957 to be 0.005 must work it out from counts, as the
evidence does; floating point makes it 0.0050000000000000044.

Needs neither numpy nor torch, so that a verdict can be drawn again anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval, Reason, RiskLevel, Rule, Status, Verdict
from clinipress.reporting.wording.reasons import worded

__all__ = [
    "FEWEST_UNITS",
    "IDENTICAL",
    "MARGINS",
    "Primary",
    "cases_to_decide",
    "few_units",
    "floored",
    "judge",
    "loss_status",
    "relative_change",
    "rules_for",
    "settled",
]

MARGINS: Mapping[RiskLevel, float] = {"critical": 0.005, "high": 0.01, "medium": 0.02, "low": 0.05}
# a loss of m over all classes may lie in one of them; 4 m is where it is a matter of its own
CLASS_MARGIN_FACTOR = 4
# Kinds of reasons for which no verdict is better than inconclusive, whatever the rules show.
CAPS = frozenset(("rules changed", "no floor", "weak reference", "may have seen"))
Primary = Literal["auroc_macro", "sensitivity[*]"]
FEWEST_UNITS = 5  # what fewer patients carry gets no verdict
POWER = 0.8
MOST_CASES = 10_000_000  # beyond this a number of cases is no advice


# of two models whose answers are the same to the last digit
IDENTICAL = Verdict(status="pass", reasons=worded([Reason(kind="identical", status="pass")]))


def rules_for(
    risk: RiskLevel,
    margins: Mapping[str, float] | None = None,
    *,
    ordered: bool = False,
    several: Primary | None = None,
) -> tuple[Rule, ...]:
    """What must hold at a risk level, the primary rule first.

    Accuracy decides. The guards stop a candidate only when its loss is shown: balanced accuracy
    and the area under the ROC curve with the same margin; "sensitivity[*]", every class by itself,
    with four times the margin, because the cases of one class are few and a loss of one point over
    all may be a loss of several in one class. A guard that cannot tell is noted and does not
    block: with six classes and a few hundred images no candidate would ever pass.

    Where the classes are grades, a rise of the share of answers two grades off or more has to be
    shown to be small as well, with the same margin: of two models that are right equally often the
    one that takes none for severe is the worse. The quadratic weighted kappa is a guard.

    Where an image may show several findings, the mean area under their ROC curves decides, or the
    sensitivity of every finding at its threshold, as was chosen beforehand: the share of single
    labels right says nothing, for naming no finding at all is right in nine of ten. The area of
    each finding is a guard, and the worst of so many fails only where its loss is shown jointly
    (`judge`). Thresholds are chosen anew for each candidate: what that does is for the section of
    operating points, whose intervals know of it.

    Args:
        risk: The level.
        margins: Metric -> margin in place of the level's; of another metric, a guard more.
            "sensitivity[CLASS]" takes its class out of "sensitivity[*]".
        ordered: The classes are grades.
        several: What decides where an image may show several findings; None: it shows one class.
    """
    margin = MARGINS[risk]
    if several is not None:
        each = CLASS_MARGIN_FACTOR * margin
        limits: dict[str, float] = {several: margin if several == "auroc_macro" else each}
        limits |= {"auroc_macro": margin, "auroc[*]": each} | dict(margins or {})
        return tuple(
            Rule(metric=metric, margin=limit, primary=metric == several)
            for metric, limit in limits.items()
        )
    graded = ("two_off", "kappa_quadratic") if ordered else ()
    usual = dict.fromkeys(("accuracy", *graded, "balanced_accuracy", "auroc_macro"), margin)
    usual["sensitivity[*]"] = CLASS_MARGIN_FACTOR * margin
    return tuple(
        Rule(metric=metric, margin=limit, primary=metric in ("accuracy", "two_off"))
        for metric, limit in (usual | dict(margins or {})).items()
    )


@dataclass(frozen=True)
class _Applied:
    """One rule applied to one change.

    Attributes:
        outcome: What the figures show.
        loss: The largest, more being worse; None where nothing was measured.
        reason: The same for the record; a guard that cannot tell decides nothing there.
    """

    outcome: Status
    loss: float | None
    reason: Reason


def judge(
    rules: Sequence[Rule],
    changes: Mapping[str, Interval],
    *,
    discordance: Mapping[str, float] | None = None,
    units: Mapping[str, float] | None = None,
    joint: Mapping[str, Interval] | None = None,
) -> Verdict:
    """Apply rules to paired changes.

    Args:
        rules: What must hold; those with ``primary`` decide, guards can only stop.
        changes: Metric -> candidate minus reference (`clinipress.evidence.evidence.changes`).
        discordance: Metric -> share of cases that only one of the two gets right
            (`clinipress.stats.paired.discordance`), for the number of cases needed; without it
            the width of the interval is used alone.
        units: Metric -> effective number of units that carry it
            (`clinipress.evidence.evidence.carried_by`); below `FEWEST_UNITS` nothing is shown
            either way. What is not named has enough.
        joint: Metric -> change with the confidence at which all comparisons of its family hold
            together: a rule for every class fails only where it shows the loss. None: each alone.

    Returns:
        "fail" when any rule shows its loss; else "inconclusive" when a primary rule cannot tell,
        was not measured or does not exist; else "pass". A reason per rule.
    """
    shares = discordance or {}
    own = {rule.metric for rule in rules}
    rules = [rule for rule in rules if not _replaced(rule, changes, own)]
    applied = [
        each
        for rule in rules
        for each in _apply(rule, changes, shares, units or {}, own, joint or {})
    ]
    deciding = [each for each in applied if each.reason.rule == "primary"]
    reasons = [each.reason for each in applied]
    open_questions = [each for each in deciding if each.outcome == "inconclusive"]
    status: Status = "pass"
    if any(each.outcome == "fail" for each in applied):
        status = "fail"
    elif open_questions or not deciding:
        status = "inconclusive"
    if not deciding:
        reasons.append(Reason(kind="no primary rule", status="inconclusive"))
    needed = [each.reason.cases for each in open_questions]
    known = [number for number in needed if number is not None]
    complete = status == "inconclusive" and len(known) == len(needed)
    return Verdict(
        status=status,
        reasons=worded(reasons),
        cases_needed=max(known, default=None) if complete else None,
    )


def floored(
    floors: Mapping[str, float],
    figures: Mapping[str, Interval],
    units: Mapping[str, float] | None = None,
) -> list[Reason]:
    """What the figures of a candidate say of floors, each of which has to be met.

    Args:
        floors: Metric -> least figure, which the lower end of the interval must lie above.
        figures: Metric -> the candidate's figure.
        units: As `judge` takes them: what too few carry meets no floor and misses none.
    """
    carried = units or {}
    return [
        _on_floor(metric, least, figures.get(metric), carried.get(metric, FEWEST_UNITS))
        for metric, least in floors.items()
    ]


def _on_floor(metric: str, least: float, figure: Interval | None, units: float) -> Reason:
    family, _, where = metric.partition("[")
    status: Status = "inconclusive"
    if figure is not None and all(map(math.isfinite, (figure.value, figure.low, figure.high))):
        if units >= FEWEST_UNITS:
            status = "pass" if figure.low > least else "fail" if figure.high < least else status
    else:
        figure = None
    return Reason(
        kind="floor",
        status=status,
        rule="primary",
        metric=family,
        where=where.removesuffix("]") or None,
        interval=figure,
        limit=least,
        parameters={"units": round(units, 1)} if units < FEWEST_UNITS else {},
    )


def settled(verdict: Verdict, floors: Sequence[Reason], caps: Sequence[Reason]) -> Verdict:
    """The verdict of the rules about loss with that of the floors, under its caps.

    Args:
        verdict: Of the rules and guards.
        floors: Of `floored`.
        caps: Reasons of the kinds in `CAPS`: with one, no verdict is better than inconclusive.
    """
    if not floors and not caps:
        return verdict
    statuses = {verdict.status, *(reason.status for reason in (*floors, *caps))}
    grave: tuple[Status, ...] = ("fail", "inconclusive", "pass")
    unsettled = caps or any(reason.status == "inconclusive" for reason in floors)
    return Verdict(
        status=next(status for status in grave if status in statuses),
        reasons=(*verdict.reasons, *worded(floors), *worded(caps)),
        cases_needed=None if unsettled else verdict.cases_needed,
    )


def loss_status(verdict: Verdict) -> Status:
    """What rules, guards and floors show, the caps left aside: candidates are chosen by it."""
    others = [reason for reason in verdict.reasons if reason.kind not in CAPS]
    if verdict.status != "inconclusive" or len(others) == len(verdict.reasons):
        return verdict.status
    return "inconclusive" if any(r.status == "inconclusive" for r in others) else "pass"


def relative_change(change: Interval, reference: Interval) -> float | None:
    """Change as a share of the reference's own figure, unrounded, to be shown beside the other.

    Rules never look at it: a margin in points means the same whatever the reference reaches.

    Args:
        change: Candidate minus reference.
        reference: The reference's figure.

    Returns:
        ``change / reference``, or None where the reference's figure is 0.
    """
    return change.value / reference.value if reference.value else None


def _replaced(rule: Rule, changes: Mapping[str, Interval], own: Collection[str]) -> bool:
    """A rule for every class where each class has one of its own."""
    family, star, _ = rule.metric.partition("[*]")
    names = {name for name in changes if star and name.startswith(f"{family}[")}
    return bool(names) and names <= set(own)


def _apply(
    rule: Rule,
    changes: Mapping[str, Interval],
    shares: Mapping[str, float],
    units: Mapping[str, float],
    own: Collection[str],
    joint: Mapping[str, Interval],
) -> list[_Applied]:
    """A rule applied; one for every class without its own, after those that too few units carry."""
    family, star, _ = rule.metric.partition("[*]")
    names = [rule.metric]
    if star:
        # of findings that nobody shows, or nobody knows of, there is no change, but they are named
        unknown = [name for name, carried in units.items() if joint and not carried]
        every_class = [n for n in dict.fromkeys((*changes, *unknown)) if n.startswith(f"{family}[")]
        names = [name for name in every_class if name not in own] or names
    few = {name: units[name] for name in names if units.get(name, FEWEST_UNITS) < FEWEST_UNITS}
    every = [
        _together(
            _apply_to(rule, name, changes.get(name), shares.get(name)),
            rule,
            joint.get(name) if star else None,
        )
        for name in names
        if name not in few
    ]
    failed = [each for each in every if each.outcome == "fail"]
    unsure = [each for each in every if each.outcome == "inconclusive"]
    worst = [max(failed or unsure or every, key=lambda each: each.loss or 0.0)] if every else []
    unsaid = (
        [_Applied("inconclusive", None, few_units(rule, few, whole=bool(joint)))] if few else []
    )
    return [*unsaid, *worst]


def _together(alone: _Applied, rule: Rule, joint: Interval | None) -> _Applied:
    """A loss that is shown by itself, and not as one of so many, cannot tell."""
    if joint is None or alone.outcome != "fail":
        return alone
    if metric_facts(rule.metric).loss(joint).low >= rule.margin:
        shown = {"interval": joint}
        return _Applied("fail", alone.loss, alone.reason.model_copy(update=shown))
    status: Status | None = "inconclusive" if rule.primary else None
    update = {"interval": joint, "status": status}
    return _Applied("inconclusive", alone.loss, alone.reason.model_copy(update=update))


def few_units(rule: Rule, few: Mapping[str, float], *, whole: bool = False) -> Reason:
    """Why a rule has no verdict on figures of fewer than `FEWEST_UNITS`.

    Args:
        rule: What must hold.
        few: Metric, with its place -> effective units that carry it.
        whole: Each unit was counted as one.
    """
    places = {name.partition("[")[2].removesuffix("]"): round(n, 1) for name, n in few.items()}
    return Reason(
        kind="few units",
        status="inconclusive" if rule.primary else None,
        rule="primary" if rule.primary else "guard",
        metric=rule.metric.partition("[")[0],
        where=next(iter(places)) or None,
        limit=rule.margin,
        parameters={"units": places} | ({"whole": True} if whole else {}),
    )


def _apply_to(rule: Rule, name: str, change: Interval | None, discordant: float | None) -> _Applied:
    metric, _, where = name.partition("[")
    reason = Reason(
        kind="unmeasured",
        status="inconclusive" if rule.primary else None,
        rule="primary" if rule.primary else "guard",
        metric=metric,
        where=where.removesuffix("]") or None,
        limit=rule.margin,
        parameters=_unusable(rule, change),
    )
    if change is None or reason.parameters:
        size = None if change is None else metric_facts(name).loss(change).value
        return _Applied("inconclusive", size, reason)
    loss = metric_facts(name).loss(change)
    update: dict[str, Any] = {"kind": "margin", "interval": change}
    outcome: Status = "inconclusive"
    if loss.high < rule.margin:
        outcome = update["status"] = "pass"
    elif loss.low >= rule.margin:
        outcome = update["status"] = "fail"
    else:
        update["cases"] = cases_to_decide(loss, rule.margin, discordant)
    return _Applied(outcome, loss.value, reason.model_copy(update=update))


def _unusable(rule: Rule, change: Interval | None) -> dict[str, Any]:
    """Why an interval cannot be judged by a rule; empty when it can, or where there is none."""
    if change is None:
        return {}
    if not all(map(math.isfinite, (change.value, change.low, change.high))):
        return {"why": "not finite"}
    if not change.low <= change.value <= change.high:
        return {"why": "outside"}
    if change.confidence < rule.confidence:
        return {"why": "confidence", "confidence": change.confidence, "asked": rule.confidence}
    return {}


def cases_to_decide(loss: Interval, margin: float, discordant: float | None = None) -> int | None:
    """Cases that would decide with 80 % power if the loss is what it seems.

    ``n = ((z_0.975 s_0 + z_0.80 s_1) / (margin - loss))^2``, roughly
    ``discordant (2.8 / (margin - loss))^2``, with the standard deviations of one case's difference
    if the loss were the margin (s_0, by Tango's constrained maximum likelihood, as the interval
    has it) and as it seems (s_1). The interval's width gives a second number,
    ``n (2.8 / 1.96 (end - loss) / (margin - loss))^2`` with the end that faces the margin, which
    carries the design effect of patients. The larger of the two is returned.

    Args:
        loss: The change turned so that more is worse.
        margin: Largest loss allowed.
        discordant: Share of cases that only one of the two classifiers gets right.

    Returns:
        A number of cases above those there were; None when it cannot be said: the loss is at the
        margin, nothing says how the cases vary, or it is above ten million.
    """
    distance = abs(margin - loss.value)
    if not distance:
        return None
    z_bound, z_power = NormalDist().inv_cdf((1 + loss.confidence) / 2), NormalDist().inv_cdf(POWER)
    end = loss.high if loss.value < margin else loss.low
    seen = loss.n or 0
    needed = seen * ((1 + z_power / z_bound) * (end - loss.value) / distance) ** 2
    if discordant is not None:
        at_margin, as_seen = _deviations(loss.value, margin, discordant)
        needed = max(needed, ((z_bound * at_margin + z_power * as_seen) / distance) ** 2)
    if not 0 < needed <= MOST_CASES:
        return None
    return max(math.ceil(needed), seen + 1)


def _deviations(loss: float, margin: float, discordant: float) -> tuple[float, float]:
    """Standard deviation of one case's difference: if the loss were the margin, and as it seems.

    The first by the quadratic of `clinipress.stats.paired.tango_score`, in shares (n = 1).
    """
    gained = max((discordant - loss) / 2, 0.0)
    b_term = (2 - loss) * margin - discordant
    share = ((b_term**2 + 8 * gained * margin * (1 - margin)) ** 0.5 - b_term) / 4
    at_margin = 2 * share + margin * (1 - margin)
    return at_margin**0.5, max(discordant - loss**2, 0.0) ** 0.5
