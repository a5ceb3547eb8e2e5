"""The sentences of the report, each made from the record's own numbers; none is typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clinipress.records.candidate import CandidateRecord
from clinipress.records.item import plural_of
from clinipress.records.metrics import metric_facts
from clinipress.records.result import FindingMeans, Interval
from clinipress.reporting.drawing.plot import Point, pareto
from clinipress.reporting.view import View, unjudged
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    STATUS_WORDS,
    counted,
    duration,
    figure_interval,
    finite,
    megabytes,
    metric_class,
    metric_name,
    moment,
    percent,
    points_decimals,
    points_words,
    short_name,
)
from clinipress.reporting.wording.phrases import (
    change_phrase,
    divided,
    interval_phrase,
    size_phrase,
    speed_phrase,
    split_name,
)
from clinipress.text import capital, joined, sentence, signed

__all__ = [
    "audit_sentence",
    "candidates_sentence",
    "caution_sentence",
    "classes_sentence",
    "distillation_sentences",
    "gate_sentence",
    "half_sentence",
    "limits_sentence",
    "meaning_sentence",
    "means_sentence",
    "natural_sentence",
    "rules_when",
    "split_sentence",
    "trade_off_sentence",
    "trail_sentence",
    "unasked_sentence",
    "verdict_sentence",
    "withheld_sentence",
]

PURPOSES = {"test": "the sealed test", "validation": "validation", "train": "training"}
PER = 1000  # images over which differences are told as counts


def _model_phrase(view: View, record: CandidateRecord) -> str:
    """How a model compares in size and speed: "is 40 times smaller and 12 times faster than"."""
    size, speed = size_phrase(view.size_ratio(record)), speed_phrase(view.speed_ratio(record))
    more = [phrase for phrase in (size, speed) if phrase not in (None, "the same size", "as fast")]
    text = f"is {joined([phrase for phrase in more if phrase])} than the reference" if more else ""
    same = [phrase for phrase in ("as large", "as fast") if phrase == speed]
    if size == "the same size":
        same.insert(0, "as large")
    if same:
        text += f"{' and' if text else 'is'} {joined(same)}" + ("" if more else " as the reference")
    missing = ["size"] if size is None else []
    missing += ["speed"] if speed is None else []
    if not missing:
        return text
    timed = record.latency_ms is not None and "size" not in missing
    why = "not comparable" if timed else NOT_MEASURED
    return f"{text} ({joined(missing)} {why})" if text else f"({joined(missing)} {why})"


def verdict_sentence(view: View) -> str:
    """The study in one sentence, ending with the verdict's word."""
    result, word = view.result, STATUS_WORDS[view.result.verdict.status]
    shipped, others = view.shipped, view.compressed
    if shipped is None:
        limit = f", limit {points_words(view.margin)}" if view.margin is not None else ""
        return (
            f"No model was selected: of {counted(len(others), 'compressed candidate')}, "
            f"{_tally(others) or 'none judged'} ({metric_name(view.metric)}{limit}): {word}."
        )
    if shipped is view.reference:
        tried = counted(len(others), "compressed candidate")
        return f"The reference itself was selected, after {tried}: {word}."
    change, split = view.change(shipped, view.metric)
    cases = view.cases(change, split)
    where = f" on {counted(cases, f'{split_name(split)} image')}" if cases and change else ""
    phrase = change_phrase(view.metric, change, view.margin)
    name = metric_name(view.metric)
    outcome = f"its {name}{where}{phrase.removeprefix(name)}" if phrase.startswith(name) else phrase
    model = f"The selected {shipped.precision} model {_model_phrase(view, shipped)}"
    return f"{model}; {outcome}: {STATUS_WORDS[result.verdict.status]}."


def meaning_sentence(view: View) -> str:
    """What the verdict's word means here."""
    status, shipped = view.result.verdict.status, view.shipped
    change = view.change(shipped, view.metric)[0] if shipped else None
    word = STATUS_WORDS[status]
    risk = f"set for risk class \u201c{view.result.risk}\u201d{rules_when(view)}"
    if change is None or view.margin is None or not finite(change):
        return (
            f"{word}: "
            + {
                "pass": f"every limit {risk} was kept.",
                "fail": f"the limits {risk} were not kept; the reasons are below.",
                "inconclusive": f"what was measured does not show that the limits {risk} are kept.",
            }[status]
        )
    return f"{word}: {_meaning(view, change, view.margin, risk)}"


def rules_when(view: View) -> str:
    """When the rules were fixed, as far as the record can tell."""
    if view.result.rule_changes:
        return ", changed after the test set was first opened"
    return " before the test set was opened" if view.result.sealed else ""


