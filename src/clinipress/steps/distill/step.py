"""Distillation: a smaller network learns from the labels and from a teacher."""

from __future__ import annotations

import copy
from typing import Any

from clinipress.models.classifier import TorchCandidate
from clinipress.recipe.steps import DistillStep, OnnxRecipe
from clinipress.records.candidate import Candidate
from clinipress.steps.distill.features import FeatureMethod, Tapped
from clinipress.steps.distill.soft_targets import (
    SOFT,
    feature_loss,
    find_teachers,
    plan_maps,
    root_teacher,
    soft_loss,
)
from clinipress.steps.fitting import (
    fit_module,
    fresh_candidate,
    plan_fit,
    step_seed,
    torch_candidate,
)
from clinipress.steps.step import Child, Context, Params

__all__ = ["BETA", "Distill"]

# The weight of a method's second part where the study names none. DKD: the paper's on small images
# (section 4, 8 for a teacher as sure as ours); DIST: equal weights (section 4.1). Feature parts are
# relative (see `train.features`), about 1 when nothing is learned and some tenths at the end, where
# the soft part is about 1 at T = 4: 5 and 10 make them of one order.
BETA = {"soft": 1.0, "dkd": 8.0, "dist": 1.0, "fitnet": 5.0, "attention": 10.0}


class Distill:
    """Train a student on labels and on a teacher's outputs, by the method the recipe names."""

    kind = "distill"

    def __init__(self, recipe: DistillStep) -> None:
        self.recipe = recipe

    @property
    def inherits(self) -> bool:
        """False where the student starts from weights of its own."""
        return self.recipe.student is None

    def plan(self, parent: Candidate | None, context: Context) -> Params:
        """Choose normalisation, numerics, teachers and layers; nothing is trained."""
        recipe = self.recipe
        student = self._student(parent, context)
        views = min(recipe.views, recipe.train.epochs)  # more would never be looked at
        params: dict[str, Any] = {
            "student": recipe.student.model_dump(mode="json") if recipe.student else None,
            "method": recipe.method,
            "temperature": recipe.temperature,
            "alpha": recipe.alpha,
            "beta": BETA[recipe.method] if recipe.beta is None else recipe.beta,
            "views": views,
            "answers": recipe.chosen_answers(),
        }
        if recipe.alpha > 0:  # the control has no teacher
            teachers = find_teachers(recipe.teachers, context)
            named: tuple[str | OnnxRecipe | None, ...] = recipe.teachers or (None,)
            params["teachers"] = [
                {
                    "path": path.model_dump(mode="json") if isinstance(path, OnnxRecipe) else path,
                    "digest": teacher.digest,
                }
                for path, teacher in zip(named, teachers, strict=True)
            ]
            method = self._feature_method()
            if method is not None:
                params |= plan_maps(recipe, method, student.module, views, context)
        return plan_fit(student.module, recipe.train, context, SOFT) | params

    def apply(self, parent: Candidate | None, params: Params, context: Context) -> Child:
        """Make the teacher's outputs once, then fit the student."""
        student = self._student(parent, context)
        method = self._feature_method()
        if method is None:
            loss, views = soft_loss(params, context)
            return student, fit_module(student.module, params, context, loss=loss, views=views)
        tapped = Tapped(
            student.module,
            [name for name, _ in params["layers"]],
            regressors=params["channels"] if method == "fitnet" else None,
            seed=step_seed(context.seed, "regressors"),
        )
        features = feature_loss(self.recipe, method, tapped, params, context)
        loss, views = soft_loss(params, context, features)
        facts = fit_module(tapped, params, context, loss=loss, views=views)
        return TorchCandidate(student.card, tapped.release()), facts

    def _feature_method(self) -> FeatureMethod | None:
        method = self.recipe.method
        if self.recipe.alpha == 0 or (method != "fitnet" and method != "attention"):
            return None
        return method

    def _student(self, parent: Candidate | None, context: Context) -> TorchCandidate:
        if self.recipe.student is None:
            origin = torch_candidate(parent)
            return TorchCandidate(origin.card, copy.deepcopy(origin.module))
        seed, spec = step_seed(context.seed, self.kind), root_teacher(context).card.input
        return fresh_candidate(
            self.recipe.student, context.data, spec, seed=seed, name="student",
            progress=context.progress,
        )  # fmt: skip
