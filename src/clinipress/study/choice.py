"""Which file is shipped to which device, decided on validation before the test split is opened.

Among the files whose verdict is best (pass before inconclusive; a failed file is never shipped) and
that fit the device, the fastest here is taken, and the smallest of those that are equally fast; for
a device whose engine is not on this machine, the precision that is listed first for it, then the
smallest file. Without a device: the largest product of size and speed gains over the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clinipress.records.result import TargetOutcome
from clinipress.study.devices import Target, fits, unknown
from clinipress.study.policy import objection
from clinipress.study.scorecard import Row, Scorecard
from clinipress.text import (
    capital,
)

__all__ = ["Choice", "blocked", "choose"]

RANK = {"pass": 0, "inconclusive": 1, "fail": 2}
FASTER = ("int8", "int8-dynamic", "mixed")  # precisions that promise time
NOISE = 0.05  # of a median of interleaved calls, between one run and the next


@dataclass(frozen=True)
class Choice:
    """What is shipped.

    Attributes:
        shipped: Name of the file for the first device that gets one, or None.
        finalists: Names of the candidates whose test scores are wanted; none where nothing is
            shipped, and the test split stays sealed.
        outcomes: One per device the study aims at.
    """

    shipped: str | None = None
    finalists: tuple[str, ...] = ()
    outcomes: tuple[TargetOutcome, ...] = ()


def choose(card: Scorecard) -> Choice:
    """Decide on validation, and write into each row that is not shipped why."""
    able = [row for row in card.rows[1:] if blocked(card, row) is None]
    for row in card.rows[1:]:
        row.rejected = blocked(card, row)
    targets: Sequence[Target | None] = card.targets or (None,)
    best = {target.name if target else "": _best(card, able, target) for target in targets}
    outcomes = tuple(_outcome(card, target, best[target.name]) for target in card.targets)
    shipped = [row for row in best.values() if row is not None]
    if not shipped:
        return Choice(outcomes=outcomes)  # nothing to decide: the test split stays sealed
    for row in able:
        if row not in shipped:
            row.rejected = "; ".join(
                dict.fromkeys(
                    _why_not(card, row, chosen, target)
                    for target, chosen in zip(targets, best.values(), strict=True)
                    if chosen is not None and not _misfits(row, target)
                )
            )
    controls = [found for row in able if (found := card.control(row)) is not None]
    finalists = (card.reference.name, *(row.name for row in [*able, *controls]))
    return Choice(shipped[0].name, finalists, outcomes)


def _best(card: Scorecard, able: Sequence[Row], target: Target | None) -> Row | None:
    """The row to ship to a device."""
    fit = [row for row in able if not _misfits(row, target)]
    if not fit:
        return None
    status = min(RANK[row.verdicts["validation"].status] for row in fit)
    fit = [row for row in fit if RANK[row.verdicts["validation"].status] == status]
    if target is None:
        return max(fit, key=card.gain)
    timed = [row for row in fit if row.cost["latency"]]
    if not timed:
        order = target.precisions.index
        return min(fit, key=lambda r: (order(r.file.card.precision), r.cost["file_bytes"]))
    limit = min(_median(row) for row in timed) * (1 + NOISE)
    return min(
        (row for row in timed if _median(row) <= limit), key=lambda row: row.cost["file_bytes"]
    )


def _median(row: Row) -> float:
    return float(row.cost["latency"]["median"])


def blocked(card: Scorecard, row: Row) -> str | None:
    """Why a row must not be shipped, whatever the others are; None where it may.

    A file in low precision has to be what it is named after, and not slower than the float32 file
    it was made from, where time is what its precision is for. A file has to fit one of the devices
    of the study.
    """
    if row.to is not None:
        return f"A control: it is here to be compared with '{row.to}', never shipped."
    file = row.file.card
    barred = objection(card.runner.study.risk, file.history, file.precision)
    if barred:
        return barred
    warning = file.history[-1].facts.get("warning")
    if warning:
        return f"Named {file.precision}, but {warning}."
    verdict = row.verdicts["validation"]
    if verdict.status == "fail":
        return "Failed its gate on validation. " + " ".join(verdict.deciding[:1])
    return _slow(card, row) or _unfit(card, row)


def _slow(card: Scorecard, row: Row) -> str | None:
    """Slower than in float32, in a precision that promises time."""
    if row.file.card.precision not in FASTER or not row.cost or not row.cost["latency"]:
        return None
    parent = card.network(row)
    mine, other = _median(row), _median(parent)
    if mine <= other * (1 + NOISE):
        return None
    return f"Slower than '{parent.name}' in float32: {mine:.2f} against {other:.2f} ms."


def _unfit(card: Scorecard, row: Row) -> str | None:
    """What speaks against every device."""
    if not card.targets or not row.cost:
        return None
    found = {target.title: _misfits(row, target) for target in card.targets}
    if not all(found.values()):
        return None
    # the device's name stands in every sentence but of those about memory and time of few devices
    said = "; ".join(dict.fromkeys(reason for reasons in found.values() for reason in reasons))
    return capital(said) + "."


def _misfits(row: Row, target: Target | None) -> tuple[str, ...]:
    if target is None or not row.cost:
        return ()
    latency = row.cost["latency"]
    return fits(
        target, row.cost["file_bytes"], row.cost["peak_memory"],
        row.file.card.format, row.file.card.precision, latency["median"] if latency else None,
    )  # fmt: skip


def _why_not(card: Scorecard, row: Row, best: Row, target: Target | None) -> str:
    mine, other = row.verdicts["validation"].status, best.verdicts["validation"].status
    where = f" for {target.title}" if target and len(card.targets) > 1 else ""
    if RANK[mine] > RANK[other]:
        return f"'{best.name}' passed on validation; here the cases were too few to tell."
    if target is None:
        return (
            f"'{best.name}' gains more: size times speed {card.gain(best):.0f}-fold over the "
            f"reference, here {card.gain(row):.0f}-fold."
        )
    if not row.cost["latency"] or not best.cost["latency"]:
        return f"'{best.name}' is the better kind of file{where}, and was not timed here either."
    if _median(row) > _median(best) * (1 + NOISE):
        return f"'{best.name}' is faster{where}: {_median(best):.2f} against {_median(row):.2f} ms."
    return f"'{best.name}' is as fast and smaller{where}."


def _outcome(card: Scorecard, target: Target, best: Row | None) -> TargetOutcome:
    tried = {row.file.card.format for row in card.rows}
    rest = tuple(name for name in target.formats if name not in tried)
    facts = {"name": target.name, "title": target.title, "runtime": target.runtime}
    if best is None:
        return TargetOutcome(**facts, shipped=None, formats_not_tried=rest)
    latency = best.cost["latency"]
    return TargetOutcome(
        **facts,
        shipped=best.name,
        unknown=unknown(target, best.cost["peak_memory"], latency["median"] if latency else None),
        formats_not_tried=rest,
    )