def _meaning(view: View, change: Interval, margin: float, risk: str) -> str:
    """The verdict explained by where the interval lies."""
    verdict, decimals = view.result.verdict, points_decimals(change, margin)
    loss = metric_facts(view.metric).loss(change)
    far, near = (signed(100 * end, decimals) for end in (change.low, change.high))
    limit = f"{points_words(margin, decimals)} {risk}"
    if verdict.status == "pass":
        return f"the whole interval (far end {far}) stays within the limit of {limit}."
    if verdict.status == "fail" and loss.low >= margin:
        return f"the whole interval (near end {near}) is at or beyond the limit of {limit}."
    if verdict.status == "inconclusive" and loss.high >= margin:
        needed = verdict.cases_needed
        more = f" About {counted(needed, 'image')} would be needed to decide." if needed else ""
        return (
            f"the true change may be within the limit of {limit}, but the interval reaches "
            f"{far}.{more}"
        )
    return f"the main limit of {limit} is not what decided; the reasons are below."


def natural_sentence(view: View) -> str | None:
    """The change in accuracy as a count of errors; None where there is none to count."""
    subject = view.shipped
    change = view.change(subject, "accuracy")[0] if subject else None
    if change is None or not finite(change) or subject is view.reference:
        return None
    errors = change.turned
    middle, low, high = (round(PER * value) for value in (errors.value, errors.low, errors.high))
    about = f"about {_more(middle)} errors than" if middle else "as many errors as"
    return (
        f"Per {PER:,} such images, expect {about} the reference; the data are compatible with "
        f"{_more(low)} to {_more(high)}."
    )


def _more(number: int) -> str:
    """A difference of counts: "3 more", "12 fewer"."""
    return f"{abs(number):,} {'fewer' if number < 0 else 'more'}"


def caution_sentence(view: View) -> str | None:
    """What a verdict cannot mend: a reference that is not shown to read the picture at all."""
    baseline, reference = view.result.audit.baseline_accuracy, view.reference
    split = view.compared_split or view.plotted_split
    if baseline is None or reference is None or split is None or not finite(baseline):
        return None
    accuracy = reference.evidence.get(split, {}).get("accuracy")
    if accuracy is None or not finite(accuracy) or accuracy.low > baseline.high:
        return None
    return (
        f"Caution: file properties alone (such as width and brightness) predict the class in "
        f"{figure_interval('accuracy', baseline)} of all images, the reference in "
        f"{figure_interval('accuracy', accuracy)} of the {split_name(split)} images; it is not "
        "shown to read the image itself, so keeping its accuracy proves little."
    )


def candidates_sentence(view: View) -> str:
    """How many were made, and what became of them."""
    made = view.compressed
    passed_over = [record for record in made if record.rejected is not None]
    sizes = [record.file_bytes for record in made]
    spread = f" Their files are {megabytes(min(sizes))} to {megabytes(max(sizes))}" if sizes else ""
    beside = (
        f"; the reference is {megabytes(view.reference.file_bytes)}." if view.reference else "."
    )
    timed = sum(record.latency_ms is not None for record in made)
    chosen = "one was" if view.shipped not in (None, view.reference) else "none was"
    controls = len(view.controls)
    beyond = f" {counted(controls, 'control')} without a teacher: to compare with." * bool(controls)
    return (
        f"Beside the reference: {counted(len(made), 'compressed version')}; {chosen} selected, "
        f"{len(passed_over):,} {'was' if len(passed_over) == 1 else 'were'} not (reasons in the "
        f"table). Speed was measured for {timed:,}.{spread}{beside if spread else ''}{beyond}"
    )


def distillation_sentences(view: View) -> list[str]:
    """How much of each distilled student's accuracy the teacher gave, by its control."""
    return [_over_control(view, record) for record in view.candidates if record.control]


def _over_control(view: View, record: CandidateRecord) -> str:
    """One student beside the same student without a teacher; shown, or plainly not shown."""
    split = next((name for name in ("test", "validation") if name in record.over_control), None)
    control = view.named(record.control)
    gain = record.over_control[split].get(view.overall) if split else None
    if gain is None or control is None or not finite(gain):
        return f"What distillation gave {record.name} was {NOT_MEASURED}."
    of = short_name(view.overall)
    difference = (
        f"{record.name} minus {control.name}, the same network trained for as long without a "
        f"teacher: {points_words(gain.value)} of {of} ({interval_phrase(gain)}, paired on "
        f"{counted(gain.n or 0, f'{split_name(split)} image')})"
    )
    if gain.low > 0:
        beside = _share(control, split, view.overall)
        return f"{difference}. A gain from distillation is shown.{beside}"
    if gain.high < 0:
        return f"{difference}. Distillation made it worse."
    return f"{difference}. A gain from distillation is not shown: the interval contains 0."


