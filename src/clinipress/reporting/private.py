"""A result without what names a patient: for what is sent, and for all pages of a strict study.

Left out are pictures, names of files, paths, and columns that identify; counts and figures stay.
Names of images become "image 1", "image 2", the same one for the same image on all pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from clinipress.records.judgement import Judgements
from clinipress.records.result import Audit, ExternalTest, LeftOut, Result, Unreadable

__all__ = ["LEFT_OUT", "identifies", "kept", "sent", "without_names", "without_paths"]

LEFT_OUT = "left out"
# Keys of a study, or of a step's parameters, whose text says where something lies.
PATHS = frozenset(("path", "file", "checkpoint", "masks", "sample", "data", "folder"))
LOCATION = re.compile(
    r"(?:[/~]|\.{1,2}[/\\]|[A-Za-z]:[\\/]).*|.*\.(?:safetensors|pt|pth|ckpt|onnx|csv|tsv|npz|ya?ml)"
)
WORDS = frozenset(
    (
        *("accession", "address", "birth", "birthdate", "birthday", "city", "date", "dates"),
        *("datetime", "dob", "email", "file", "filename", "firstname", "forename", "id", "ids"),
        *("identifier", "insurance", "lastname", "mail", "mrn", "name", "names", "number", "path"),
        *("phone", "physician", "pid", "postcode", "radiologist", "ssn", "street", "surname"),
        *("telephone", "time", "timestamp", "uid", "uids", "uri", "url", "zip", "zipcode"),
    )
)
MOST_VALUES = 20  # a column of more is no group of people, as for the subgroups


def kept(result: Result) -> Result:
    """What the run folder's own pages and ``result.json`` are made from."""
    return without_names(result) if _privacy(result) == "strict" else result


def sent(result: Result) -> Result:
    """What is made to be sent is made from: bundle, model card, dossier."""
    return result if _privacy(result) == "full" else without_names(result)


def _privacy(result: Result) -> str:
    return str(result.recipe.get("privacy", "standard"))


