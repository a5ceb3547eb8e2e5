"""Reading a study: YAML to a checked recipe, with one line for whatever does not fit."""

from __future__ import annotations

import difflib
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from clinipress.errors import RecipeError
from clinipress.recipe.code import check_code, code_behind
from clinipress.recipe.study import Study
from clinipress.recipe.techniques import TECHNIQUES
from clinipress.study.devices import resolve_targets
from clinipress.study.policy import recommended_exports, recommended_steps

__all__ = ["load_study", "parse_study"]

LARGEST_FILE = 10**6  # bytes
DEEPEST, MOST_VALUES = 30, 100_000
KINDS = frozenset(row.kind for row in TECHNIQUES)


def load_study(path: Path, overrides: tuple[str, ...] = (), *, allow_code: bool = False) -> Study:
    """Read a study from YAML.

    Args:
        path: The YAML file.
        overrides: "dotted.key=value" pairs; values are read as YAML, list items by number.
        allow_code: Whether the study may run a user's function that it names as a `factory`; one
            that an override names may.

    Raises:
        RecipeError: The file is missing, is not YAML, or holds a wrong key or value.
        ModelError: It names a user's function, and nobody permitted it.
    """
    if not path.is_file():
        raise RecipeError(
            "a study file (.yaml)", f"no file at '{path}'", "make one with 'clinipress init DATA'"
        )
    if path.stat().st_size > LARGEST_FILE:
        raise RecipeError("a study file under 1 MB", f"{path.stat().st_size:,} bytes in '{path}'")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise RecipeError(
            f"YAML in '{path}'", _where_not_yaml(problem), "check the indentation"
        ) from None
    if not isinstance(tree, dict):
        raise RecipeError(
            f"a mapping of keys in '{path}'", type(tree).__name__, "start with 'name: my-study'"
        )
    typed: set[str] = set()
    _check_plain(tree, str(path))
    for override in overrides:
        value = _override(tree, override)
        _check_plain(value, "--set")
        typed |= _texts(value)
    study = parse_study(tree, where=str(path))
    check_code(code_behind(study), f"a study '{path}'", allow_code or typed)
    return study


class _Loader(yaml.SafeLoader):
    """PyYAML takes the last of several equal keys; which `risk` was meant, nobody would know."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"'{key.value:.80}' is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_plain(tree: Any, where: str) -> None:
    """Refuse what fits into memory once and no second time, or into no file that is written.

    Anchors make a few lines mean billions, or a list that holds itself.
    """
    waiting: list[tuple[Any, int]] = [(tree, 0)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > DEEPEST or count > MOST_VALUES:
            got = f"more than {DEEPEST} levels" if depth > DEEPEST else f"more than {MOST_VALUES:,}"
            raise RecipeError(
                f"at most {MOST_VALUES:,} values and {DEEPEST} levels in {where}",
                f"{got}, as anchors (&, *) can make",
                "write them out",
            )
        if isinstance(value, dict):
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list | tuple | set):
            waiting += [(part, depth + 1) for part in value]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise RecipeError(f"numbers below 2^63 in {where}", f"one of {value.bit_length()} bits")
        elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise RecipeError(f"letters that UTF-8 can hold in {where}", f"{value!a:.80}")


def _where_not_yaml(problem: Exception) -> str:
    """Line, column and complaint, without the parser's picture of the place."""
    if isinstance(problem, RecursionError):
        return "one that is nested too deeply"
    if isinstance(problem, yaml.MarkedYAMLError) and problem.problem_mark is not None:
        mark = problem.problem_mark
        return f"{problem.problem} in line {mark.line + 1}, column {mark.column + 1}"
    return str(problem).replace("\n", " ")