def _share(control: CandidateRecord, split: str | None, overall: str) -> str:
    """The gap beside the gain: what the control lacked of the reference."""
    gap = control.changes.get(split or "", {}).get(overall)
    if gap is None or gap.value >= 0:
        return ""
    return f" Without a teacher it stays {points_words(-gap.value)} below the reference."


def trade_off_sentence(view: View, timed: list[Point]) -> str:
    """Which candidates no other beats."""
    if len(timed) < 2:
        return view.told(
            "Fewer than two candidates have both a measured accuracy and a measured time."
        )
    front = pareto(timed)
    names = joined([f"{point.number} {point.name}" for point in front[:5]])
    more = f" and {len(front) - 5:,} more" if len(front) > 5 else ""
    shipped = next((point for point in timed if point.role == "shipped"), None)
    position = ""
    if shipped is not None:
        position = f" The selected one is {'' if shipped in front else 'not '}among them."
    accuracy = view.told("an accuracy")
    best = "of higher mean AUROC" if view.several else "more accurate"
    return (
        f"Of {counted(len(timed), 'candidate')} with a measured time and {accuracy} on the "
        f"{split_name(view.plotted_split)} images, leaving out those that failed, no other is both "
        f"faster and {best} than {names}{more}.{position}"
    )


def _tally(records: Sequence[CandidateRecord]) -> str:
    """How many got which verdict: "3 PASS and 1 FAIL"."""
    statuses = [record.verdict.status for record in records if record.verdict is not None]
    numbers = {word: statuses.count(status) for status, word in STATUS_WORDS.items()}
    return joined([f"{number:,} {word}" for word, number in numbers.items() if number])


def gate_sentence(view: View) -> str:
    """How many kept the limits."""
    judged = [record for record in view.compressed if record.verdict is not None]
    if not judged:
        return "No candidate was judged."
    return (
        f"{counted(len(judged), 'candidate was', 'candidates were')} judged against the limits of "
        f"risk class \u201c{view.result.risk}\u201d: {_tally(judged)}."
    )


def classes_sentence(view: View) -> str:
    """The weakest class, and the class that lost most."""
    split, subject = view.compared_split, view.subject
    if split is None or subject is None:
        return view.told("No candidate can be set beside the reference class by class.")
    if view.several:
        return _findings_sentence(view, subject, split)
    sensitivities = {
        name: interval
        for name in view.classes
        if finite(interval := subject.evidence[split].get(f"sensitivity[{name}]"))
        and interval is not None
    }
    if not sensitivities:
        return f"The sensitivity for each class was {NOT_MEASURED}."
    weakest = min(sensitivities, key=lambda name: sensitivities[name].value)
    text = (
        f"{subject.name} finds the weakest class, {weakest}, in "
        f"{percent(sensitivities[weakest].value)} of its {split_name(split)} "
        "images, and every other class at least as often."
    )
    changes = {
        metric: interval
        for metric, interval in subject.changes.get(split, {}).items()
        if metric.startswith("sensitivity[") and finite(interval)
    }
    if not changes:
        return text
    worst = min(changes, key=lambda metric: changes[metric].value)
    change = changes[worst]
    if change.value >= 0:
        widest = min(changes, key=lambda metric: changes[metric].low)
        return sentence(
            f"{text} No class was found less often than by the reference, but a loss of up to "
            f"{points_words(max(-changes[widest].low, 0.0))} is not excluded for "
            f"{metric_class(widest)}"
        )
    return sentence(
        f"{text} The largest loss of sensitivity is {points_words(-change.value)} "
        f"({interval_phrase(change)}), for {metric_class(worst)}"
    )


def _findings_sentence(view: View, subject: CandidateRecord, split: str) -> str:
    """Of several findings: the weakest, the one that lost most, and those left unjudged."""
    few = unjudged(subject)
    areas = {
        name: interval
        for name in view.classes
        if name not in few
        and finite(interval := subject.evidence[split].get(f"auroc[{name}]"))
        and interval is not None
    }
    if not areas:
        return f"The area under the ROC curve of each finding was {NOT_MEASURED}."
    weakest = min(areas, key=lambda name: areas[name].value)
    text = (
        f"{subject.name} tells {weakest} least well on the {split_name(split)} images: area under "
        f"the ROC curve {figure_interval('auroc', areas[weakest])}"
    )
    changes = {
        name: change
        for name in areas
        if finite(change := subject.changes.get(split, {}).get(f"auroc[{name}]"))
        and change is not None
    }
    if changes:
        worst = min(changes, key=lambda name: changes[name].value)
        change = changes[worst]
        moved = "fell most" if change.value < 0 else "rose least"
        text += (
            f"; that of {worst} {moved}, by {points_words(abs(change.value))} "
            f"({interval_phrase(change)})"
        )
    if few:
        text += f". Fewer than five patients show {joined(sorted(few))}: nothing is judged of these"
    return sentence(text)


