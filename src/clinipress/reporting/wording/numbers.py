"""Numbers and names as the reader sees them; every figure of the report passes through here.

Proportions are percentages with one decimal, their differences points with one decimal (never a
percentage of a percentage), sizes and times have three significant figures, ratios two, and
1 MB is 10^6 bytes. What is missing or not finite reads "not measured".
"""

from __future__ import annotations

import math
import re
from datetime import datetime

from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval
from clinipress.text import DASH, MINUS, STATUS_WORDS, capital, class_words, counted, fixed, signed

__all__ = [
    "DASH",
    "GAP",
    "MINUS",
    "NOT_MEASURED",
    "STATUS_WORDS",
    "TIMES",
    "as_percent",
    "change_interval",
    "counted",
    "decimal",
    "decimal_interval",
    "duration",
    "figure",
    "figure_interval",
    "finite",
    "in_points",
    "large",
    "limit_figure",
    "limit_words",
    "megabytes",
    "metric_class",
    "metric_name",
    "milliseconds",
    "moment",
    "of_findings",
    "percent",
    "points",
    "points_decimals",
    "points_interval",
    "points_words",
    "probability",
    "short_name",
    "significant",
    "tick_words",
    "times",
]

TIMES = "\u00d7"
GAP = "\u202f"  # narrow space that does not break, between a number and its unit
NOT_MEASURED = "not measured"

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
# shares that are customary as decimals, not as percentages
DECIMALS = frozenset({"auroc", "auroc_macro", "auroc_micro", "kappa", "kappa_quadratic"})


def finite(interval: Interval | None) -> bool:
    """True when there is a figure and both its ends are numbers."""
    return interval is not None and all(
        math.isfinite(number) for number in (interval.value, interval.low, interval.high)
    )


def _base(metric: str) -> str:
    return metric.partition("[")[0]


def short_name(metric: str) -> str:
    """A metric's name for the head of a column: "mean AUROC" for the mean area under the curve."""
    return {"auroc_macro": "mean AUROC"}.get(metric, metric_name(metric))


_OF_FINDINGS = {
    "accuracy": "mean AUROC", "class": "finding", "classes": "findings",
}  # fmt: skip


def of_findings(text: str) -> str:
    """A text about classes and accuracy for a study whose images may show several findings.

    Example:
        >>> of_findings("Class by class: an accuracy at risk class low")
        'Finding by finding: a mean AUROC at risk class low'
    """

    def word(found: re.Match[str]) -> str:
        other = _OF_FINDINGS[found["word"].lower()]
        article = f"{found['article'][0]} " if found["article"] else ""
        return article + (capital(other) if found["word"][0].isupper() else other)

    pattern = r"\b(?<!risk )(?P<article>[Aa]n? )?(?P<word>[Aa]ccuracy|[Cc]lass(?:es)?)\b"
    return re.sub(pattern, word, text)


def metric_class(metric: str) -> str | None:
    """The class of a per-class metric: "sensitivity[nodule]" -> "nodule"."""
    return metric[len(_base(metric)) + 1 : -1] if metric.endswith("]") else None


def metric_name(metric: str, noun: str = "class") -> str:
    """A metric in words: "sensitivity[nodule]" -> "sensitivity for nodule".

    `noun`: what "sensitivity[*]" is of each of, and "sensitivity[2]" of.
    """
    base, every, _ = metric.partition("[*]")
    label, name = metric_facts(base).label, metric_class(base)
    if name is not None and noun != "class":
        label = label.removesuffix(class_words(name)) + class_words(name, noun)
    return f"{label}{f' for each {noun}' if every else ''}"


def in_points(metric: str) -> bool:
    """Whether a fall of this metric is a loss and is told in points (hundredths of 0 to 1)."""
    facts = metric_facts(metric)
    return facts.is_share and facts.higher_is_better


def limit_figure(metric: str, limit: float) -> str:
    """How far a metric may move, as its changes are told: "2.0" of a share, in points."""
    return points(limit) if metric_facts(metric).is_share else f"{limit:g}"


def limit_words(metric: str, limit: float) -> str:
    """The same with its unit: "2.0 points" of a share."""
    return points_words(limit) if metric_facts(metric).is_share else f"{limit:g}"


def as_percent(metric: str) -> bool:
    """Whether it is shown as a percentage, not as a decimal."""
    return metric_facts(metric).is_share and _base(metric) not in DECIMALS


