"""What only people can say: kept in a file of their own, which no command writes twice.

``dossier-answers.yaml`` in the run folder is made with empty answers the first time; from then on
it is read, into the dossier and the model card, and never written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import Field

from clinipress.errors import InputError
from clinipress.records.base import Record
from clinipress.reporting.dossier.checklists import CLAIM, TRIPOD_AI, Item
from clinipress.reporting.dossier.plan import SIGNERS, YOURS, Signature
from clinipress.reporting.markdown import bullet_list, escape

__all__ = [
    "ANSWERS",
    "CHOICE",
    "MADE",
    "NOTHING_SAID",
    "PLANNED",
    "QUESTIONS",
    "RISKS",
    "UPDATES",
    "MakerAnswers",
    "cells",
    "left",
    "read_answers",
    "template",
]

ANSWERS = "dossier-answers.yaml"
# Key in the file -> what is asked; grouped as the dossier and the card have them.
QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "ethics": "ethics committee, its decision and number",
        "consent": "consent of the patients, or why none was needed",
        "funding": "funding, and the role of the funders",
        "conflicts_of_interest": "conflicts of interest",
        "data_origin": "origin, dates and licence of the images",
        "licence": "licence of the model",
        "developer": "developed by, contact",
        "users": "users, patients, place in the care pathway",
        "planned_modifications": (
            "which of these modifications are planned for the device, how often, and why"
        ),
        "within_intended_use": "that each keeps the device within its intended use",
        "all_devices": "whether they apply to all devices alike or differ by site",
        "verification": (
            "how a modification is verified and validated on the device before it is released"
        ),
        "distribution": (
            "how it is distributed, and whether automatically or by hand, to all or to some"
        ),
        "informing_users": "how users are told: labelling, version, what changed",
        "monitoring": (
            "how its performance is monitored in use, and what triggers a return to the version "
            "before"
        ),
        "harm": "risk of harm to patients of each way to be wrong, and how it is controlled",
        "other_parts": "effects of a modification on other parts of the device",
        "option": "the option chosen",
        "acceptable_loss": (
            "why what is lost is acceptable for this use, in the clinician's words"
        ),
        "conditions": "conditions (sites, devices, monitoring, until when)",
    }
)
PLANNED = ("planned_modifications", "within_intended_use", "all_devices")
UPDATES = ("verification", "distribution", "informing_users", "monitoring")
RISKS = ("harm", "other_parts")
CHOICE = ("option", "acceptable_loss", "conditions")
MADE = ("ethics", "consent", "funding", "conflicts_of_interest", "data_origin")
# Items of the checklists that such an answer is to.
ITEMS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "claim_2024": {"44": ("funding",)},
        "tripod_ai": {
            "17": ("ethics", "consent"),
            "18a": ("funding",),
            "18b": ("conflicts_of_interest",),
        },
    }
)


class MakerAnswers(Record):
    """The file's content.

    Attributes:
        answers: Key of `QUESTIONS` -> what the maker says.
        claim_2024: Item of CLAIM -> likewise.
        tripod_ai: Item of TRIPOD+AI -> likewise.
        signatures: One per role.
    """

    answers: dict[str, str] = Field(default_factory=dict)
    claim_2024: dict[str, str] = Field(default_factory=dict)
    tripod_ai: dict[str, str] = Field(default_factory=dict)
    signatures: tuple[Signature, ...] = tuple(Signature(role=role) for role in SIGNERS)

    def __getitem__(self, key: str) -> str:
        return self.answers.get(key, "")

    def of_item(self, checklist: str, number: str) -> str:
        """What people say to an item of a checklist, by its number or by a question above."""
        own = [getattr(self, checklist).get(number, "")]
        own += [self[key] for key in ITEMS[checklist].get(number, ())]
        return " ".join(text for text in own if text)


NOTHING_SAID = MakerAnswers()


def left(answers: MakerAnswers, keys: Iterable[str]) -> str:
    """What the maker has to say, or has said, one line each."""
    lines = []
    for key in keys:
        question, said = escape(QUESTIONS[key]), escape(answers[key])
        lines.append(
            f"{question[0].upper()}{question[1:]}: {said}" if said else f"*{YOURS}*: {question}"
        )
    return bullet_list(lines)


def cells(signed: Signature) -> list[str]:
    """What stands in the row of a role."""
    return [signed.name, signed.decision, signed.date, signed.signature]


def template() -> str:
    """The file with nothing answered yet; each question stands beside its key."""
    lines = [
        "# What only people can say. clinipress reads this file into dossier.md and model-card.md",
        "# (clinipress report RUN) and never writes it again. Leave empty what is open.",
        "",
        "answers:",
        *(f'  {key}: ""  # {question}' for key, question in QUESTIONS.items()),
        "",
        "# Items of the checklists by number, in addition to what the records answer.",
    ]
    for name, items in (("claim_2024", CLAIM), ("tripod_ai", TRIPOD_AI)):
        lines += [f"{name}:", *(_asked(item) for item in items if not item.topic or item.rest), ""]
    lines += ["signatures:"]
    for role in SIGNERS:
        lines += [f"  - role: {role}", *(f'    {key}: ""' for key in SIGNED)]
    return "\n".join(lines) + "\n"


SIGNED = ("name", "decision", "date", "signature")


def _asked(item: Item) -> str:
    rest = f": {item.rest}" if item.rest else ""
    return f"  '{item.number}': \"\"  # {item.asks}{rest}"


class _AsTyped(yaml.BaseLoader):
    """Every value is the text that was typed: "no" is no falsehood, and a date no time.

    PyYAML takes the last of several equal keys; which answer was meant, nobody would know.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key.value:.80}' is given twice", key.end_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_KEY = re.compile(r"(?:^|[{,]|- )\s*['\"]?([\w-]+)['\"]?\s*:")


