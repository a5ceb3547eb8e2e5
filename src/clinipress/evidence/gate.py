"""Rules and verdicts: whether a drop is proven to be small enough.

Margins are absolute and go by the risk level: critical 0.5 points, high 1, medium 2, low 5. A
candidate passes when the upper end of the two-sided 95 % interval of its drop is below the margin,
fails when the lower end is at or above it, and is inconclusive in between, where the number of
cases that would decide is said. The upper end of a two-sided 95 % interval is a one-sided 97.5 %
bound: stricter than a one-sided 5 % test, and what the mammography non-inferiority trials used.

Figures are compared as they are given, unrounded and without tolerance: a drop equal to the margin
does not pass. Whoever wants 0.962 - 0.957 to be 0.005 must work it out from counts, as the
evidence does; floating point makes it 0.0050000000000000044.

Needs neither numpy nor torch, so that a verdict can be drawn again anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval, RiskLevel, Rule, Status, Verdict
from clinipress.text import fixed

__all__ = ["MARGINS", "cases_to_decide", "judge", "relative_drop", "rules_for"]

MARGINS: Mapping[RiskLevel, float] = {"critical": 0.005, "high": 0.01, "medium": 0.02, "low": 0.05}
# a loss of m over all classes may lie in one of them; 4 m is where it is a matter of its own
CLASS_MARGIN_FACTOR = 4
POWER = 0.8
MOST_CASES = 10_000_000  # beyond this a number of cases is no advice


def rules_for(risk: RiskLevel) -> tuple[Rule, ...]:
    """What must hold at a risk level, the primary rule first.

    Accuracy decides. The guards stop a candidate only when its loss is shown: balanced accuracy
    and the area under the ROC curve with the same margin; "sensitivity[*]", every class by itself,
    with four times the margin, because the cases of one class are few and a loss of one point over
    all may be a loss of several in one class. A guard that cannot tell is noted and does not
    block: with six classes and a few hundred images no candidate would ever pass.
    """
    margin = MARGINS[risk]
    return (
        Rule(metric="accuracy", margin=margin),
        Rule(metric="balanced_accuracy", margin=margin, primary=False),
        Rule(metric="auroc_macro", margin=margin, primary=False),
        Rule(metric="sensitivity[*]", margin=CLASS_MARGIN_FACTOR * margin, primary=False),
    )


@dataclass(frozen=True)
class _Finding:
    """One rule applied to one drop."""

    status: Status
    sentence: str
    primary: bool
    cases: int | None = None

    @property
    def shows(self) -> Status | None:
        """Its status as a reason: a guard that cannot tell is noted and decides nothing."""
        return self.status if self.primary or self.status != "inconclusive" else None


def judge(
    rules: Sequence[Rule],
    drops: Mapping[str, Interval],
    *,
    discordance: Mapping[str, float] | None = None,
) -> Verdict:
    """Apply rules to paired drops.

    Args:
        rules: What must hold; those with ``primary`` decide, guards can only stop.
        drops: Metric -> reference minus candidate (`clinipress.evidence.evidence.drops`).
        discordance: Metric -> share of cases that only one of the two gets right
            (`clinipress.stats.paired.discordance`), for the number of cases needed; without it
            the width of the interval is used alone.

    Returns:
        "fail" when any rule shows its loss; else "inconclusive" when a primary rule cannot tell,
        was not measured or does not exist; else "pass". Reasons: a sentence per rule.
    """
    shares = discordance or {}
    findings = [_apply(rule, drops, shares) for rule in rules]
    deciding = [finding for finding in findings if finding.primary]
    reasons = [(finding.sentence, finding.shows) for finding in findings]
    open_questions = [finding for finding in deciding if finding.status == "inconclusive"]
    status: Status = "pass"
    if any(finding.status == "fail" for finding in findings):
        status = "fail"
    elif open_questions or not deciding:
        status = "inconclusive"
    if not deciding:
        missing = "No primary rule was declared, and what is not asked is not passed."
        reasons.append((missing, "inconclusive"))
    needed = [finding.cases for finding in open_questions]
    known = [number for number in needed if number is not None]
    complete = status == "inconclusive" and len(known) == len(needed)
    return Verdict(
        status=status,
        reasons=tuple(reason for reason, _ in reasons),
        reason_statuses=tuple(shown for _, shown in reasons),
        cases_needed=max(known, default=None) if complete else None,
    )


def relative_drop(drop: Interval, reference: Interval) -> float | None:
    """Drop as a share of the reference's own figure, unrounded, to be shown beside the other.

    Rules never look at it: a margin in points means the same whatever the reference reaches.

    Args:
        drop: Reference minus candidate.
        reference: The reference's figure.

    Returns:
        ``drop / reference``, or None where the reference's figure is 0.
    """
    return drop.value / reference.value if reference.value else None


def _apply(rule: Rule, drops: Mapping[str, Interval], shares: Mapping[str, float]) -> _Finding:
    """One finding for a rule; of a rule for every class, the finding of the worst one."""
    family, star, _ = rule.metric.partition("[*]")
    if not star:
        return _judge_one(rule, rule.metric, drops.get(rule.metric), shares.get(rule.metric))
    names = [name for name in drops if name.startswith(f"{family}[")]
    if not names:
        return _judge_one(rule, rule.metric, None, None)
    every = [_judge_one(rule, name, drops[name], shares.get(name)) for name in names]
    failed = [index for index, finding in enumerate(every) if finding.status == "fail"]
    unsure = [index for index, finding in enumerate(every) if finding.status == "inconclusive"]
    worst = max(
        failed or unsure or range(len(names)),
        key=lambda index: _loss(names[index], drops[names[index]]).value,
    )
    return every[worst]


def _judge_one(rule: Rule, name: str, drop: Interval | None, discordant: float | None) -> _Finding:
    label = metric_facts(name).label.replace(" for *", " of the classes")
    label = label[0].upper() + label[1:]
    unusable = _unusable(rule, drop)
    if drop is None or unusable:
        effect = "that is never a pass" if rule.primary else "this guard could not look"
        text = f"{label} was not measured{unusable}: {effect}."
        return _Finding("inconclusive", text, rule.primary)
    loss = _loss(name, drop)
    figures = _figures(name, label, loss, rule.margin)
    if loss.high < rule.margin:
        return _Finding("pass", f"{figures}: shown to be below it.", rule.primary)
    if loss.low >= rule.margin:
        guard = "" if rule.primary else " (a guard)"
        return _Finding("fail", f"{figures}: shown to reach or exceed it{guard}.", rule.primary)
    cases = cases_to_decide(loss, rule.margin, discordant)
    guard = "" if rule.primary else " (a guard: noted, not blocking)"
    advice = _advice(cases, loss.value < rule.margin)
    text = f"{figures}: too few cases to tell{guard}; {advice}."
    return _Finding("inconclusive", text, rule.primary, cases)


def _unusable(rule: Rule, drop: Interval | None) -> str:
    """Why an interval cannot be judged by a rule, as a clause; empty when it can."""
    if drop is None:
        return ""
    if not all(map(math.isfinite, (drop.value, drop.low, drop.high))):
        return " (its figures are not finite)"
    if not drop.low <= drop.value <= drop.high:
        return " (its interval does not contain it)"
    if drop.confidence < rule.confidence:
        return f" (its interval is {drop.confidence:.0%}, the rule asks for {rule.confidence:.0%})"
    return ""


def _loss(metric: str, drop: Interval) -> Interval:
    """The drop turned so that more is worse."""
    if metric_facts(metric).higher_is_better:
        return drop
    return drop.model_copy(update={"value": -drop.value, "low": -drop.high, "high": -drop.low})


def cases_to_decide(loss: Interval, margin: float, discordant: float | None = None) -> int | None:
    """Cases that would decide with 80 % power if the drop is what it seems.

    ``n = ((z_0.975 s_0 + z_0.80 s_1) / (margin - drop))^2``, roughly
    ``discordant (2.8 / (margin - drop))^2``, with the standard deviations of one case's difference
    if the drop were the margin (s_0, by Tango's constrained maximum likelihood, as the interval
    has it) and as it seems (s_1). The interval's width gives a second number,
    ``n (2.8 / 1.96 (end - drop) / (margin - drop))^2`` with the end that faces the margin, which
    carries the design effect of patients. The larger of the two is returned.

    Args:
        loss: The drop, more being worse.
        margin: Largest drop allowed.
        discordant: Share of cases that only one of the two classifiers gets right.

    Returns:
        A number of cases above those there were; None when it cannot be said: the drop is at the
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