def audit_sentence(view: View) -> str:
    """What was found in the data."""
    audit = view.result.audit
    known = "patients unknown"
    if audit.patients is not None:
        known = f"{counted(audit.patients, 'patient')} known"
        if audit.without_patient:
            known += f", {counted(audit.without_patient, 'image')} without one"
    elif audit.units:
        kind = next(iter(audit.units))
        known = f"{counted(audit.units[kind], kind, plural_of(kind))} known, {known}"
    leaks = sum(audit.leaks.values())
    parts = [
        counted(len(audit.unreadable), "unreadable file"),
        counted(audit.exact_duplicates, "exact copy", "exact copies"),
        counted(audit.near_duplicates, "near-duplicate"),
        counted(
            len(audit.conflicting_labels),
            "pair of copies with different labels",
            "pairs of copies with different labels",
        ),
        counted(
            leaks, "image leaking across published splits", "images leaking across published splits"
        ),
    ]
    kinds = counted(len(audit.classes), view.noun, view.nouns)
    return (
        f"{counted(audit.images, 'image')} {'with' if view.several else 'in'} {kinds}, "
        f"{known}: {joined(parts)}."
    )


def split_sentence(view: View) -> str:
    """How the images were divided."""
    split, openings = view.result.split, len(view.result.test_openings)
    sizes = [
        f"{counted(split.size(name), 'image')} for {PURPOSES.get(name, name)}"
        for name in split.counts
    ]
    opened = {0: "never opened", 1: "opened once", 2: "opened twice"}
    reason = f" {capital(split.reason.rstrip('.'))}." if split.reason else ""
    return (
        f"Divided {divided(split)}.{reason} {capital(joined(sizes))}; the sealed test images were "
        f"{opened.get(openings, f'opened {openings:,} times')}."
    )


def limits_sentence(count: int) -> str:
    """How many reservations follow."""
    return f"{counted(count, 'limitation')} to the figures above:"


def trail_sentence(view: View) -> str:
    """When and with what."""
    result, environment = view.result, view.result.environment
    spent = sum(result.seconds.values())
    took = f" in {duration(spent)}" if spent else ""
    seed = result.recipe.get("seed")
    seeded = f", seed {seed}" if seed is not None else ""
    return (
        f"Made on {moment(result.created)} by clinipress {environment.clinipress}{took} on "
        f"{environment.cpu}{seeded}."
    )


def withheld_sentence(view: View) -> str:
    """How many columns are not shown; empty where all are."""
    number = view.result.audit.withheld_columns
    if not number:
        return ""
    verb, they = ("is", "it does") if number == 1 else ("are", "they do")
    columns = counted(number, "group column")
    return f" {columns} {verb} left out, since nothing shows that {they} not identify people."


def unasked_sentence(view: View) -> str:
    """Findings that are neither called nor missed, since nothing says where to call them."""
    names = view.unasked
    if not names:
        return ""
    has, it = ("has", "it is") if len(names) == 1 else ("have", "they are")
    return (
        f"{joined(names)} {has} no threshold, since no validation image or every one shows "
        f"{'it' if len(names) == 1 else 'them'}: {it} not asked, nothing that needs a threshold is "
        "measured, and no mean or pooled figure at thresholds has a part of it."
    )


def half_sentence(limits: Iterable[float]) -> str:
    """What a threshold of one half may be in records of earlier versions."""
    if 0.5 not in limits:
        return ""
    return (
        " A threshold of 0.500 may stand for none: earlier versions gave it where no validation "
        "image, or every one, shows the finding."
    )


def means_sentence(means: FindingMeans | None, name: str, place: str = "") -> str:
    """Which findings means inside and outside are of, and a candidate's mean over those of both.

    Args:
        means: The findings.
        name: The candidate.
        place: Name of the set, where there are several.
    """
    if means is None:
        return ""
    inside, outside = (joined(side) or "no finding" for side in (means.inside, means.outside))
    text = (
        f"Means inside and outside{f' ({place})' if place else ''} are not of the same findings, "
        f"so that they differ by more than the place: inside {inside}; outside {outside}. "
        "Calibration errors, Brier scores and pooled figures are of what each set shows, too."
    )
    if not means.both:
        return f"{text} No finding is in both means."
    if name not in means.areas:
        return text
    areas = [figure_interval("auroc_macro", area) for area in means.areas[name]]
    return (
        f"{text} Over those in both ({joined(means.both)}) the {short_name('auroc_macro')} of "
        f"{name} is {areas[0]} inside and {areas[1]} outside."
    )
