"""The sentence of a reason, made from its facts: the one place where verdicts get their words.

The evidence says what it found in `clinipress.records.base.Reason`; `worded` gives each its
sentence, which is stored with it for readers that do not have this code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from clinipress.records.base import Interval, Reason
from clinipress.records.metrics import MetricFacts, metric_facts
from clinipress.records.result import RuleChange
from clinipress.reporting.wording.numbers import moment, probability
from clinipress.text import DASH, capital, class_words, counted, fixed, joined, signed

__all__ = ["OF_A_CLASS", "are", "changes_phrase", "reason_text", "worded"]

INCONCLUSIVE = "inconclusive"


def worded(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """The same reasons with the sentences that their facts make."""
    return tuple(reason.model_copy(update={"text": reason_text(reason)}) for reason in reasons)


def reason_text(reason: Reason) -> str:
    """The sentence of a reason; one of a kind that is not known here keeps what it has.

    Raises:
        KeyError: The reason lacks a parameter of its kind.
    """
    made = _SENTENCES.get(reason.kind)
    return reason.text if made is None else made(reason)


def are(number: int) -> str:
    """The verb that a count asks for: 'is' or 'are'."""
    return "is" if number == 1 else "are"


# --------------------------------------------------------------------------- a change and its limit


def _margin(reason: Reason) -> str:
    """'Accuracy fell by 0.6 points (95% CI of the change -2.1 to +0.9; allowed fall 2.0): ...'."""
    facts, change, limit = metric_facts(reason.metric or ""), _known(reason), reason.limit or 0.0
    loss = facts.loss(change)
    digits = _digits(loss, limit, facts)
    unit = f" {facts.unit}" if facts.unit else ""
    value = facts.scale * change.value
    moved = "did not change"
    if change.value:
        moved = f"{'rose' if value > 0 else 'fell'} by {fixed(abs(value), digits)}{unit}"
    return (
        f"{_worst_of(reason, 'comparison')}{_label(reason)} {moved} "
        f"({_interval(change, digits, facts.scale)}; {_allowed(facts, limit, digits)}): "
        f"{_outcome(reason, loss, limit)}."
    )


def _gap(reason: Reason) -> str:
    change, limit, gap = _known(reason), reason.limit or 0.0, reason.parameters
    digits = _digits(change, limit, _SHARE)
    before, after = (fixed(100 * gap[name], 1) for name in ("reference", "candidate"))
    return (
        f"{_worst_of(reason, 'gap')}The gap in {_facts(reason).label} between the groups of "
        f"{reason.where} (worst: {gap['worst']}) went from {before} to {after} points, a change of "
        f"{signed(100 * change.value, digits)} ({_interval(change, digits, 100)}; allowed rise "
        f"{fixed(100 * limit, digits)}): {_outcome(reason, change, limit)}."
    )


def _stress(reason: Reason) -> str:
    change, limit, stress = _known(reason), reason.limit or 0.0, reason.parameters
    bound = stress.get("bound")
    loss = change.turned
    digits = _digits(loss, limit, _SHARE)
    amount = f"by {fixed(abs(100 * change.value), digits)} points"
    than = "more than" if change.value < 0 else "less than"
    lowered = f"{amount} {than}" if change.value else "as much as"
    figures = (
        f"{capital(reason.where or '')} (strength {stress['strength']} of 5) lowered "
        f"{_facts(reason).label} {lowered} in the reference "
        f"({_interval(change, digits, 100)}; allowed fall {fixed(100 * limit, digits)})"
    )
    if bound is not None:
        at_least = fixed(100 * bound, _digits_of((bound,), limit, _SHARE))
        return (
            f"{figures}: at or beyond the limit (at least {at_least} when all "
            f"{stress['levels']} levels are looked at together)."
        )
    kinds, unsure = stress["kinds"], stress["unsure"]
    if not unsure:
        others = {1: "", 2: ", and so is that of the other disturbance"}
        rest = others.get(kinds, f", and so are those of the other {kinds - 1} disturbances")
        upto = f" up to strength {stress['judged']}"
        return f"{figures}: the whole interval is within the limit{rest}{upto}."
    advice = f"; about {reason.cases:,} would be needed" if reason.cases else ""
    return (
        f"{figures}: too few images to tell for {len(unsure)} of {kinds} disturbances "
        f"({', '.join(unsure)}){advice}."
    )


def _outcome(reason: Reason, loss: Interval, limit: float) -> str:
    """Where the interval lies, more being worse."""
    guard = reason.rule == "guard"
    if loss.high < limit:
        return "the whole interval is within the limit"
    if loss.low >= limit:
        return "the whole interval is at or beyond the limit" + (" (guard)" if guard else "")
    advice = "" if reason.kind == "gap" else f"; {_advice(reason.cases, loss.value < limit)}"
    return f"{INCONCLUSIVE}{' (guard, does not block)' if guard else ''}{advice}"


def _advice(cases: int | None, may_pass: bool) -> str:
    if cases is None:
        return "no useful number of cases would decide"
    rounded = round(cases, 2 - len(str(cases))) if cases >= 100 else cases
    return f"about {rounded:,} cases would be needed{'' if may_pass else ' to show the loss'}"


def _unmeasured(reason: Reason) -> str:
    why = reason.parameters.get("why", "")
    because = {
        "": "",
        "not finite": " (its figures are not finite)",
        "outside": " (its interval does not contain it)",
    }.get(why)
    if because is None:
        has, required = (100 * reason.parameters[name] for name in ("confidence", "asked"))
        because = f" (its interval is {has:g}%, the rule asks for {required:g}%)"
    effect = "so the candidate cannot pass"
    if reason.rule == "guard":
        effect = "so this guard was not evaluated"
    return f"{_label(reason)} was not measured{because}, {effect}."


def _no_primary_rule(_: Reason) -> str:
    return "No primary rule was declared, and what is not asked is not passed."


def _floor(reason: Reason) -> str:
    facts, least, figure = _facts(reason), reason.limit or 0.0, reason.interval
    floor = f"at least {fixed(facts.scale * least, 1 if facts.unit else 3)}{'%' * bool(facts.unit)}"
    if figure is None:
        return f"{_label(reason)} was not measured ({floor} is required): it cannot pass."
    digits = _digits_of((figure.value, figure.low, figure.high), least, facts)
    shown = _share(figure, digits) if facts.unit else _plain(figure)
    end = {
        "pass": "the whole interval is above the floor",
        "fail": "the whole interval is below the floor",
    }.get(reason.status or "", f"{INCONCLUSIVE}: the interval holds the floor")
    if "units" in reason.parameters:
        end = f"{INCONCLUSIVE}: too few patients or clusters carry it"
    return f"{_label(reason)} is {shown}; {floor} is required: {end}."


def _no_floor(reason: Reason) -> str:
    metric = "auroc_macro" if _several(reason) else "accuracy"
    return (
        f"At {reason.parameters['risk']} risk no verdict is better than {INCONCLUSIVE} without a "
        "floor: a small loss says nothing of how good the model is. Set 'floors' in the study, for "
        f"example floors: {{{metric}: 0.9}}."
    )


def _weak_reference(reason: Reason) -> str:
    facts = reason.parameters
    shown = "; ".join(facts["not_beaten"])
    return (
        f"The reference is not shown to be better than {joined(facts['than'])} ({shown}): that "
        f"little of it is lost says little, and no verdict is better than {INCONCLUSIVE}."
    )


def _may_have_seen(reason: Reason) -> str:
    shared = reason.parameters.get("shared", 0)
    beside = (
        f" {shared:,} images published beside them share a near-duplicate or a patient with them."
        if shared
        else ""
    )
    return (
        f"Nobody said that the original was trained on none of the test images.{beside} If it "
        f"was, its figures are too good, and so no verdict is better than {INCONCLUSIVE}. Name a "
        "test set of its own ('data.test'), or say 'reference.unseen: true' if it has seen none "
        "of them."
    )


def _rules_changed(reason: Reason) -> str:
    changes = [RuleChange.model_validate(change) for change in reason.parameters["changes"]]
    return f"{capital(changes_phrase(changes))}: no verdict is better than {INCONCLUSIVE}."


def changes_phrase(changes: Sequence[RuleChange]) -> str:
    """What was changed after the test images were read, and when, for the middle of a sentence."""
    seals = [change for change in changes if change.what == "seal"]
    others = [change for change in changes if change.what != "seal"]
    parts = [f"expected {change.before}, found {change.after}" for change in seals]
    if others:
        named = "; ".join(
            f"{change.what.replace('_', ' ')} from {change.before} to {change.after}"
            for change in others
        )
        parts.append(f"the rules were changed after the test images were read: {named}")
    return f"{'; '.join(parts)} (first seen {moment(changes[0].when)})"


def _itself(_: Reason) -> str:
    return "This is the reference itself: nothing was changed, so there is no loss to judge."


def _identical(_: Reason) -> str:
    return (
        "The answers are identical to the reference's, to the last digit of every probability: "
        "nothing can have been lost."
    )


def _few_units(reason: Reason) -> str:
    """Patients are counted by what they carry: one with most of the cases is little more than 1."""
    units: Mapping[str, float] = reason.parameters["units"]
    places = ", ".join(f"{name or 'all images'} ({count:g})" for name, count in units.items())
    counted_so = "" if reason.parameters.get("whole") else ", counted by their share of the images,"
    return (
        f"{capital(_facts(reason).label)}: {INCONCLUSIVE} where fewer than five patients or "
        f"clusters{counted_so} carry it: {places}."
    )


def _none_allowed(_: Reason) -> str:
    return (
        "Nothing is shipped: every candidate failed on validation or is barred by the risk policy."
    )


def _barred(reason: Reason) -> str:
    return f"{reason.where}: {reason.parameters['fix']}."


def _test_sealed(_: Reason) -> str:
    return "Nothing is shipped: the test split stays sealed (open_test: false)."


# ------------------------------------------------------------------------------- operating points


def _no_threshold(reason: Reason) -> str:
    return f"No {_noun(reason)} has images of its own and of others in both splits: no threshold."


def _missed(reason: Reason) -> str:
    row = reason.parameters
    new = row["newly_missed"]
    most = f"{new} of them newly missed" if new else "none of them newly missed"
    return (
        f"At the threshold for {100 * row['aim']:g}% {row['fixed']}, {row['missed']} of "
        f"{counted(row['positives'], 'image')} of {_class(reason)} {are(row['missed'])} missed "
        f"({row['missed_by_reference']} by the reference), {most}."
    )


def _kept_thresholds(_: Reason) -> str:
    return (
        "With the thresholds of the reference kept, a loss would be shown: exchange thresholds and "
        "weights together."
    )


# ------------------------------------------------------------------------------------ calibration


def _calibration_error(reason: Reason) -> str:
    before, after = (
        Interval.model_validate(reason.parameters[name]) for name in ("before", "after")
    )
    stated = "Confidence differs from observed accuracy"
    if _several(reason):
        stated = "The stated chance that a finding is present differs from how often it is"
    return (
        f"{stated} by {_share(after)} on average with temperature scaling, by {_share(before)} "
        "without."
    )


def _calibration_slope(reason: Reason) -> str:
    slope = _known(reason)
    value, low, high = (fixed(x, 2) for x in (slope.value, slope.low, slope.high))
    return (
        f"The calibration slope is {value} ({low} to {high}); 1 is right, below 1 the answers are "
        "over-confident."
    )


# -------------------------------------------------------------------------------------- subgroups


def _no_groups(reason: Reason) -> str:
    names = ", ".join(f"{name}: {why}" for name, why in reason.parameters["left_out"].items())
    no = f"no column that divides the images into groups ({names})" if names else "no metadata"
    return f"The set says nothing of its patients ({no}): no groups to compare."


def _no_gap(_: Reason) -> str:
    return "No column has two groups large enough to compare."


def _small_groups(reason: Reason) -> str:
    groups: Mapping[str, int] = reason.parameters["groups"]
    names = ", ".join(f"{name} ({cases})" for name, cases in groups.items())
    return f"Too few images to judge: {names}."


# ----------------------------------------------------------------------------------- disagreement


def _agreement(reason: Reason) -> str:
    share, least = _known(reason), reason.limit or 0.0
    end = f"{INCONCLUSIVE}: more cases are needed"
    if share.high < least:
        end = "the whole interval is below it"
    elif share.low >= least:
        end = "the whole interval is at or above it"
    digits = _digits_of((share.value, share.low, share.high), least, _SHARE)
    images = reason.parameters["images"]
    answers = counted(images, "image")
    if _several(reason):
        answers = counted(images, "pair of image and finding", "pairs of image and finding")
    return (
        f"The two models give the same answer in {_share(share, digits)} of {answers}; at least "
        f"{100 * least:g}% is required: {end}."
    )


def _flips(reason: Reason) -> str:
    flips = reason.parameters
    total = flips["lost"] + flips["gained"] + flips["changed"]
    return (
        f"{counted(total, 'answer')} changed: {flips['lost']} from right to wrong, "
        f"{flips['gained']} from wrong to right, {flips['changed']} from one wrong answer to "
        "another."
    )


def _new_misses(reason: Reason) -> str:
    counts = reason.parameters
    return (
        f"Flips are biased towards new misses of {_class(reason)}: {counts['missed']} newly "
        f"missed, {counts['found']} newly found ({_mcnemar(reason)})."
    )


def _mcnemar(reason: Reason) -> str:
    """'exact McNemar test of 11 against 2 patients or clusters, p = 0.022; p = 0.045 after ...'."""
    counts, tested = reason.parameters, "exact McNemar test"
    if "units_missed" in counts:
        tested += (
            f" of {counts['units_missed']} against {counts['units_found']} patients or clusters, "
            f"{probability(counts['raw_p_value'])}"
        )
        if counts["classes"] == 1:
            return tested
        tested += "; "
    else:
        tested += ", "
    adjusted = f" after Holm's adjustment for {counts['classes']} {_nouns(reason)}"
    return f"{tested}{probability(counts['p_value'])}{adjusted if counts['classes'] > 1 else ''}"


def _nothing_to_miss(_: Reason) -> str:
    return (
        "No finding is known to be there in some image and not in another: whether flips are "
        "biased towards new misses cannot be told."
    )


def _no_new_misses(reason: Reason) -> str:
    counts = reason.parameters
    if not counts["missed"]:
        return f"No image of a {_noun(reason)} is newly missed."
    return (
        f"Flips are not shown to be biased towards new misses; of {_class(reason)}, where they "
        f"lean most, {counted(counts['missed'], 'image')} {are(counts['missed'])} newly missed and "
        f"{counts['found']} newly found."
    )


# ----------------------------------------------------------------------------- stress and saliency


def _stress_unmeasured(_: Reason) -> str:
    return "Disturbed images were not measured at strengths 1 to 3, so the candidate cannot pass."


def _no_maps(_: Reason) -> str:
    return "No image has a saliency map of the reference."


def _no_baseline(_: Reason) -> str:
    return (
        "There are no saliency maps of the same network with random weights: without them it "
        "cannot be said what a similarity means."
    )


def _similarity(reason: Reason) -> str:
    random = Interval.model_validate(reason.parameters["randomized"])
    return (
        f"The saliency maps of {reason.where} correlate with the reference's by "
        f"{_plain(_known(reason))}, those of the same network with random weights by "
        f"{_plain(random)}."
    )


def _one_unit(_: Reason) -> str:
    return "All images are of one patient or cluster, which tells no spread."


def _by_chance(_: Reason) -> str:
    return "The saliency maps are no closer to the reference's than chance, whatever it answers."


def _overlap(_: Reason) -> str:
    return "The intervals overlap: too few images, or the maps carry too little signal."


def _looks_elsewhere(reason: Reason) -> str:
    return (
        "It is not shown to be as like the reference as a network trained apart "
        f"({_plain(_known(reason))})."
    )


def _looks_alike(reason: Reason) -> str:
    apart = reason.interval
    beside = f", and no less than a network trained apart ({_plain(apart)})" if apart else ""
    return f"It looks where the reference looks, more than chance would give{beside}."


# ------------------------------------------------------------------------------ parts of sentences

_SHARE = MetricFacts("share")


def _facts(reason: Reason) -> MetricFacts:
    return metric_facts(reason.metric or "")


def _several(reason: Reason) -> bool:
    return bool(reason.parameters.get("several"))


def _noun(reason: Reason) -> str:
    return "finding" if _several(reason) else "class"


def _nouns(reason: Reason) -> str:
    return "findings" if _several(reason) else "classes"


def _class(reason: Reason) -> str:
    return class_words(reason.where or "", _noun(reason))


def _label(reason: Reason) -> str:
    every = f" of the {_nouns(reason)}"
    where = {None: "", "*": every}.get(reason.where, f" for {_class(reason)}")
    return capital(f"{_facts(reason).label}{where}")


def _known(reason: Reason) -> Interval:
    if reason.interval is None:
        raise KeyError(f"the interval of a reason of kind '{reason.kind}'")
    return reason.interval


def _worst_of(reason: Reason, what: str) -> str:
    several = reason.parameters.get("comparisons", 1)
    return f"Worst of {several} {what}s: " if several > 1 else ""


def _interval(change: Interval, digits: int, scale: float) -> str:
    low, high = (signed(scale * end, digits) for end in (change.low, change.high))
    return f"{100 * change.confidence:g}% CI of the change {low} to {high}"


def _allowed(facts: MetricFacts, limit: float, digits: int) -> str:
    way = "fall" if facts.higher_is_better else "rise"
    return f"allowed {way} {fixed(facts.scale * limit, digits)}"


def _share(interval: Interval, digits: int = 1) -> str:
    """'91.2% (95% CI 87.0-94.1)'."""
    value, low, high = (
        fixed(100 * x, digits) for x in (interval.value, interval.low, interval.high)
    )
    return f"{value}% ({100 * interval.confidence:g}% CI {low}{DASH}{high})"


def _plain(interval: Interval) -> str:
    return f"{fixed(interval.value, 2)} ({fixed(interval.low, 2)} to {fixed(interval.high, 2)})"


def _digits(loss: Interval, limit: float, facts: MetricFacts) -> int:
    return _digits_of((loss.value, loss.low, loss.high), limit, facts)


def _digits_of(figures: Sequence[float], limit: float, facts: MetricFacts) -> int:
    """Fewest decimals at which every figure still lies on its own side of the limit.

    At one decimal a fall of 1.98 points would read "2.0; allowed fall 2.0: within the limit".
    """
    least = 1 if facts.unit else 3
    for digits in range(least, least + 4):
        shown = round(facts.scale * limit, digits)
        if all((round(facts.scale * x, digits) < shown) == (x < limit) for x in figures):
            return digits
    return least + 4


# those whose `where` is a class
OF_A_CLASS = frozenset({"margin", "unmeasured", "floor", "missed", "new misses", "no new misses"})
_SENTENCES: Mapping[str, Callable[[Reason], str]] = {
    "margin": _margin,
    "unmeasured": _unmeasured,
    "no primary rule": _no_primary_rule,
    "floor": _floor,
    "no floor": _no_floor,
    "weak reference": _weak_reference,
    "rules changed": _rules_changed,
    "may have seen": _may_have_seen,
    "itself": _itself,
    "identical": _identical,
    "few units": _few_units,
    "barred": _barred,
    "none allowed": _none_allowed,
    "test sealed": _test_sealed,
    "no threshold": _no_threshold,
    "missed": _missed,
    "kept thresholds": _kept_thresholds,
    "calibration error": _calibration_error,
    "calibration slope": _calibration_slope,
    "no groups": _no_groups,
    "no gap": _no_gap,
    "gap": _gap,
    "small groups": _small_groups,
    "agreement": _agreement,
    "flips": _flips,
    "new misses": _new_misses,
    "no new misses": _no_new_misses,
    "nothing to miss": _nothing_to_miss,
    "stress": _stress,
    "stress unmeasured": _stress_unmeasured,
    "no maps": _no_maps,
    "no baseline": _no_baseline,
    "similarity": _similarity,
    "one unit": _one_unit,
    "by chance": _by_chance,
    "overlap": _overlap,
    "looks elsewhere": _looks_elsewhere,
    "looks alike": _looks_alike,
}
