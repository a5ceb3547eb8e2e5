"""What a study does not show: one sentence per reservation, each made from a fact of the record."""

from __future__ import annotations

from clinipress.recipe.formats import FORMATS, format_facts
from clinipress.recipe.techniques import technique_of
from clinipress.records.candidate import CandidateRecord
from clinipress.records.item import UNIT_KINDS
from clinipress.records.judgement import SECTION_TITLES, SECTIONS
from clinipress.records.result import VNNI, SplitSummary
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    counted,
    figure,
    figure_interval,
    finite,
    metric_name,
    percent,
    points_words,
)
from clinipress.reporting.wording.phrases import feature_name, target_name
from clinipress.reporting.wording.sentences import caution_sentence, withheld_sentence
from clinipress.text import capital, class_words, joined

__all__ = ["limits"]

OWN_SPLITS = frozenset({"train", "validation", "test"})
FEW = 50  # images of a class in the test split below which its interval is wide


def limits(view: View) -> list[str]:
    """All reservations: the study's own first, then those that follow from its facts."""
    reservations = [
        *view.result.limits,
        *view.result.set_aside.values(),
        *_of_data(view),
        *_of_reference(view),
        *_of_test(view),
        *_of_measurement(view),
    ]
    return list(dict.fromkeys(reservations))


def _of_data(view: View) -> list[str]:
    result, audit = view.result, view.result.audit
    reservations: list[str] = []
    if any(reason.kind == "version 1" for reason in result.verdict.reasons):
        reservations.append(
            "This run was made by release 0.1.0, whose sentences are kept as they were: they count "
            "a loss as positive. All tables here are compressed minus original."
        )
    if result.synthetic:
        reservations.append(
            "The images are drawn by a program. Nothing here says how any model does on patients."
        )
    reservations += _of_units(view)
    crossing = sum(audit.leaks.values()) + sum(audit.patient_leaks.values())
    if crossing and result.split.by == "published":
        reservations.append(
            f"{counted(crossing, 'image or patient', 'images or patients')} cross the published "
            f"splits; {counted(result.split.dropped, 'image')} were left out."
        )
    if audit.refused:
        number = counted(len(audit.refused), "image")
        reservations.append(
            f"{number} of {audit.images:,} would be refused on the device, as blank or of another "
            "kind; the figures here count them all the same."
        )
    caution = caution_sentence(view)
    if caution is not None:
        reservations.append(capital(caution.removeprefix("Caution: ")))
    suspects = [s for s in audit.shortcuts if s.warning and finite(s.auroc)]
    if suspects:
        worst = max(suspects, key=lambda shortcut: shortcut.auroc.value)
        reservations.append(
            f"File properties alone separate the {view.nouns} (shortcut risk; strongest: "
            f"{feature_name(worst)} for {target_name(worst)}, AUROC "
            f"{figure('auroc', worst.auroc.value)}); a model may lean on them and fail on images "
            "from elsewhere."
        )
    if audit.conflicting_labels:
        pairs = counted(len(audit.conflicting_labels), "pair")
        reservations.append(
            f"{pairs} of copies carry different labels: the labels themselves hold errors."
        )
    return reservations


def _of_units(view: View) -> list[str]:
    """What is not kept on one side of the split."""
    result, audit = view.result, view.result.audit
    if audit.patients is None:
        return [_no_patients(result.split)]
    if result.split.by not in {*UNIT_KINDS, "published"}:
        return [
            f"Patients are known, but the images were divided by {result.split.by}: images of one "
            "patient may be on both sides of the split."
        ]
    if audit.without_patient:
        without = counted(audit.without_patient, "image names", "images name")
        return [f"{without} no patient: those of one patient may be on both sides of the split."]
    return []


def _of_reference(view: View) -> list[str]:
    """A checkpoint may have been trained on what it is judged on: another seed moves the split."""
    settings = view.result.recipe.get("reference") or {}
    if settings.get("train") is not None or not (settings.get("model") or {}).get("checkpoint"):
        return []
    return [
        "The reference came already trained: which images it learned from is not known here. If "
        "any of them are among the validation or test images, it looks better than it is, and so "
        "does what was derived from it."
    ]


