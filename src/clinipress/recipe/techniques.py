"""Every step as one row of facts: who asks what a step is or does reads its row here.

What a row does not state is not known: the checks that need it are silent, they never guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clinipress.errors import RecipeError
from clinipress.recipe.steps import (
    Config,
    DistillStep,
    FineTuneStep,
    ModelRecipe,
    PruneStep,
    QatStep,
    SearchStep,
    ShrinkStep,
    Step,
)

__all__ = [
    "POLICY_NAMES",
    "QUANTIZATIONS",
    "TECHNIQUES",
    "PolicyName",
    "Technique",
    "control_name",
    "next_network",
    "remaining_weights",
    "step_names",
    "technique_of",
]


@dataclass(frozen=True, slots=True)
class PolicyName:
    """What a policy calls a technique.

    Attributes:
        key: In a policy's table.
        words: In a sentence.
    """

    key: str
    words: str


@dataclass(frozen=True, slots=True)
class Technique:
    """What is known of a step.

    Attributes:
        kind: What a study ("step: prune") and a history call it.
        recipe: Its part of a study; None for a kind that has no row.
        implementation: "module:class" of the step, made of its recipe; needs torch.
        verb: What its candidate is called, "pruned".
        title: What was done, in reports: "pruning"; "": its kind.
        policy: What policies call it; None: they do not, and it is always allowed.
        repeated: What they call it where it went in several rounds; None: the same.
        size: How it changes the number of weights. "same": not at all; "network": to that of the
            network its `student` names, and not where it names none; "share": by `ratio`, a share
            of what `of` names; "unknown": that shows when it has run.
        taught: The parameter that is above 0 where a teacher taught the candidate, so that a
            control without one would show what that gave; "": none does.
        tagged: True where the model card's tags name it.
    """

    kind: str
    recipe: type[Config] | None = None
    implementation: str = ""
    verb: str = ""
    title: str = ""
    policy: PolicyName | None = None
    repeated: PolicyName | None = None
    size: Literal["same", "network", "share", "unknown"] = "unknown"
    taught: str = ""
    tagged: bool = True


TECHNIQUES = (
    Technique(
        kind="distill",
        recipe=DistillStep,
        implementation="clinipress.steps.distill.step:Distill",
        verb="distilled",
        title="distillation",
        policy=PolicyName("distill", "distillation into another network"),
        size="network",
        taught="alpha",
    ),
    Technique(
        kind="prune",
        recipe=PruneStep,
        implementation="clinipress.steps.prune.step:Prune",
        verb="pruned",
        title="pruning",
        policy=PolicyName("prune", "pruning in one cut"),
        repeated=PolicyName("prune-iterative", "iterative pruning"),
        size="share",
    ),
    Technique(
        kind="qat",
        recipe=QatStep,
        implementation="clinipress.steps.qat.step:QuantizationAware",
        verb="quantization-aware",
        title="quantization-aware training",
        policy=PolicyName("qat", "quantization-aware training"),
        size="same",
    ),
    Technique(
        kind="train",
        recipe=FineTuneStep,
        implementation="clinipress.steps.train:FineTune",
        verb="fine-tuned",
        title="training on labels",
        size="same",
        tagged=False,
    ),
    Technique(
        kind="shrink",
        recipe=ShrinkStep,
        implementation="clinipress.steps.supernet.shrink:Shrink",
        verb="shrunk",
        title="progressive shrinking",
    ),
    Technique(
        kind="search",
        recipe=SearchStep,
        implementation="clinipress.steps.supernet.search:Search",
        verb="searched",
        title="search for a sub-network of a supernet",
    ),
)

# What an export does to a network, by the key in `clinipress.recipe.formats.PrecisionFacts.policy`.
QUANTIZATIONS = (
    PolicyName("post-training", "quantization after training"),
    PolicyName("int4", "4-bit weights"),
)

POLICY_NAMES = (
    *(name for row in TECHNIQUES for name in (row.policy, row.repeated) if name is not None),
    *QUANTIZATIONS,
)


def technique_of(step: str | Config, techniques: tuple[Technique, ...] = TECHNIQUES) -> Technique:
    """The row of a step; one that states nothing for a step that has none.

    Args:
        step: Its recipe, or its kind as a history names it.
        techniques: The table.

    Example:
        >>> technique_of("prune").title
        'pruning'
        >>> technique_of("export").size
        'unknown'
    """
    kind = step if isinstance(step, str) else str(getattr(step, "step", ""))
    return next((row for row in techniques if row.kind == kind), Technique(kind))


def step_names(steps: Sequence[Step], techniques: tuple[Technique, ...] = TECHNIQUES) -> list[str]:
    """One name per step: its own, or its verb with a number where that kind comes twice.

    Raises:
        RecipeError: Two candidates would carry one name, controls and the reference included.

    Example:
        >>> step_names([PruneStep(), QatStep(), PruneStep()])
        ['pruned-1', 'quantization-aware', 'pruned-2']
    """
    kinds: list[str] = [recipe.step for recipe in steps]
    names: list[str] = []
    for number, recipe in enumerate(steps):
        row = technique_of(recipe, techniques)
        again = kinds[: number + 1].count(recipe.step)
        plain = row.verb or row.kind
        names.append(recipe.name or (f"{plain}-{again}" if kinds.count(recipe.step) > 1 else plain))
    controls = [
        control_name(name)
        for name, recipe in zip(names, steps, strict=True)
        if getattr(recipe, "control", False)
    ]
    made = [*names, *controls]
    if len({*made, "reference"}) <= len(made):
        raise RecipeError("step names that differ", ", ".join(made), "change 'name' of one of them")
    return names


def control_name(name: str) -> str:
    """The name of a student's control: the same network, trained as long, without a teacher."""
    return f"{name}-control"


def next_network(step: Step) -> ModelRecipe | None:
    """The network that a step puts in place of the one before; None where it keeps that one."""
    if technique_of(step).size != "network":
        return None
    student: ModelRecipe | None = getattr(step, "student", None)
    return student


def remaining_weights(
    step: Step, count: int, techniques: tuple[Technique, ...] = TECHNIQUES
) -> int | None:
    """How few weights a step can leave of `count`, at the least, in the network it was given.

    Removing a share of the multiply-adds removes at most about the square of that share's rest of
    the weights: a layer loses inputs and outputs alike.

    Returns:
        None where the effect on the size is not known beforehand: of a search, say.

    Example:
        >>> remaining_weights(PruneStep(ratio=0.5, of="parameters"), 1000)
        500
    """
    size = technique_of(step, techniques).size
    if size in ("same", "network"):
        return count
    pruning: Any = step
    if size != "share" or pruning.of not in ("macs", "parameters"):
        return None
    rest = 1 - pruning.ratio
    share: float = rest if pruning.of == "parameters" else rest**2
    return round(count * share)
