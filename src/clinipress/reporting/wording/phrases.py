"""Parts of sentences: comparisons, changes with their intervals, names of things."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.records.item import plural_of
from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval, Overlap, Rule, Shortcut, SplitSummary
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    counted,
    figure,
    finite,
    in_points,
    limit_words,
    metric_name,
    points,
    points_decimals,
    points_words,
    times,
)
from clinipress.text import joined, signed, turned_words

__all__ = [
    "change_phrase",
    "coverage_phrase",
    "divided",
    "feature_name",
    "interval_phrase",
    "overlap_sentence",
    "rule_phrase",
    "shared_patients",
    "size_phrase",
    "speed_phrase",
    "split_name",
    "target_name",
    "unit_words",
]

SPLIT_NAMES = {"test": "held-out test", "validation": "validation", "train": "training"}
NEAR = 0.05  # ratios closer to one than this are called equal


def overlap_sentence(overlap: Overlap | None, unknown: Sequence[str] = ()) -> str:
    """Which of a study's own images are in a set that is called external, and what was looked for.

    `unknown`: the models, of two, whose study's images are not known. The one sentence of lead,
    report and terminal.
    """
    if overlap is None or not overlap.compared_with:
        return (
            "Not looked for: the study's own images among these, since no fingerprints of what the "
            "study has seen are kept with the model."
        )
    shared = overlap.exact + overlap.near
    images = f"{counted(overlap.compared_with, 'image')} of the study"
    turned = (
        "also mirrored, rotated or inverted"
        if overlap.turned is not None
        else "but not mirrored, rotated or inverted copies"
    )
    sought = f"the same file or pixels, and nearly the same picture, {turned}"
    patients = shared_patients(overlap)
    if unknown:
        patients += f" Not looked for: what {joined(unknown)} was made from, which is not known."
    if not shared:
        return f"None was found to be among the {images} (looked for: {sought}). {patients}"
    done = "were left out" if overlap.left_out else "are counted here"
    return (
        f"{counted(shared, 'image')} of this set {'is' if shared == 1 else 'are'} among the "
        f"{images} ({overlap.exact:,} the same file or pixels, {overlap.near:,} nearly the same "
        f"picture{turned_words(overlap.turned)}; looked for: {sought}) and {done}. {patients}"
    )


def shared_patients(overlap: Overlap) -> str:
    """Whether images from elsewhere name patients of the study."""
    if overlap.patients is None:
        return "Whether it names patients of this study was not checked."
    if not overlap.patients:
        return "It names no patient of this study."
    also = "other images name" if overlap.exact + overlap.near else "images name"
    name = "other image names" if overlap.exact + overlap.near else "image names"
    left = (
        "they were left out"
        if overlap.left_out
        else "leave them out with --overlap leave-out, unless they are other people"
    )
    return (
        f"{counted(overlap.patients, name, also)} a patient that the study has, too: the same "
        f"person, or the same numbering; {left}."
    )


def split_name(split: str | None) -> str:
    """A split as an adjective: "held-out test", "external (hospital B)"."""
    kind, external, name = (split or "").partition("external: ")
    if external and not kind:
        return f"external ({name})"
    return SPLIT_NAMES.get(split or "", split or "unnamed")


def divided(split: SplitSummary) -> str:
    """How the images were divided: "by lesion", "as published"."""
    return "as published" if split.by == "published" else f"by {split.by}"


def unit_words(split: SplitSummary) -> tuple[str, str]:
    """What one unit of the split is called, and several: "lesion", "lesions"."""
    unit = split.unit or ("unit" if split.by == "published" else split.by)
    return unit, plural_of(unit)


def size_phrase(ratio: float | None) -> str | None:
    """How sizes compare: "40 times smaller", "the same size", "1.3 times larger"."""
    if ratio is None:
        return None
    if abs(ratio - 1) < NEAR:
        return "the same size"
    return f"{times(ratio)} times smaller" if ratio > 1 else f"{times(1 / ratio)} times larger"


def speed_phrase(ratio: float | None) -> str | None:
    """How times compare: "12 times faster", "as fast", "1.3 times slower"."""
    if ratio is None:
        return None
    if abs(ratio - 1) < NEAR:
        return "as fast"
    return f"{times(ratio)} times faster" if ratio > 1 else f"{times(1 / ratio)} times slower"


def interval_phrase(change: Interval, margin: float | None = None) -> str:
    """The ends: "95% CI -1.2 to +1.8"."""
    decimals = points_decimals(change, margin)
    low, high = (signed(100 * end, decimals) for end in (change.low, change.high))
    return f"{100 * change.confidence:g}% CI {low} to {high}"


def coverage_phrase(view: View) -> str:
    """What the intervals of the record aim at: "95% intervals"."""
    confidences = {
        interval.confidence
        for record in view.candidates
        for split in record.evidence.values()
        for interval in split.values()
    }
    shares = [f"{100 * confidence:g}%" for confidence in sorted(confidences)]
    return f"{joined(shares)} intervals".strip()


def change_phrase(metric: str, change: Interval | None, margin: float | None = None) -> str:
    """What became of a metric: "accuracy fell by 0.3 points (95% CI of the change ...)"."""
    name = metric_name(metric)
    if change is None or not finite(change):
        return f"the change in {name} was {NOT_MEASURED}"
    if not in_points(metric):
        return f"{name} differs by {figure(metric, change.value)}"
    decimals = points_decimals(change, margin)
    amount = points_words(abs(change.value), decimals)
    moved = f"{'rose' if change.value > 0 else 'fell'} by {amount}"
    if float(points(abs(change.value), decimals).replace(",", "")) == 0:
        moved = f"changed by {amount}"
    interval = interval_phrase(change, margin).replace("CI", "CI of the change", 1)
    allowed = "" if margin is None else f"; allowed fall {points(margin, decimals)}"
    return f"{name} {moved} ({interval}{allowed})"


def feature_name(shortcut: Shortcut) -> str:
    """A fact about the files that may give classes away."""
    return "all these facts together" if shortcut.feature == "all" else shortcut.feature


def target_name(shortcut: Shortcut) -> str:
    """The class that it gives away."""
    return "all classes" if shortcut.target == "macro" else shortcut.target


def rule_phrase(rule: Rule, noun: str = "class") -> str:
    """A rule in words; `noun` as `metric_name`."""
    kind = "main rule" if rule.primary else "guard"
    move = "fall" if metric_facts(rule.metric).higher_is_better else "rise"
    limit = limit_words(rule.metric, rule.margin)
    return f"{metric_name(rule.metric, noun)} may {move} by at most {limit} ({kind})"