def tick_words(metric: str, value: float, share: str | None = None) -> str:
    """A tick of an axis on which a metric is drawn: "80%", "0.8" of an area under the ROC curve.

    `share`: how it reads as a share; None: as whole percent.
    """
    return (share or percent(value, 0)) if as_percent(metric) else f"{value:g}"


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant figures and thousands separators.

    Example:
        >>> significant(0.05432), significant(31.25), significant(1234.5)
        ('0.0543', '31.2', '1,230')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else NOT_MEASURED
    # the exponent is that of the rounded number: 99.96 is "100", not "100.0"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    decimals = digits - 1 - exponent
    rounded = round(value, decimals)
    return f"{rounded:,.{max(decimals, 0)}f}".replace("-", MINUS)


def percent(value: float, decimals: int = 1) -> str:
    """A proportion in [0, 1] as a percentage."""
    return f"{fixed(100 * value, decimals)}%"


def figure(metric: str, value: float | None) -> str:
    """A metric's value in its own manner."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    return percent(value) if as_percent(metric) else fixed(value, 3)


def figure_interval(metric: str, interval: Interval | None) -> str:
    """A metric with its interval: "94.6% (93.1-96.0)"."""
    if interval is None or not finite(interval):
        return NOT_MEASURED
    scale, decimals = (100, 1) if as_percent(metric) else (1, 3)
    low, high = (fixed(scale * end, decimals) for end in (interval.low, interval.high))
    return f"{figure(metric, interval.value)} ({low}{DASH}{high})"


def decimal(value: float, decimals: int = 2) -> str:
    """A number with so many decimals and a true minus sign."""
    return fixed(value, decimals) if math.isfinite(value) else NOT_MEASURED


def decimal_interval(interval: Interval | None, decimals: int = 2) -> str:
    """A figure that is no percentage, with its interval: "0.93 (0.91 to 0.95)"."""
    if interval is None or not finite(interval):
        return NOT_MEASURED
    value, low, high = (
        fixed(number, decimals) for number in (interval.value, interval.low, interval.high)
    )
    return f"{value} ({low} to {high})"


def probability(p: float) -> str:
    """A p-value as papers write it: "p = 0.031", "p < 0.001"."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {fixed(p, 3 if p < 0.1 else 2)}"


def points_decimals(interval: Interval | None, margin: float | None) -> int:
    """Decimals, at least one, that tell the far end of a change from the loss that is allowed."""
    decimals = 1
    if interval is None or margin is None or abs(interval.low + margin) < 1e-9:
        return decimals
    while decimals < 4 and fixed(100 * interval.low, decimals) == fixed(-100 * margin, decimals):
        decimals += 1
    return decimals


def points(value: float, decimals: int = 1) -> str:
    """A difference of two proportions in points, without the unit: 0.003 -> "0.3"."""
    return fixed(100 * value, decimals)


def points_words(value: float, decimals: int = 1) -> str:
    """The same with its unit; one point exactly is "1.0 points" too."""
    return f"{points(value, decimals)} points"


def points_interval(interval: Interval | None) -> str:
    """A share with its interval, in points: "3.0 (2.0 to 4.0)"."""
    if interval is None or not finite(interval):
        return NOT_MEASURED
    value, low, high = (points(end) for end in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def change_interval(change: Interval | None, margin: float | None = None) -> str:
    """A change of a share with its interval, in points: "+0.3 (-1.2 to +1.8)"."""
    if change is None or not finite(change):
        return NOT_MEASURED
    decimals = points_decimals(change, margin)
    value, low, high = (
        signed(100 * end, decimals) for end in (change.value, change.low, change.high)
    )
    return f"{value} ({low} to {high})"


def megabytes(size: int | None) -> str:
    """Bytes as MB, 10^6 bytes."""
    return NOT_MEASURED if size is None else f"{significant(size / 1e6)}{GAP}MB"


def milliseconds(value: float | None) -> str:
    """A time in milliseconds."""
    return NOT_MEASURED if value is None else f"{significant(value)}{GAP}ms"


def times(ratio: float) -> str:
    """A ratio, two significant figures."""
    return significant(ratio, 2)


def large(number: int | None) -> str:
    """A large count in millions or thousand millions: parameters, multiply-adds."""
    if number is None:
        return NOT_MEASURED
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{significant(number / size)}{GAP}{unit}"
    return f"{number:,}"


def duration(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 60:
        return f"{significant(seconds, 2)}{GAP}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}{GAP}min"
    return f"{minutes // 60}{GAP}h {minutes % 60}{GAP}min"


def moment(stamp: str) -> str:
    """An ISO time as a person writes it; what is no ISO time is left as it is.

    Example:
        >>> moment("2026-02-03T10:11:12+00:00")
        '3 February 2026, 10:11 UTC'
    """
    try:
        when = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    # month names from here, not from the locale of the machine
    return f"{when.day} {MONTHS[when.month - 1]} {when.year}, {when:%H:%M} {when:%Z}".rstrip()
