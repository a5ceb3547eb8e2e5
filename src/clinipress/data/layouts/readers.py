"""Tables with several rows of one image: a finding in each row, or the answer of each reader.

Rows of one reader are taken together. Where several readers saw an image and differ, the study must
say which of them counts (``data.readers``); an image is one case however many rows it has.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clinipress.data.layouts.findings import BESIDE_NOTHING, Known, has_place_beside_nothing
from clinipress.data.layouts.items import LeftOuts, ReaderRule, loosely
from clinipress.errors import DataError
from clinipress.records.item import ImageItem
from clinipress.text import counted, joined

__all__ = ["BY_IMAGE", "ByImage", "ReadRows", "by_image", "is_box", "reader_column"]

# Names of the column that says who read an image, without case and marks: "rad_id", "Reader"
_READER = re.compile(
    "(reader|rater|annotator|radiologist|observer|grader|reviewer|labell?er|pathologist|"
    "dermatologist|ophthalmologist|expert|physician)(u?id|no|nr|number|name|code)?|rad(u?id|no|nr)"
)
# What a row says of a field of the image, and not of the whole: RSNA's and VinDr's boxes
_BOX = re.compile(
    "[xy](min|max|[012])?|[xywh]|width|height|bbox.*|box.*|area|class(id|no|number)|categoryid"
)
BY_IMAGE = "differs between the rows of one image: no group"


@dataclass(frozen=True)
class ReadRows:
    """What a table's rows say, and who says it.

    Attributes:
        names: The findings; none: each row has one label.
        complete: What a reader does not name is absent.
        nothing: Rows that say that there is no finding.
        readers: Who read each row; None: the table does not say.
        joint: A cell names several findings at once.
        judged: Findings, spelt loosely, beside which "No Finding" counts; None: all.
        noted: It is noted where one reader says both, and not refused.
    """

    names: Sequence[str] = ()
    complete: bool = False
    nothing: frozenset[int] = frozenset()
    readers: Sequence[str] | None = None
    joint: bool = False
    judged: frozenset[str] | None = None
    noted: bool = False


@dataclass(frozen=True)
class ByImage:
    """Each image once.

    Attributes:
        items: In the order of their first rows.
        complete: What is not in an item's findings is absent.
        differing: Images whose readers differ; None: nobody read one twice.
        columns: Group columns that say the same in all rows of each image.
        notes: How rows were taken together.
    """

    items: list[ImageItem]
    complete: bool
    differing: int | None
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()


def reader_column(columns: Sequence[tuple[str, str]]) -> str | None:
    """The column that says who read, of (name, name without case and marks)."""
    return next((name for name, plain in columns if _READER.fullmatch(plain)), None)


def by_image(
    items: list[ImageItem],
    said: ReadRows,
    rule: ReaderRule | None,
    columns: tuple[str, ...],
    path: Path,
    left_out: LeftOuts,
) -> ByImage:
    """Rows to images.

    Args:
        items: One for each row of the table.
        said: What else is known of the rows.
        rule: Which answer counts where readers differ; None: none was declared.
        columns: The group columns.
        path: The table.
        left_out: Takes the columns that are none, and images without a majority.

    Raises:
        DataError: Readers differ and there is no rule; one of them contradicts himself; or rows of
            one image name several patients or splits.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        rows[item.key].append(number)
    several = {key: own for key, own in rows.items() if len(own) > 1}
    own_label = not said.names
    if not several or _as_they_are(items, several, said, rule, columns):
        return ByImage(items, said.complete, None, columns)  # `_distinct` says what does not fit
    votes = _are_votes(items, several, said, rule)
    readings = {key: _readings(items, own, said, votes, path) for key, own in several.items()}
    differing = [key for key, of in readings.items() if _differ(of)]
    if differing and rule is None:
        raise _no_rule(differing, readings, len(rows), path, own_label)
    if own_label and rule == "any" and differing:
        raise DataError("data.readers: majority", "any, where images have one label each", None)
    # an answer that no majority gave is unknown, which a list of what is present cannot say
    complete = said.complete and said.readers is None and rule is None
    kept = _same_columns(items, several, columns, path, left_out)
    merged, open_answers = [], 0
    for key, own in rows.items():
        known, label, ties = _answer(items[own[0]], readings.get(key, ()), said, rule)
        open_answers += ties
        if label is None:
            left_out.add(key, "image", "no label has a majority of its readers")
            continue
        if complete:
            known = {name: there for name, there in known.items() if there}
        item = _one_item(items, own, path)
        groups = {name: cell for name, cell in item.groups.items() if name in kept}
        findings = None if own_label else known
        merged.append(replace(item, label=label, findings=findings, groups=groups))
    boxes = own_label and said.readers is None and rule is None
    most = 1 if boxes else max(map(len, readings.values()))
    note = f"'{path.name}': {len(items):,} rows are {counted(len(rows), 'image')}"
    note += _reading_words(most, len(differing), rule, open_answers, own_label)
    notes = [note]
    odd = 0
    if said.noted and not votes:
        odd = sum(
            any(_beside_nothing(items, numbers, said) for numbers in _by_reader(own, said))
            for own in several.values()
        )
    if odd:
        both = f"{counted(odd, 'image')} of '{path.name}' {BESIDE_NOTHING}"
        notes.append(f"{both}: 'clinipress run' refuses them")
    return ByImage(merged, complete, len(differing) if most > 1 else None, kept, tuple(notes))