def _slip(problem: Exception, text: str) -> str:
    """Complaint, line, and the key at which it stands or the last one above."""
    if isinstance(problem, RecursionError):
        return "one that is nested too deeply"
    if not isinstance(problem, yaml.MarkedYAMLError) or problem.problem_mark is None:
        return " ".join(str(problem).split())
    mark = problem.problem_mark
    if problem.context_mark and "quoted scalar" in str(problem.context):
        mark = problem.context_mark  # an open quote is noticed lines below
    lines = text.splitlines()[: mark.line + 1]
    lines = [*lines[: mark.line], *(line[: mark.column + 1] for line in lines[mark.line :])]
    keys = [key for line in lines for key in _KEY.findall(line)]
    where = f"{problem.problem} in line {mark.line + 1}"
    return f"{where}, at '{keys[-1]}'" if keys else where


def read_answers(folder: Path) -> MakerAnswers:
    """The answers in a run folder; none where there is no such file.

    Raises:
        InputError: The file is no UTF-8 or no YAML, gives a key twice, or holds one that is not
            asked for.
    """
    path = folder / ANSWERS
    if not path.is_file():
        return NOTHING_SAID
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise InputError(f"UTF-8 in '{path}'", str(problem)) from None
    try:
        tree = yaml.load(text, _AsTyped)
    except (yaml.YAMLError, RecursionError) as problem:
        raise InputError(f"YAML in '{path}'", _slip(problem, text), "put texts in quotes") from None
    parts = _mapping(tree, MakerAnswers.model_fields, path)
    said = parts.get("answers")
    if isinstance(said, dict) and "licence" not in said and "license" in said:
        said["licence"] = said.pop("license")
    known = {
        "answers": tuple(QUESTIONS),
        "claim_2024": tuple(item.number for item in CLAIM),
        "tripod_ai": tuple(item.number for item in TRIPOD_AI),
    }
    update: dict[str, Any] = {
        name: {
            key: _text(text, path) for key, text in _mapping(parts.get(name), keys, path).items()
        }
        for name, keys in known.items()
    }
    rows = parts.get("signatures")
    if rows:
        if not isinstance(rows, list):
            raise InputError(f"a list of signatures in '{path}'", type(rows).__name__)
        fields = tuple(Signature.model_fields)
        update["signatures"] = tuple(
            Signature(
                **{"role": ""} | {k: _text(v, path) for k, v in _mapping(row, fields, path).items()}
            )
            for row in rows
        )
    return MakerAnswers(**update)


def _mapping(tree: Any, keys: Iterable[str], path: Path) -> dict[str, Any]:
    """A mapping of known keys; nothing counts as an empty one."""
    if tree is None or tree == "":
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"names and answers in '{path}'", f"'{str(tree)[:60]}'")
    known = list(keys)
    for key in tree:
        if str(key) not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(known)}"
            raise InputError(f"a key that is asked for in '{path}'", f"'{key}'", hint)
    return {str(key): value for key, value in tree.items()}


def _text(value: Any, path: Path) -> str:
    if isinstance(value, (dict, list)):
        raise InputError(
            f"a text as an answer in '{path}'", f"'{str(value)[:60]}'", "put it in quotes"
        )
    return "" if value in (None, "~", "null") else str(value).strip()