def _no_patients(split: SplitSummary) -> str:
    text = (
        "No patient identifiers: neighbouring slices or repeated images of one patient may be on "
        "both sides of the split, which makes every figure here look better than it is."
    )
    if split.by == "image":
        return f"{text} The images were divided one by one, without any grouping."
    if split.unit in UNIT_KINDS:
        return f"{text} What is kept whole is each {split.unit}, not each patient."
    return (
        f"{text} The images were divided by {split.by}, which only catches copies that look alike."
    )


def _of_test(view: View) -> list[str]:
    result = view.result
    reservations: list[str] = []
    external = [split for split in view.splits if split not in OWN_SPLITS]
    if not external:
        reservations.append(
            "No external test: all images come from the one data set, so nothing is shown for "
            "other hospitals, scanners, protocols or times."
        )
    if not result.test_openings:
        reservations.append(
            "The sealed test images were not used: candidates were chosen on the validation images "
            "they are reported on, which flatters them."
        )
    elif len(result.test_openings) > 1:
        reservations.append(
            f"The sealed test images were opened {counted(len(result.test_openings), 'time')}; a "
            "choice made after the first opening flatters the later figures."
        )
    reservations.append(_groups(view))
    counts = result.split.counts.get("test", {})
    rare = [f"{name} ({number:,})" for name, number in counts.items() if number < FEW]
    if rare:
        shown = joined(rare[:6]) + (f" and {len(rare) - 6:,} more" if len(rare) > 6 else "")
        reservations.append(
            f"Few test images for {shown}: a fall of several points there would go unseen."
        )
    if counts:
        top = max(counts, key=lambda name: counts[name])
        size = view.result.split.size("test") if view.several else sum(counts.values())
        reservations.append(
            f"The share of each {view.noun} is that of the data set ({top} is "
            f"{percent(counts[top] / max(size, 1))} of the test images), not of a "
            "clinic; precision will differ where findings are rarer."
        )
    return reservations


def _groups(view: View) -> str:
    groups, withheld = view.result.audit.groups, withheld_sentence(view)
    judged = [
        judgements.subgroups
        for judgements in view.shown_judgements.values()
        if judgements.subgroups
    ]
    columns = list(dict.fromkeys(column for section in judged for column in section.columns))
    if columns:
        few = sum(group.too_small for section in judged for group in section.groups)
        more = f" {counted(few, 'group is', 'groups are')} too small to judge." if few else ""
        known = "known by {} and by nothing else" if not withheld else "shown by {} alone"
        return (
            f"Groups are {known.format(joined(columns))}: a loss that falls on people who share "
            f"something else would not be seen.{more}{withheld}"
        )
    if withheld and not groups:
        return f"No groups are shown: a loss that falls on one of them is not seen here.{withheld}"
    if not groups:
        return (
            "No subgroup metadata (sex, age, scanner, site): a loss that falls on one group only "
            "would not be seen."
        )
    return (
        f"Groups are known ({joined(list(groups))}), but the figures are given for all images "
        f"together: a loss that falls on one group only would not be seen.{withheld}"
    )


def _of_measurement(view: View) -> list[str]:
    result, subject = view.result, view.subject
    reservations: list[str] = []
    timed = [record for record in view.candidates if record.latency_ms is not None]
    untimed = [record for record in view.candidates if record.latency_ms is None]
    if timed:
        reservations.append(
            f"Times were measured on this computer ({result.environment.cpu}), not on the device "
            "the model is meant for; both absolute times and their ratios will differ there."
        )
    if untimed:
        reservations.append(
            f"The time per image was {NOT_MEASURED} for {_names(untimed)}: their engine runs on "
            "another device."
        )
    reservations.extend(_of_processors(view))
    if result.recipe.get("seed") is not None:
        reservations.append(
            "One training run with one seed: the intervals reflect sampling of test images, not "
            "variation between training runs."
        )
    untaught = [
        candidate
        for candidate in view.candidates
        if _just_distilled(candidate) and candidate.control is None
    ]
    if untaught:
        reservations.append(
            f"The effect of distillation on {_names(untaught)} is unknown: no control, the same "
            "network without a teacher, was trained ('control: true')."
        )
    reservations.extend(
        f"{candidate.name}: {fact}."
        for candidate in view.candidates
        for key in ("lost", "unlike")
        if candidate.history and (fact := candidate.history[-1].facts.get(key))
    )
    reservations.extend(f"{file.name} was not made: {file.reason}." for file in result.not_made)
    if subject is not None:
        reservations.extend(_unproven(view, subject))
    return reservations