def identifies(column: str, values: Iterable[str] = ()) -> bool:
    """Whether a column of a manifest tells who somebody is, by its name or its many values."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", column)
    named = {word.lower() for word in words} | {column.lower()}
    return bool(named & WORDS) or column.lower() == "patient" or len(set(values)) > MOST_VALUES


def without_paths(tree: Any, key: str = "") -> Any:
    """Plain data in which whatever says where something lies is left out."""
    if isinstance(tree, Mapping):
        return {name: without_paths(value, name) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(without_paths(value, key) for value in tree)
    if isinstance(tree, str) and (key in PATHS or LOCATION.fullmatch(tree)):
        return LEFT_OUT
    return tree


class _Names:
    """One plain name for each image or file, and the texts in which the true ones stood."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __call__(self, name: str, kind: str = "image") -> str:
        return self._names.setdefault(name, f"{kind} {len(self._names) + 1}")

    def cleaned(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Texts in which each name known by now is replaced."""
        known = sorted(self._names.items(), key=lambda pair: -len(pair[0]))
        return tuple(_replaced(text, known) for text in texts)


def _replaced(text: str, known: Iterable[tuple[str, str]]) -> str:
    for name, instead in known:
        if len(name) > 2 and name in text:
            text = text.replace(name, instead)
    return text


def without_names(result: Result) -> Result:
    """The record with the names left out."""
    names = _Names()
    columns = _identifying(result)
    candidates = []
    for record in result.candidates:
        judgements = {
            split: _judgements(section, names, columns)
            for split, section in record.judgements.items()
        }
        history = tuple(
            step.model_copy(
                update={"params": without_paths(step.params), "facts": without_paths(step.facts)}
            )
            for step in record.history
        )
        update = {"judgements": judgements, "history": history}
        candidates.append(record.model_copy(update=update))
    audit = _audit(result.audit, names, columns).model_copy(update={"path": result.study})
    cleaned = result.model_copy(
        update={
            "candidates": tuple(candidates),
            "audit": audit,
            "recipe": without_paths(result.recipe),
            "external_tests": tuple(_external(test, names) for test in result.external_tests),
        }
    )
    return _without_values(cleaned, columns)


def _identifying(result: Result) -> dict[str, tuple[str, ...]]:
    """Columns that identify and their values, of the study's images and of those from elsewhere."""
    known: dict[str, list[str]] = {name: list(x) for name, x in result.audit.groups.items()}
    for record in result.candidates:
        for sections in record.judgements.values():
            groups = sections.subgroups.groups if sections.subgroups else ()
            for group in groups:
                known.setdefault(group.column, []).append(group.value)
            for flip in sections.disagreement.flips if sections.disagreement else ():
                for column, value in flip.groups.items():
                    known.setdefault(column, []).append(value)
    unique = {column: tuple(dict.fromkeys(values)) for column, values in known.items()}
    return {column: values for column, values in unique.items() if identifies(column, values)}


def _audit(audit: Audit, names: _Names, columns: Mapping[str, Any]) -> Audit:
    def pairs(entries: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(e.model_copy(update={"a": names(e.a), "b": names(e.b)}) for e in entries)

    update = {
        "groups": {name: values for name, values in audit.groups.items() if name not in columns},
        "duplicate_pairs": pairs(audit.duplicate_pairs),
        "conflicting_labels": pairs(audit.conflicting_labels),
        "leaked_images": {
            where: tuple(map(names, keys)) for where, keys in audit.leaked_images.items()
        },
        "unreadable": _files(audit.unreadable, names),
        "refused": _files(audit.refused, names),
        "dark": _files(audit.dark, names),
        "left_out": tuple(_left_out(entry, names) for entry in audit.left_out),
    }
    return audit.model_copy(update=update | {"warnings": names.cleaned(audit.warnings)})


def _files(entries: Iterable[Unreadable], names: _Names) -> tuple[Unreadable, ...]:
    return tuple(
        Unreadable(path=names(entry.path), reason=_unnamed(entry, names(entry.path)))
        for entry in entries
    )


def _left_out(entry: LeftOut, names: _Names) -> LeftOut:
    path = entry.path if entry.kind == "column" else names(entry.path, entry.kind)
    return entry.model_copy(update={"path": path, "reason": _unnamed(entry, path)})


def _unnamed(entry: Unreadable | LeftOut, instead: str) -> str:
    """Its reason, which may hold its own path or name."""
    last = entry.path.replace("\\", "/").rpartition("/")[2]
    return _replaced(entry.reason, ((entry.path, instead), (last, instead)))


def _external(test: ExternalTest, names: _Names) -> ExternalTest:
    update: dict[str, Any] = {"unreadable": _files(test.unreadable, names)}
    if test.overlap is not None:
        examples = tuple((names(a), names(b)) for a, b in test.overlap.examples)
        update["overlap"] = test.overlap.model_copy(update={"examples": examples})
    return test.model_copy(update=update | {"warnings": names.cleaned(test.warnings)})


def _judgements(sections: Judgements, names: _Names, columns: Mapping[str, Any]) -> Judgements:
    update: dict[str, Any] = {}
    if sections.operating is not None:
        rows = tuple(
            row.model_copy(update={"newly_missed": tuple(map(names, row.newly_missed))})
            for row in sections.operating.rows
        )
        update["operating"] = sections.operating.model_copy(update={"rows": rows})
    if sections.subgroups is not None:
        groups = sections.subgroups
        update["subgroups"] = groups.model_copy(
            update={
                "columns": tuple(name for name in groups.columns if name not in columns),
                "groups": tuple(g for g in groups.groups if g.column not in columns),
                "gaps": tuple(gap for gap in groups.gaps if gap.column not in columns),
            }
        )
    if sections.disagreement is not None:
        flips = tuple(
            flip.model_copy(
                update={
                    "key": names(flip.key),
                    "picture": None,
                    "groups": {c: v for c, v in flip.groups.items() if c not in columns},
                }
            )
            for flip in sections.disagreement.flips
        )
        by_group = tuple(
            count
            for count in sections.disagreement.by_group
            if count.name.partition(": ")[0] not in columns
        )
        update["disagreement"] = sections.disagreement.model_copy(
            update={"flips": flips, "by_group": by_group}
        )
    if sections.saliency is not None:
        update["saliency"] = sections.saliency.model_copy(update={"panels": ()})
    return sections.model_copy(update=update)


# Where sentences stand, and the facts that they are made of; and what of these is no text.
SPOKEN, FIXED = (
    frozenset(("verdict", "warnings", "limits")),
    frozenset(("kind", "status", "rule", "section", "metric")),
)


def _without_values(result: Result, columns: Mapping[str, Iterable[str]]) -> Result:
    """The same without the values of identifying columns in its sentences."""
    values = {value for known in columns.values() for value in known if len(value) > 2}
    values -= set(result.classes)
    if not values:
        return result
    longest = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
    pattern = re.compile(rf"(?<!\w)(?:{longest})(?!\w)")

    def walk(tree: Any, spoken: bool) -> Any:
        if isinstance(tree, dict):
            return {
                walk(name, spoken): walk(value, (spoken or name in SPOKEN) and name not in FIXED)
                for name, value in tree.items()
            }
        if isinstance(tree, (list, tuple)):
            return type(tree)(walk(entry, spoken) for entry in tree)
        return pattern.sub(LEFT_OUT, tree) if spoken and isinstance(tree, str) else tree

    return Result.model_validate(walk(result.model_dump(), spoken=False))