def _reading_words(
    most: int, differing: int, rule: ReaderRule | None, undecided: int, own_label: bool
) -> str:
    if most == 1:
        return "" if own_label else ": the findings of all rows of an image are taken together"
    text = f", read by up to {most} readers, who differ on {differing:,}"
    text += f": data.readers: {rule} decides" if differing else ""
    if undecided:
        what = "left out" if own_label else "never counted"
        text += f"; {undecided:,} without a majority: {what}"
    return text


def _answer(
    item: ImageItem, readings: Sequence[Known | str], said: ReadRows, rule: ReaderRule | None
) -> tuple[Known, str | None, int]:
    """What counts of an image: its findings, its label (None: no majority), and what is open."""
    if not said.names:
        labels = [reading for reading in readings if isinstance(reading, str)] or [item.label]
        label, votes = Counter(labels).most_common(1)[0]
        decided = 2 * votes > len(labels)
        return {}, label if decided else None, not decided
    known = dict(item.findings or {})
    if said.complete:
        known = {name: known.get(name, False) for name in said.names}
    ties = 0
    if readings:
        known, ties = _decided([r for r in readings if not isinstance(r, str)], rule)
    return known, item.label, ties


def _as_they_are(
    items: Sequence[ImageItem],
    several: dict[str, list[int]],
    said: ReadRows,
    rule: ReaderRule | None,
    columns: Sequence[str],
) -> bool:
    """Whether rows say the same again, or, with a label each, anything but fields of the image."""
    if said.readers is not None or (not said.names and rule is not None):
        return False
    boxes = {name for name in columns if is_box(name)}

    def differ(without: set[str]) -> bool:
        return any(
            replace(items[n], groups=_without(items[n], without))
            != replace(items[own[0]], groups=_without(items[own[0]], without))
            for own in several.values()
            for n in own
        )

    return not differ(set()) or (not said.names and (not boxes or differ(boxes)))


def _without(item: ImageItem, columns: set[str]) -> dict[str, str]:
    return {name: cell for name, cell in item.groups.items() if name not in columns}


def is_box(name: str) -> bool:
    """Whether a column says something of a field of the image, as `class_id` and `x_min` do."""
    return bool(_BOX.fullmatch(re.sub(r"[\W_]+", "", name).casefold()))


def _are_votes(
    items: Sequence[ImageItem],
    several: dict[str, list[int]],
    said: ReadRows,
    rule: ReaderRule | None,
) -> bool:
    """Whether each row is the answer of a reader whom the table does not name.

    Rows of one finding each are so only where a majority is asked for and the rows of most images
    say the same again or contradict each other; else they say together what an image shows.
    """
    if said.readers is not None or not said.names:
        return False
    if not said.complete or said.joint:
        return True
    again = sum(
        _contradict(items, own, said) or len({items[n].label for n in own}) < len(own)
        for own in several.values()
    )
    return rule == "majority" and 2 * again > len(several)


def _contradict(items: Sequence[ImageItem], own: Sequence[int], said: ReadRows) -> bool:
    """Whether rows name a finding, and that there is none."""
    return any(n in said.nothing for n in own) and any(items[n].present for n in own)


def _readings(
    items: Sequence[ImageItem], own: Sequence[int], said: ReadRows, votes: bool, path: Path
) -> list[Known | str]:
    """What each reader says of one image: a label, or all that is known of its findings."""
    if said.readers is None and not said.names:
        return [items[number].label for number in own]
    if votes:
        return _repeated(items, own, said)
    return [_reading(items, numbers, said, path) for numbers in _by_reader(own, said)]


def _by_reader(own: Sequence[int], said: ReadRows) -> Iterable[Sequence[int]]:
    """The rows of one image, apart by who read them."""
    parts: dict[str, list[int]] = defaultdict(list)
    for number in own:
        parts["" if said.readers is None else said.readers[number]].append(number)
    return parts.values()


def _beside_nothing(
    items: Sequence[ImageItem], numbers: Sequence[int], said: ReadRows
) -> tuple[int, str] | None:
    """The row in which one reader says that there is no finding, and one that he names."""
    healthy = next((number for number in numbers if number in said.nothing), None)
    present = (
        name
        for number in numbers
        for name in sorted(items[number].present)
        if not has_place_beside_nothing(name)
        and (said.judged is None or loosely(name) in said.judged)
    )
    name = None if healthy is None else next(present, None)
    return None if healthy is None or name is None else (healthy, name)