def _of_processors(view: View) -> list[str]:
    """What holds for this processor's 8-bit instructions and may not for the device's."""
    reservations = []
    flags = set(view.result.environment.cpu_flags)
    wide = [
        candidate
        for candidate in view.candidates
        if candidate.precision in format_facts(candidate.format).saturates
        and not (candidate.history and candidate.history[-1].facts.get("reduced_range"))
    ]
    if wide and flags & VNNI:
        reservations.append(
            "8-bit files were measured on a processor with VNNI. On an x86 processor without it "
            "their sums may overflow: export with 'reduce_range: true' for such a computer. The "
            "bundle's self-test refuses to answer where the logits come out differently."
        )
    # timed is what the format's own engine answered (`clinipress.formats.open.timed_here`)
    for row in FORMATS:
        untimed = [c for c in view.candidates if c.format == row.name and c.latency_ms is None]
        if row.accuracy_note and untimed:
            accuracy = view.told("The accuracy")
            reservations.append(f"{accuracy} of {_names(untimed)} {row.accuracy_note}.")
    return reservations


def _just_distilled(record: CandidateRecord) -> bool:
    """True where learning from a teacher was the last thing done to it before its export."""
    steps = [applied for applied in record.history if applied.step != "export"]
    if not steps:
        return False
    taught = technique_of(steps[-1].step).taught
    return bool(taught) and steps[-1].params.get(taught, 0) > 0


def _names(records: list[CandidateRecord]) -> str:
    names = [record.name for record in records]
    return joined(names[:6]) + (f" and {len(names) - 6:,} more" if len(names) > 6 else "")


def _absent(view: View) -> list[str]:
    """Sections that were not measured; of calibration and groups more is said elsewhere."""
    judgements = next(iter(view.shown_judgements.values()), None)
    wanted = [key for key in SECTIONS if key not in ("calibration", "subgroups")]
    return [key for key in wanted if judgements is None or getattr(judgements, key) is None]


def _of_fitted_thresholds(view: View) -> list[str]:
    """Sensitivities at thresholds that were themselves chosen on few images."""
    if not view.several or not view.metric.startswith("sensitivity["):
        return []
    counts = view.result.split.counts.get("validation", {})
    few = [f"{name} ({counts[name]:,})" for name in view.classes if counts.get(name, FEW) < FEW]
    named = joined(few[:6]) + (f" and {len(few) - 6:,} more" if len(few) > 6 else "")
    least = f" Fewest validation images show {named}." if few else ""
    return [
        "The main rule is about sensitivity at thresholds that each model chose on the validation "
        "images. Its intervals hold the chance of the images they are counted on, not that of the "
        "choice: another validation set would have given other thresholds, the more so the fewer "
        f"of its images show a finding.{least}"
    ]


def _unproven(view: View, subject: CandidateRecord) -> list[str]:
    """Rules without a figure, confidence nobody checked, a class that may have lost much."""
    reservations = [
        f"{joined([SECTION_TITLES[key].lower() for key in absent]).capitalize()}: "
        f"{NOT_MEASURED} for {subject.name}."
        for absent in [_absent(view)]
        if absent
    ]
    reservations += _of_fitted_thresholds(view)
    missing = [
        metric_name(metric)
        for metric in view.margins
        if not finite(view.change(subject, metric)[0])
    ]
    if missing:
        reservations.append(
            f"For {subject.name} the change in {joined(missing)} was {NOT_MEASURED}."
        )
    metrics = {metric for split in subject.evidence.values() for metric in split}
    if not metrics & {"ece", "calibration_error", "brier", "log_loss"}:
        reservations.append(
            "Whether the stated confidence of an answer can be trusted (calibration) was "
            f"{NOT_MEASURED}."
        )
    split = view.compared_split
    wide = {
        name: interval
        for name in view.classes
        if split
        and finite(interval := subject.changes.get(split, {}).get(f"sensitivity[{name}]"))
        and interval is not None
    }
    if wide and split:
        name = min(wide, key=lambda key: wide[key].low)
        value = subject.evidence.get(split, {}).get(f"sensitivity[{name}]")
        measured_text = (
            f"; {figure_interval('sensitivity', value)} was measured" if finite(value) else ""
        )
        reservations.append(
            f"{view.told('Class by class')} the intervals are wider than over all images: for "
            f"{class_words(name, view.noun)} a loss of {points_words(-wide[name].low)} in "
            f"sensitivity cannot be excluded{measured_text}."
        )
    return reservations
