"""SYNTHETIC studies of several findings in one image: drawn answers, judged as a study judges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clinipress.evidence.calibration import fit_findings
from clinipress.evidence.gate import rules_for
from clinipress.evidence.judged import Declared, judged, statistics
from clinipress.evidence.scores import Scores
from clinipress.recipe.study import EvidenceRecipe
from clinipress.records.candidate import CandidateRecord, Latency, Parity
from clinipress.records.judgement import Saliency, SaliencyPanel, Stress
from clinipress.records.result import Audit, Environment, Result, SplitSummary
from kit.judgements import saliency as drawn_saliency
from kit.judgements import stress as drawn_stress

CHEST = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis"),
    *("Hernia", "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia"),
    "Pneumothorax",
)
RARE = "Hernia"


def names(count: int) -> tuple[str, ...]:
    """Names of findings, those of chest X-rays first."""
    more = (f"a finding with a rather long name {n}" for n in range(len(CHEST), count))
    return (*CHEST, *more)[:count]


def drawn(
    findings: tuple[str, ...],
    *,
    images: int = 300,
    seed: int = 0,
    unknown: float = 0.05,
    noise: float = 0.5,
    prevalence: float = 0.2,
) -> tuple[Scores, Scores]:
    """Answers of a reference and of a candidate to the same images, three to a patient."""
    random = np.random.default_rng(seed)
    often = np.where([name == RARE for name in findings], 2.5 / images, prevalence)
    truth = (random.random((images, len(findings))) < often).astype(np.int64)
    truth[random.random(truth.shape) < unknown] = -1
    before = 1.6 * (truth == 1) - 0.8 + random.normal(size=truth.shape)
    units = np.arange(images) // 3
    groups = {"sex": tuple("FM"[u % 2] for u in units), "site": tuple("ABA"[u % 3] for u in units)}
    common = {"labels": truth, "units": units, "classes": findings, "groups": groups,
              "keys": tuple(f"images/{n:04d}.png" for n in range(images))}  # fmt: skip
    moved = before + noise * random.normal(size=truth.shape)
    one, two = (Scores(logits=x.astype(np.float32), **common) for x in (before, moved))
    return one, two


def fitted(validation: Scores, *others: Scores) -> tuple[Scores, ...]:
    """The same with the temperatures and thresholds that validation gives, itself first."""
    temperatures, limits = fit_findings(validation.logits, validation.labels)
    return tuple(
        replace(scores, temperatures=temperatures, thresholds=limits)
        for scores in (validation, *others)
    )


def _of_findings(section: Stress) -> Stress:
    return section.model_copy(update={"metric": "auroc_macro"})


def _maps(findings: tuple[str, ...]) -> Saliency:
    section = drawn_saliency(findings, "pass")
    panels = [
        SaliencyPanel(**{**panel.model_dump(), "truth": "present"}) for panel in section.panels
    ]
    return section.model_copy(update={"panels": tuple(panels)})


def findings_study(
    count: int = 14, *, images: int = 240, external: bool = True, resamples: int = 30
) -> Result:
    """A whole result of a study of so many findings, with a set from elsewhere."""
    import random

    findings = names(count)
    declared = Declared("medium", EvidenceRecipe(), resamples)
    rules = rules_for("medium", several="auroc_macro")
    validation = drawn(findings, images=images, seed=1)
    splits = {"test": drawn(findings, images=images, seed=2)}
    if external:
        splits["external: clinic"] = drawn(findings, images=images, seed=3, prevalence=0.05)
    sides = [fitted(validation[side], *(pair[side] for pair in splits.values())) for side in (0, 1)]
    records = []
    for side, name in enumerate(("reference", "small-int8")):
        evidence, confusion, changes, sections, verdict = {}, {}, {}, {}, None
        for number, split in enumerate(splits, start=1):
            before, after = sides[0][number], sides[side][number]
            found = statistics(declared, before, after, validation=(sides[0][0], sides[side][0]))
            part = judged(declared, rules, before, after, found)
            chance = random.Random(0)
            stress = _of_findings(drawn_stress(chance, "pass"))
            more = {"stress": stress, "saliency": _maps(findings)} if side else {}
            evidence[split], confusion[split] = part.evidence, part.confusion
            sections[split] = found.model_copy(update=more)
            if side:
                changes[split] = part.changes
                verdict = verdict or part.verdict
        records.append(_record(name, side, evidence, confusion, changes, sections, verdict))
    truth = splits["test"][0].labels
    counts = {name: int((truth[:, c] == 1).sum()) for c, name in enumerate(findings)}
    parts = ("train", "validation", "test")
    return Result(
        study="chest",
        risk="medium",
        synthetic=True,
        task="multilabel",
        created="2026-02-03T10:11:12+00:00",
        recipe={"name": "chest", "seed": 0, "risk": "medium",
                "data": {"path": "data", "modality": "chest-xray", "task": "multilabel"}},
        classes=findings,
        rules=rules,
        reference="reference",
        shipped="small-int8",
        bundle="bundle",
        verdict=records[1].verdict,
        candidates=tuple(records),
        audit=Audit(
            path="data", layout="manifest", images=3 * images,
            classes={name: 3 * n for name, n in counts.items()}, splits={}, patients=images,
            unreadable=(), exact_duplicates=0, near_duplicates=0, clusters=images,
            duplicate_pairs=(), leaks={}, leaked_images={}, conflicting_labels=(), shortcuts=(),
            baseline_accuracy=None, majority_accuracy=None, warnings=(), seconds=1.0,
        ),
        split=SplitSummary(
            by="patient", reason="Patients are known.", seed=0,
            counts=dict.fromkeys(parts, counts), images=dict.fromkeys(parts, images),
            units=dict.fromkeys(parts, images // 3), digest="c" * 64, dropped=0,
        ),
        test_openings=(),
        environment=Environment(
            clinipress="0.1.0", python="3.11.9", platform="Linux x86_64", cpu="Example CPU",
            cpu_flags=(), cores=2, memory_bytes=8_000_000_000, packages={},
        ),
        seconds={},
    )  # fmt: skip


def _record(name, side, evidence, confusion, changes, sections, verdict):
    latency = Latency(median=4.0 - 2 * side, p95=4.5, batch=1, threads=1, runtime="onnxruntime 1",
                      repeats=100)  # fmt: skip
    return CandidateRecord(
        name=name,
        parent="reference" if side else None,
        history=(),
        format="onnx",
        precision="int8" if side else "float32",
        path=f"candidates/{name}.onnx",
        digest=f"{side:064x}",
        file_bytes=2_000_000 // (1 + 3 * side),
        parameters=500_000,
        macs=1_000_000,
        peak_memory_bytes=None,
        latency_ms=latency,
        latency_with_preprocessing_ms=latency.model_copy(update={"preprocessing": True}),
        evidence=evidence,
        confusion=confusion,
        changes=changes,
        judgements=sections,
        verdict=verdict,
        parity=Parity(images=20, max_logit_difference=1e-4, mean_logit_difference=1e-5,
                      label_flips=0),
    )  # fmt: skip