def _deviations(drop: float, margin: float, discordant: float) -> tuple[float, float]:
    """Standard deviation of one case's difference: if the drop were the margin, and as it seems.

    The first by the quadratic of `clinipress.stats.paired.tango_score`, in shares (n = 1).
    """
    gained = max((discordant - drop) / 2, 0.0)
    b_term = (2 - drop) * margin - discordant
    share = ((b_term**2 + 8 * gained * margin * (1 - margin)) ** 0.5 - b_term) / 4
    at_margin = 2 * share + margin * (1 - margin)
    return at_margin**0.5, max(discordant - drop**2, 0.0) ** 0.5


def _advice(cases: int | None, may_pass: bool) -> str:
    if cases is None:
        return "no useful number of cases would decide"
    rounded = round(cases, 2 - len(str(cases))) if cases >= 100 else cases
    return f"about {rounded:,} would {'decide' if may_pass else 'show the loss'}"


def _figures(name: str, label: str, loss: Interval, margin: float) -> str:
    """'Accuracy fell by 0.6 points (95 % interval −0.9 to 2.1), the limit is 2.0'."""
    facts = metric_facts(name)
    value, low, high, limit = (
        facts.scale * figure for figure in (loss.value, loss.low, loss.high, margin)
    )
    digits = _digits((value, low, high), limit, least=1 if facts.unit else 3)
    worse, better = ("fell", "rose") if facts.higher_is_better else ("rose", "fell")
    unit = f" {facts.unit}" if facts.unit else ""
    moved = f"{worse} by {fixed(value, digits)}{unit}"
    span = f"{loss.confidence * 100:g} % interval"
    if value == 0:
        moved = "did not change"
    elif value < 0:
        moved = f"{better} by {fixed(-value, digits)}{unit}"
        span += " of the fall" if facts.higher_is_better else " of the rise"
    ends = f"{fixed(low, digits)} to {fixed(high, digits)}"
    return f"{label} {moved} ({span} {ends}), the limit is {fixed(limit, digits)}"


def _digits(figures: Sequence[float], limit: float, least: int) -> int:
    """Fewest decimals at which every figure still lies on its own side of the limit.

    At one decimal a drop of 1.98 points would read "2.0, the limit is 2.0: within it".
    """
    for digits in range(least, least + 4):
        shown = round(limit, digits)
        if all((round(x, digits) < shown) == (x < limit) for x in figures):
            return digits
    return least + 4
