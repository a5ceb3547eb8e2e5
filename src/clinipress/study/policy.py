"""What a risk level allows, recommends, and tries next: the guide's table as data.

The table is that of the clinical edge compression guide ("Model Compression for Healthcare",
Nirmitee.io, 18 March 2026): critical, quantization-aware training only and never quantization after
training alone; high, quantization-aware training and iterative pruning; medium, distillation and
quantization-aware training; low, aggressive distillation and 4-bit weights. Each level also allows
what the levels above it allow. The guide does not say where quantization after training belongs:
we allow it from medium down, where the gate has to let it pass like anything else.

A policy says what may be shipped, whatever was measured; the gate says what was lost. Nothing here
needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from clinipress.formats.open import installed
from clinipress.recipe.formats import format_facts, precision_facts
from clinipress.recipe.study import Study
from clinipress.recipe.techniques import POLICY_NAMES, step_names, technique_of
from clinipress.records.candidate import Applied
from clinipress.records.result import Record, RiskLevel
from clinipress.study.devices import Target

__all__ = [
    "POLICIES",
    "RiskPolicy",
    "bars",
    "next_steps",
    "objection",
    "recommended_exports",
    "recommended_steps",
    "techniques",
]

NAMES = MappingProxyType({name.key: name.words for name in POLICY_NAMES})


class RiskPolicy(Record):
    """What one risk level stands for.

    Attributes:
        risk: The level.
        allowed: Techniques (keys of `NAMES`) that a shipped file may have gone through; training
            on labels, and files of float32 and float16, are always allowed.
        steps: Recommended steps of a study, as a recipe writes them.
        exports: Recommended exports, as a recipe writes them.
        source: Where the level's techniques come from.
    """

    risk: RiskLevel
    allowed: tuple[str, ...]
    steps: tuple[dict[str, Any], ...]
    exports: tuple[dict[str, Any], ...]
    source: str


GUIDE = "Nirmitee.io, Model Compression for Healthcare, 18 March 2026, risk table"
FLOAT16, INT8 = {"precision": "float16"}, {"precision": "int8"}
ROUNDS = {"step": "prune", "ratio": 0.5, "rounds": 5}
# What was pruned learns on from the reference; and, where more may be lost, a small dense network:
# from random weights depthwise ones learn much more slowly (LOG.md)
FURTHER = {"step": "distill", "train": {"epochs": 30, "learning_rate": 0.0005}}
SMALL = {"name": "resnet18", "arguments": {"channels": [32, 64, 128, 192]}}
STUDENT = {"step": "distill", "student": SMALL, "train": {"batch_size": 16}}

# Files under this many bytes: a network of some hundred thousand weights
MICROCONTROLLER = 2_000_000
TINY = {"name": "resnet18", "arguments": {"channels": [16, 32, 64, 88]}}

POLICIES: Mapping[RiskLevel, RiskPolicy] = MappingProxyType(
    {
        policy.risk: policy
        for policy in (
            RiskPolicy(
                risk="critical",
                allowed=("qat",),
                steps=({"step": "qat"},),
                exports=(FLOAT16, INT8),
                source=GUIDE,
            ),
            RiskPolicy(
                risk="high",
                allowed=("qat", "prune-iterative"),
                steps=(ROUNDS, {"step": "qat"}),
                exports=(FLOAT16, INT8),
                source=GUIDE,
            ),
            RiskPolicy(
                risk="medium",
                allowed=("qat", "prune-iterative", "prune", "distill", "post-training"),
                steps=(ROUNDS, FURTHER, {"step": "qat"}),
                exports=(FLOAT16, INT8),
                source=f"{GUIDE}; pruning and quantization after training by clinipress",
            ),
            RiskPolicy(
                risk="low",
                allowed=("qat", "prune-iterative", "prune", "distill", "post-training", "int4"),
                steps=(STUDENT, {"step": "prune", "ratio": 0.3}),
                exports=(FLOAT16, INT8, {"precision": "int4-weights"}),
                source=f"{GUIDE}; pruning and quantization after training by clinipress",
            ),
        )
    }
)


def recommended_steps(risk: RiskLevel, target: Target) -> list[dict[str, Any]]:
    """Steps for a risk level and a device, as a recipe writes them.

    The order is the guide's: prune or distil at full precision, quantize last. Where the device
    runs no int8, the training for it and its files are left out. A microcontroller gets a student
    that fits its memory, where the risk level allows distillation.
    """
    policy = POLICIES[risk]
    steps: Sequence[dict[str, Any]] = policy.steps
    if target.model_bytes < MICROCONTROLLER and "distill" in policy.allowed:
        steps = ({"step": "distill", "student": TINY, "train": {"batch_size": 16}}, {"step": "qat"})
    return [s for s in steps if s["step"] != "qat" or "int8" in target.precisions]


def recommended_exports(risk: RiskLevel, target: Target) -> list[dict[str, Any]]:
    """Files worth making for a device.

    All that the level asks for in the device's first format, and what is quantized in its others
    too where those can be made here: the fastest is then shipped. None is the fastest of all
    networks (benchmarks/README.md), so there is nothing to know beforehand.
    """
    first, *others = target.formats
    made = []
    for kind in (first, *(other for other in others if installed(other))):
        for export in POLICIES[risk].exports:
            precision = export["precision"]
            wanted = kind == first or precision_facts(precision).policy == "post-training"
            known = precision in format_facts(kind).precisions
            if wanted and known and precision in target.precisions:
                made.append({"format": kind, **export})
    return made


def techniques(history: Sequence[Applied], precision: str) -> tuple[str, ...]:
    """What a file went through, in the words of `NAMES`.

    Args:
        history: Of the file.
        precision: Of the file.

    Example:
        >>> techniques([Applied(step="prune", params={"asked": {"rounds": 5}})], "int8")
        ('prune-iterative', 'post-training')
    """
    names: list[str] = []
    for applied in history:
        row = technique_of(applied.step)
        rounds = int(applied.params.get("asked", {}).get("rounds", 1)) if row.repeated else 1
        name = row.repeated if rounds > 1 else row.policy
        names += [name.key] if name is not None else []
    facts = precision_facts(precision)
    if facts.policy and facts.trained not in names:
        names.append(facts.policy)
    return tuple(dict.fromkeys(names))


def objection(risk: RiskLevel, history: Sequence[Applied], precision: str) -> str | None:
    """Why a file must not be shipped at a risk level, or None.

    Example:
        >>> objection("critical", [], "int8")
        'At critical risk quantization after training is not allowed, whatever was measured.'
    """
    allowed = POLICIES[risk].allowed
    barred = [NAMES[name] for name in techniques(history, precision) if name not in allowed]
    if not barred:
        return None
    verb = "is" if len(barred) == 1 else "are"
    return f"At {risk} risk {' and '.join(barred)} {verb} not allowed, whatever was measured."


def bars(study: Study) -> tuple[tuple[str, str], ...]:
    """What a study asks for and its risk level never lets be shipped: each with what to do instead.

    Known before anything is trained. What is barred after one step bars all that is made of it.
    """
    allowed, history = POLICIES[study.risk].allowed, list[Applied]()
    found: dict[str, tuple[str, str]] = {}
    for name, recipe in zip(step_names(study.steps), study.steps, strict=True):
        applied = Applied(step=recipe.step, params={"asked": recipe.model_dump(mode="json")})
        history.append(applied)
        for key in {*techniques([applied], "float32")} - {*allowed}:
            repeated = technique_of(recipe.step).repeated
            fix = f"leave the step '{recipe.step}' out"
            if repeated is not None and repeated.key != key and repeated.key in allowed:
                fix = f"add 'rounds: 2' or more to the step '{recipe.step}'"
            found.setdefault(key, (f"'{name}' and all that is made of it", fix))
    for export in study.exports:
        facts = precision_facts(export.precision)
        if facts.policy in {*techniques(history, export.precision)} - {*allowed}:
            fix = f"leave the export '{export.precision}' out"
            if facts.trained in allowed:
                fix = f"add the step '{facts.trained}' before the exports"
            found.setdefault(facts.policy, (f"the {export.precision} file", fix))
    return tuple(
        (
            f"At {study.risk} risk {NAMES[key]} is not allowed, whatever is measured, so {what} "
            "cannot be selected",
            fix,
        )
        for key, (what, fix) in found.items()
    )


def next_steps(risk: RiskLevel, history: Sequence[Applied], precision: str) -> tuple[str, ...]:
    """What to try, the cheapest first, when a quantized file fails its gate or cannot tell.

    Static int8 -> the worst layers back in float ("mixed") -> quantization-aware training ("qat")
    -> "float16", which loses nothing measurable and is always allowed. What the file already has
    behind it is not tried again; without quantization there is nothing to try.
    """
    if not precision_facts(precision).policy:
        return ()
    done = techniques(history, precision)
    ladder = ["mixed"] if "qat" in done or "post-training" in POLICIES[risk].allowed else []
    ladder += [] if "qat" in done else ["qat"]
    tried = {"mixed"} if precision == "mixed" else set()
    return (*(rung for rung in ladder if rung not in tried), "float16")
