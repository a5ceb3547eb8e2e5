"""The sections of evidence beside the rules: made of per-image scores, and joined to the verdict.

Pure functions: who calls them decides what is kept and where. The sections that need the model run
again (stress, saliency) are in `clinipress.inspection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clinipress.evaluate.calibration import calibration_section
from clinipress.evaluate.disagreement import AGREEMENT, disagreement_section
from clinipress.evaluate.operating import operating_section
from clinipress.evaluate.scores import Scores
from clinipress.evaluate.subgroups import subgroups_section
from clinipress.findings import Findings
from clinipress.gate import MARGINS
from clinipress.recipe import GUARDS, EvidenceRecipe
from clinipress.records import RiskLevel, Verdict

__all__ = ["Asked", "guarded", "statistics"]

NO_THRESHOLDS = "no validation scores to choose thresholds on"


@dataclass(frozen=True)
class Asked:
    """What was declared before anything was measured.

    Attributes:
        risk: Sets the margins.
        recipe: Prevalence, aims, smallest group, guards.
        resamples: Of every bootstrap.
        seed: Of every bootstrap.
    """

    risk: RiskLevel
    recipe: EvidenceRecipe
    resamples: int = 2000
    seed: int = 0

    @property
    def margin(self) -> float:
        """Largest fall allowed of the primary metric, a share."""
        return MARGINS[self.risk]

    @property
    def guards(self) -> Sequence[str]:
        """Sections that can stop a candidate."""
        chosen = self.recipe.guards
        return GUARDS[self.risk] if chosen is None else chosen


def statistics(
    asked: Asked,
    reference: Scores,
    candidate: Scores,
    *,
    validation: tuple[Scores, Scores] | None,
) -> Findings:
    """Every section that follows from per-image scores alone.

    Args:
        asked: What was declared.
        reference: The reference's answers on a split.
        candidate: The candidate's on the same images in the same order; the reference's own
            again for the reference itself, whose drops and flips are then left out.
        validation: Answers of both on the split that thresholds and temperature are chosen on;
            None where there is none: then the operating points are not measured.
    """
    itself = candidate is reference
    missing: dict[str, str] = {}
    operating = None
    if validation is None:
        missing["operating"] = NO_THRESHOLDS
    else:
        operating = operating_section(
            *validation,
            reference,
            candidate,
            prevalence=asked.recipe.prevalence,
            aims=asked.recipe.aims,
            margin=asked.margin,
        )
    disagreement = None
    if not itself:
        disagreement = disagreement_section(
            reference,
            candidate,
            least_agreement=AGREEMENT[asked.risk],
            resamples=asked.resamples,
            seed=asked.seed,
        )
    return Findings(
        operating=operating,
        calibration=calibration_section(
            reference, candidate, margin=asked.margin, resamples=asked.resamples, seed=asked.seed
        ),
        subgroups=subgroups_section(
            reference,
            candidate,
            minimum=asked.recipe.smallest_group,
            margin=asked.margin,
            resamples=asked.resamples,
            seed=asked.seed,
        ),
        disagreement=disagreement,
        not_measured=missing,
    )


def guarded(verdict: Verdict, findings: Findings, guards: Sequence[str]) -> Verdict:
    """A verdict of the rules, and of the sections named as guards.

    A guard can only stop: a section that shows a loss makes the verdict "fail", one that cannot
    tell or was not measured changes nothing.
    """
    reasons = []
    for name in guards:
        section = getattr(findings, name)
        if section is not None and section.verdict.status == "fail":
            reasons += section.verdict.reasons
    if not reasons:
        return verdict
    # the guard comes first: where a sentence is all there is room for, it is what stopped it
    return Verdict(status="fail", reasons=(*reasons, *verdict.reasons))
