"""Distillation: a smaller network learns from the labels and from the reference's outputs."""

from __future__ import annotations

from typing import Any

from clinipress.candidate import Candidate, Context
from clinipress.models.classifier import TorchCandidate
from clinipress.recipe import DistillStep
from clinipress.records import InputSpec
from clinipress.steps.fitting import fit_module, fresh_candidate, plan_fit, step_seed
from clinipress.steps.soft_targets import SOFT, root_teacher, soft_loss

__all__ = ["Distill"]


class Distill:
    """Train a student on labels and on the reference's softened outputs (Hinton et al., 2015)."""

    kind = "distill"
    inherits = False  # the student starts from its own weights

    def __init__(self, recipe: DistillStep) -> None:
        self.recipe = recipe

    def plan(self, parent: Candidate | None, context: Context) -> dict[str, Any]:
        """Choose the student's normalisation and numerics; nothing is trained."""
        teacher = root_teacher(context)
        student = self._student(context, teacher.card.input)
        soft = self.recipe
        return plan_fit(student.module, soft.train, context, SOFT) | {
            "student": soft.student.model_dump(mode="json"),
            "teacher": teacher.digest,
            "temperature": soft.temperature,
            "alpha": soft.alpha,
            "views": soft.views,
        }

    def apply(
        self, parent: Candidate | None, params: dict[str, Any], context: Context
    ) -> tuple[Candidate, dict[str, Any]]:
        """Make the teacher's outputs once, then fit the student."""
        student = self._student(context, root_teacher(context).card.input)
        loss, views = soft_loss(params, context)
        facts = fit_module(student.module, params, context, loss=loss, views=views)
        return student, facts

    def _student(self, context: Context, input_spec: InputSpec) -> TorchCandidate:
        seed = step_seed(context.seed, self.kind)
        return fresh_candidate(
            self.recipe.student, context.data, input_spec, seed=seed, name="student"
        )