def _reading(
    items: Sequence[ImageItem], numbers: Sequence[int], said: ReadRows, path: Path
) -> Known | str:
    """What the rows of one reader say of one image."""
    first = items[numbers[0]]
    if not said.names:
        for number in numbers:
            if items[number].label != first.label:
                raise _contradiction(items, number, said, first.label, items[number].label, path)
        return first.label
    healthy = [number for number in numbers if number in said.nothing]
    odd = _beside_nothing(items, numbers, said)
    if odd and not said.noted:
        raise _contradiction(items, odd[0], said, "no finding", odd[1], path)
    known: Known = {}
    for number in numbers:
        for name, there in (items[number].findings or {}).items():
            if known.setdefault(name, there) != there:
                words = f"{name} present", f"{name} absent"
                raise _contradiction(items, number, said, *words, path)
    return _filled(known, said, bool(healthy))


def _filled(known: Known, said: ReadRows, healthy: bool) -> Known:
    """With what is absent because nobody names it, or because nothing is there."""
    if not (said.complete or healthy):
        return known
    absent = (n for n in said.names if said.complete or not has_place_beside_nothing(n))
    return {**dict.fromkeys(absent, False), **known}


def _repeated(
    items: Sequence[ImageItem], numbers: Sequence[int], said: ReadRows
) -> list[Known | str]:
    """Where nobody says who read: what is said again of a finding is another reader's answer."""
    readings: list[Known] = []
    for number in sorted(numbers, key=lambda number: number in said.nothing):
        known = _filled(dict(items[number].findings or {}), said, number in said.nothing)
        same = {} if said.complete or number not in said.nothing else known
        free = next((r for r in readings if not r.keys() & known.keys() or r | same == same), None)
        if free is None:
            readings.append(known)
        else:
            free |= known
    return [*readings]


def _differ(readings: Sequence[Known | str]) -> bool:
    labels = {reading for reading in readings if isinstance(reading, str)}
    answers = {
        (name, there)
        for reading in readings
        if not isinstance(reading, str)
        for name, there in reading.items()
    }
    return len(labels) > 1 or len({name for name, _ in answers}) < len(answers)


def _decided(readings: Sequence[Known], rule: ReaderRule | None) -> tuple[Known, int]:
    """What counts as known, and the findings without a majority."""
    answers: dict[str, list[bool]] = defaultdict(list)
    for reading in readings:
        for name, there in reading.items():
            answers[name].append(there)
    if rule != "majority":
        return {name: any(there) for name, there in answers.items()}, 0
    known = {n: 2 * sum(of) > len(of) for n, of in answers.items() if 2 * sum(of) != len(of)}
    return known, len(answers) - len(known)


def _one_item(items: Sequence[ImageItem], own: Sequence[int], path: Path) -> ImageItem:
    """The image of some rows, which must not be torn apart by them."""
    first = items[own[0]]
    for number in own:
        other = items[number]
        for what, mine, theirs in (
            ("patient", first.patient, other.patient),
            ("split", first.split, other.split),
            *((kind, name, other.units.get(kind)) for kind, name in first.units.items()),
        ):
            if mine != theirs:
                raise DataError(
                    f"one {what} for each image of '{path}'",
                    f"'{mine or 'none'}' and '{theirs or 'none'}' for '{first.key}'",
                    "correct its rows",
                )
    return first


def _same_columns(
    items: Sequence[ImageItem],
    several: dict[str, list[int]],
    columns: Sequence[str],
    path: Path,
    left_out: LeftOuts,
) -> tuple[str, ...]:
    kept = []
    for name in columns:
        cells = ({items[n].groups.get(name) for n in own} for own in several.values())
        if not is_box(name) and all(len(values) == 1 for values in cells):
            kept.append(name)
        else:
            left_out.add(f"{path.name}: {name}", "column", BY_IMAGE)
    return tuple(kept)


def _contradiction(
    items: Sequence[ImageItem], number: int, said: ReadRows, before: str, after: str, path: Path
) -> DataError:
    who = "" if said.readers is None else f" by reader '{said.readers[number]}'"
    return DataError(
        f"one answer{who} for each image of '{path}'",
        f"{before} and {after} for '{items[number].key}'",
        "correct its rows" + ("" if who else ", or name who read in a column 'reader'"),
    )


def _no_rule(
    differing: Sequence[str],
    readings: dict[str, list[Known | str]],
    images: int,
    path: Path,
    own_label: bool,
) -> DataError:
    shown = [
        reading
        if isinstance(reading, str)
        else "|".join(name for name, there in reading.items() if there) or "none"
        for reading in readings[differing[0]]
    ]
    rest = "" if own_label else ", or any (present where one of them says so)"
    return DataError(
        f"one answer for each image of '{path}', or a rule where its readers differ",
        f"{counted(len(differing), 'image')} of {images:,} whose rows differ, such as "
        f"'{differing[0]}' ({joined([*dict.fromkeys(shown)])})",
        f"declare data.readers: majority{rest}; of a set from elsewhere, --readers",
    )
