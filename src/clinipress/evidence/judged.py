"""Everything that two sets of per-image scores tell: figures, sections of evidence, the verdict.

Pure functions: who calls them decides what is kept and where. The sections that need the model run
again (stress, saliency) are in `clinipress.study.inspection`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clinipress.evidence import gate
from clinipress.evidence.calibration import calibration_section
from clinipress.evidence.disagreement import AGREEMENT, disagreement_section
from clinipress.evidence.evidence import carried_by, changes, evidence
from clinipress.evidence.family import identical, joint_confidence, widened
from clinipress.evidence.finding_groups import finding_groups_section
from clinipress.evidence.multilabel import (
    carried_by_findings,
    multilabel_changes,
    multilabel_evidence,
)
from clinipress.evidence.operating import operating_section
from clinipress.evidence.scores import Scores
from clinipress.evidence.subgroups import subgroups_section
from clinipress.recipe.study import GUARDS, EvidenceRecipe
from clinipress.records.judgement import Judgements
from clinipress.records.result import Interval, Reason, RiskLevel, Rule, RuleChange, Verdict
from clinipress.reporting.wording.reasons import worded
from clinipress.stats.metrics import confusion
from clinipress.stats.paired import discordance
from clinipress.text import class_words

__all__ = [
    "Declared",
    "SplitJudgement",
    "counted",
    "figures",
    "guarded",
    "judged",
    "paired",
    "statistics",
]

_CAPPING = ("floors", "rule_changes")
NO_THRESHOLDS = "no validation scores to choose thresholds on"
NONE_ASKED = "no finding that these images tell of has a threshold to be called at"


@dataclass(frozen=True)
class Declared:
    """What was declared before the test split was opened.

    Attributes:
        risk: Sets the margins.
        recipe: Prevalence, aims, smallest group, guards.
        resamples: Of every bootstrap.
        seed: Of every bootstrap.
        margins: Metric -> margin in place of the risk level's.
        floors: Metric -> least figure.
        rule_changes: What is not as it was when the test split was first opened.
    """

    risk: RiskLevel
    recipe: EvidenceRecipe
    resamples: int = 2000
    seed: int = 0
    margins: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    rule_changes: tuple[RuleChange, ...] = ()

    @property
    def margin(self) -> float:
        """Largest loss allowed of the primary metric, a share."""
        return self.margins.get("accuracy", gate.MARGINS[self.risk])

    @property
    def class_margins(self) -> dict[str, float]:
        """Class -> largest loss allowed of its sensitivity, where it has one of its own."""
        own = ((*metric.partition("["), margin) for metric, margin in self.margins.items())
        return {
            name[:-1]: margin
            for family, bracket, name, margin in own
            if family == "sensitivity" and bracket and name != "*]"
        }

    def of_sections(self) -> dict[str, Any]:
        """What sections hang on, as plain data: floors and changed rules cap verdicts alone."""
        facts = {name: value for name, value in vars(self).items() if name not in _CAPPING}
        margins = dict(sorted(self.margins.items()))
        return facts | {"recipe": self.recipe.model_dump(mode="json"), "margins": margins}

    @property
    def guards(self) -> Sequence[str]:
        """Sections that can stop a candidate."""
        chosen = self.recipe.guards
        return GUARDS[self.risk] if chosen is None else chosen


@dataclass(frozen=True)
class SplitJudgement:
    """A candidate's figures on one split, and what the rules and guards say of them.

    Attributes:
        evidence: Metric -> its interval.
        confusion: Images by true class (rows) and answer (columns); of several findings, for each
            those that show it and are called or missed, and those that do not and are called or
            spared; nothing for one that has no threshold.
        changes: Metric -> candidate minus reference, paired; empty for the reference itself.
        verdict: None for the reference itself.
    """

    evidence: dict[str, Interval]
    confusion: list[list[int]]
    changes: dict[str, Interval]
    verdict: Verdict | None


def judged(
    declared: Declared,
    rules: Sequence[Rule],
    reference: Scores,
    candidate: Scores,
    judgements: Judgements,
    caps: Sequence[Reason] = (),
) -> SplitJudgement:
    """Everything that two sets of scores tell of the second.

    Args:
        declared: What was declared.
        rules: Of the verdict.
        reference: The reference's answers on a split.
        candidate: The candidate's on the same images in the same order; the reference's own
            again for the reference itself.
        judgements: The candidate's sections, of which those that are guards can stop it.
        caps: Why no verdict on this split is better than inconclusive.
    """
    if candidate.several:
        return _judged_findings(declared, rules, reference, candidate, judgements, caps)
    labels, classes = candidate.labels, candidate.classes
    itself = candidate is reference
    differences = {} if itself else paired(declared, reference, candidate)
    mine = figures(declared, candidate, None if itself else reference)
    verdict = None
    if not itself:
        shares = discordance(reference.logits, candidate.logits, labels, classes)
        units = carried_by(labels, classes, units=candidate.units, positive=candidate.positive)
        same = identical(reference, candidate)
        verdict = guarded(
            gate.IDENTICAL
            if same
            else gate.judge(rules, differences, discordance=shares, units=units),
            judgements,
            declared.guards,
        )
        verdict = gate.settled(verdict, gate.floored(declared.floors, mine, units), caps)
    return SplitJudgement(
        evidence=mine, confusion=counted(candidate), changes=differences, verdict=verdict
    )


def _judged_findings(
    declared: Declared,
    rules: Sequence[Rule],
    reference: Scores,
    candidate: Scores,
    judgements: Judgements,
    caps: Sequence[Reason],
) -> SplitJudgement:
    """`judged` where an image may show several findings."""
    itself = candidate is reference
    mine = figures(declared, candidate)
    differences = {} if itself else paired(declared, reference, candidate)
    verdict = None
    if not itself:
        carried = carried_by_findings(
            candidate.labels, candidate.classes, units=candidate.units, asked=candidate.asked
        )
        told = sum(
            carried.get(f"auroc[{name}]", 0) >= gate.FEWEST_UNITS for name in candidate.classes
        )
        confidence = joint_confidence(told)
        joint = {name: widened(change, confidence) for name, change in differences.items()}
        same = identical(reference, candidate)
        verdict = guarded(
            gate.IDENTICAL if same else gate.judge(rules, differences, units=carried, joint=joint),
            judgements,
            declared.guards,
        )
        verdict = gate.settled(verdict, gate.floored(declared.floors, mine, carried), caps)
        verdict = verdict.model_copy(update={"reasons": worded(map(_of_finding, verdict.reasons))})
    return SplitJudgement(
        evidence=mine, confusion=counted(candidate), changes=differences, verdict=verdict
    )


def _of_finding(reason: Reason) -> Reason:
    """The same about a finding whose name is a number, which its sentence calls a finding then."""
    if class_words(reason.where or "") == (reason.where or ""):
        return reason
    return reason.model_copy(update={"parameters": {**reason.parameters, "several": True}})


def counted(scores: Scores) -> list[list[int]]:
    """Images by true class (rows) and answer (columns); of findings see `SplitJudgement`."""
    if not scores.several:
        table: list[list[int]] = confusion(
            scores.logits, scores.labels, len(scores.classes)
        ).tolist()
        return table
    called, asked = np.round(scores.scaled - scores.cuts, 9) >= 0, scores.asked
    sides = [(truth, answer) for truth in (1, 0) for answer in (True, False)]
    return [
        [
            int(((scores.labels[:, c] == truth) & (called[:, c] == answer)).sum())
            for truth, answer in sides
            if asked[c]
        ]
        for c in range(len(scores.classes))
    ]


def figures(
    declared: Declared, candidate: Scores, reference: Scores | None = None
) -> dict[str, Interval]:
    """Every metric of a set of scores; agreement with `reference` too where there is one."""
    if candidate.several:
        return multilabel_evidence(
            candidate.scaled,
            candidate.labels,
            candidate.classes,
            units=candidate.units,
            thresholds=candidate.thresholds or 0.5,
            resamples=declared.resamples,
            seed=declared.seed,
        )
    other = None if reference is None else reference.logits
    return evidence(
        candidate.logits,
        candidate.labels,
        candidate.classes,
        reference=other,
        **_options(declared, candidate),
    )


def paired(declared: Declared, reference: Scores, candidate: Scores) -> dict[str, Interval]:
    """Every metric of `candidate` minus that of `reference` on the same images, paired."""
    if candidate.several:
        return multilabel_changes(
            reference.scaled,
            candidate.scaled,
            candidate.labels,
            candidate.classes,
            units=candidate.units,
            thresholds=reference.thresholds or 0.5,
            candidate_thresholds=candidate.thresholds or 0.5,
            resamples=declared.resamples,
            seed=declared.seed,
        )
    return changes(
        reference.logits,
        candidate.logits,
        candidate.labels,
        candidate.classes,
        **_options(declared, candidate),
    )


def _options(declared: Declared, scores: Scores) -> dict[str, Any]:
    return {
        "units": scores.units,
        "resamples": declared.resamples,
        "seed": declared.seed,
        "positive": scores.positive,
        "order": scores.order,
    }


def statistics(
    declared: Declared,
    reference: Scores,
    candidate: Scores,
    *,
    validation: tuple[Scores, Scores] | None,
) -> Judgements:
    """Every section that follows from per-image scores alone.

    Args:
        declared: What was declared.
        reference: The reference's answers on a split.
        candidate: The candidate's on the same images in the same order; the reference's own
            again for the reference itself, whose changes and flips are then left out.
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
            prevalence=declared.recipe.prevalence,
            aims=declared.recipe.aims,
            margin=declared.margin,
            class_margins=declared.class_margins,
        )
    disagreement = None
    if candidate.several and not ((candidate.labels >= 0) & candidate.asked).any():
        missing["disagreement"] = NONE_ASKED
    elif not itself:
        disagreement = disagreement_section(
            reference,
            candidate,
            least_agreement=AGREEMENT[declared.risk],
            resamples=declared.resamples,
            seed=declared.seed,
        )
    return Judgements(
        operating=operating,
        calibration=calibration_section(
            reference,
            candidate,
            margin=declared.margin,
            resamples=declared.resamples,
            seed=declared.seed,
        ),
        subgroups=(finding_groups_section if candidate.several else subgroups_section)(
            reference,
            candidate,
            minimum=declared.recipe.smallest_group,
            margin=declared.margin,
            resamples=declared.resamples,
            seed=declared.seed,
        ),
        disagreement=disagreement,
        not_measured=missing,
    )


def guarded(verdict: Verdict, judgements: Judgements, guards: Sequence[str]) -> Verdict:
    """A verdict of the rules, and of the sections named as guards.

    A guard can only stop: a section that shows a loss makes the verdict "fail", one that cannot
    tell or was not measured changes nothing.
    """
    reasons: list[Reason] = []
    for name in guards:
        section = getattr(judgements, name)
        if section is not None and section.verdict.status == "fail":
            reasons += [r.model_copy(update={"section": name}) for r in section.verdict.reasons]
    if not reasons:
        return verdict
    # the guard comes first: where a sentence is all there is room for, it is what stopped it
    return Verdict(status="fail", reasons=(*reasons, *verdict.reasons))