def parse_study(tree: dict[str, Any], where: str = "the study") -> Study:
    """Check a study given as plain data; fill in what is recommended where only a device is given.

    Raises:
        RecipeError: A key or value is wrong; an unknown key is named with the nearest right one.
        InputError: There is no such target.
    """
    try:
        study = Study.model_validate(tree)
    except ValidationError as problem:
        raise _recipe_error(problem, where) from None
    targets = resolve_targets(study.target)
    if not targets or "exports" in tree:
        return study
    filled, file = dict(tree), study.reference.onnx is not None
    if "steps" not in tree:
        # a network that fits the smallest device fits the others
        smallest = min(targets, key=lambda target: target.model_bytes)
        filled["steps"] = recommended_steps(study.risk, smallest, file=file)
    exports: list[dict[str, Any]] = []
    for target in targets:
        wanted = recommended_exports(study.risk, target, file=file and not filled["steps"])
        exports += [export for export in wanted if export not in exports]
    if not exports:
        raise RecipeError(
            f"files of 'reference.onnx' that {', '.join(t.title for t in targets)} runs",
            "none that can be made of an ONNX file alone at this risk level",
            "distil it into a student: steps: [{step: distill, student: ...}]",
        )
    filled["exports"] = exports
    return Study.model_validate(filled)


def _texts(value: Any) -> set[str]:
    """All texts in plain data."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return {text for part in parts for text in _texts(part)}
    return {value} if isinstance(value, str) else set()


def _override(tree: dict[str, Any], override: str) -> Any:
    """Lay one over the tree, in place; the value."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(
            "--set key=value", f"'{override}'", "for example --set reference.train.epochs=5"
        )
    node: Any = tree
    *parents, last = key.split(".")
    try:
        for part in parents:
            if isinstance(node, list):
                node = node[int(part)]
            else:
                if not isinstance(node.get(part), dict | list):
                    node[part] = {}
                node = node[part]
        value = yaml.load(text, _Loader)
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    except (ValueError, IndexError, AttributeError, RecursionError, yaml.YAMLError):
        raise RecipeError(
            f"a key of the study in --set {key}",
            "a path that is not there",
            "list items go by number, from 0",
        ) from None
    return value


def _recipe_error(problem: ValidationError, where: str) -> RecipeError:
    """One line from pydantic's report: the first error, with the nearest right key."""
    error = problem.errors()[0]
    location = [str(part) for part in error["loc"]]
    # pydantic adds the union's tag after a step's number; the user never wrote it
    shown = [
        p
        for i, p in enumerate(location)
        if not (p in KINDS and i >= 2 and location[i - 2] == "steps")
    ]
    path = ".".join(shown) or "the top level"
    if error["type"] == "extra_forbidden":
        known = _known_keys(Study, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys here: {', '.join(known)}"
        return RecipeError(f"known keys in {where}", f"'{path}'", hint)
    message = str(error["msg"]).removeprefix("Value error, ")
    return RecipeError(f"'{path}' in {where} to fit", f"{error['input']!r:.80}", message)


def _known_keys(model: Any, location: list[str]) -> list[str]:
    """Field names of the part of the study that `location` points at."""
    if not location:
        return (
            list(model.model_fields)
            if isinstance(model, type) and issubclass(model, BaseModel)
            else []
        )
    head, *rest = location
    if isinstance(model, type) and issubclass(model, BaseModel):
        field = model.model_fields.get(head)
        if field is None:
            return []
        return _known_keys(_only_model(field.annotation, rest), _strip(rest))
    return []


def _strip(location: list[str]) -> list[str]:
    """Drop a leading list number and the union tag behind it."""
    if location and location[0].isdigit():
        return location[2:] if len(location) > 1 and location[1] in KINDS else location[1:]
    return location


def _only_model(annotation: Any, rest: list[str]) -> Any:
    """The model behind Optional, Annotated, tuple or a union chosen by its tag."""
    origin = typing.get_origin(annotation)
    if origin is None:
        return annotation
    options = [_only_model(a, rest) for a in typing.get_args(annotation) if a is not type(None)]
    models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
    if origin in (typing.Union, types.UnionType) and len(models) > 1 and len(rest) > 1:
        tagged = [
            m
            for m in models
            if "step" in m.model_fields and m.model_fields["step"].default == rest[1]
        ]
        return (tagged or models)[0]
    return models[0] if models else None
