"""SYNTHETIC sections of evidence: drawn numbers of the right shape, no patients, no model.

Every section can be had without a loss or with one planted in it, and with or without metadata.
"""

from __future__ import annotations

import functools
import math
import random
import struct
import zlib
from collections.abc import Mapping

from clinipress.records.candidate import CandidateRecord
from clinipress.records.judgement import (
    Calibration,
    Direction,
    Disagreement,
    Flip,
    FlipCounts,
    Gap,
    Judgements,
    OperatingRow,
    OperatingSection,
    OutOfScopeProbe,
    ReliabilityBin,
    Saliency,
    SaliencyPanel,
    Stress,
    StressCurve,
    StressLevel,
    Subgroup,
    Subgroups,
)
from clinipress.records.result import Interval, Result, Verdict
from kit.verdicts import verdict_of

KINDS = {
    "noise": ("grey levels", (4, 8, 16, 32, 64)),
    "blur": ("pixels", (0.5, 1, 2, 3, 4)),
    "contrast": ("of the contrast", (0.8, 0.65, 0.5, 0.35, 0.2)),
    "brightness": ("grey levels", (10, 25, 40, 60, 80)),
    "gamma": ("exponent", (1.15, 1.3, 1.6, 2, 2.5)),
    "jpeg": ("quality", (70, 50, 30, 15, 8)),
    "rotation": ("degrees", (3, 6, 10, 15, 25)),
    "resolution": ("of the pixels", (0.75, 0.5, 0.35, 0.25, 0.15)),
    "missing": ("of the side", (0.1, 0.2, 0.3, 0.4, 0.5)),
    "motion": ("pixels", (3, 5, 8, 12, 18)),
}
GROUPS = {
    "sex": {"female": 241, "male": 270},
    "age": {"under 40": 97, "40-59": 214, "60-79": 188, "80 and over": 14},
    "site": {"hospital A": 402, "hospital B": 103, "a clinic with a rather long name": 8},
}
PICTURES = "evidence/pictures"


def around(value: float, half: float, n: int = 500, method: str = "bootstrap") -> Interval:
    return Interval(value=value, low=value - half, high=value + half, method=method, n=n)


def share(value: float, n: int = 500) -> Interval:
    """A proportion with an interval that stays within 0 and 1."""
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.002) / max(n, 1))
    return Interval(
        value=value, low=max(value - half, 0), high=min(value + half, 1), method="wilson", n=n
    )


def said(status: str, name: str) -> Verdict:
    return verdict_of(status, f"SYNTHETIC: the section's own sentence on {name}.")


def operating(
    classes: tuple[str, ...], chance: random.Random, status: str, *, reference: bool
) -> OperatingSection:
    rows = []
    for number, label in enumerate(classes):
        positives = 90 + 13 * number
        for aim in ("sensitivity 0.95", "specificity 0.95"):
            for kept in (False,) if reference else (False, True):
                sensitivity = 0.93 - 0.02 * kept - 0.1 * (status == "fail" and not reference)
                sensitivity += chance.uniform(-0.02, 0.02)
                missed = round(positives * (1 - sensitivity))
                change = around(sensitivity - 0.93, 0.035)
                new = tuple(f"images/{label}/{n:04d}.png" for n in range(max(missed - 4, 0)))
                rows.append(
                    OperatingRow(
                        label=label,
                        aim=aim,
                        kept=kept,
                        threshold=0.41 + 0.03 * number - 0.05 * kept,
                        sensitivity=share(1 - missed / positives, positives),
                        specificity=share(0.91, 420),
                        sensitivity_change=None if reference else change,
                        specificity_change=None if reference else around(-0.004, 0.02),
                        ppv=around(0.23, 0.05),
                        npv=around(0.996, 0.002),
                        prevalence=0.03,
                        positives=positives,
                        missed=missed,
                        missed_by_reference=None if reference else 7,
                        newly_missed=() if reference else new,
                    )
                )
    return OperatingSection(
        chosen_on="validation", declared=True, rows=tuple(rows), verdict=said(status, "operating")
    )


def bins(over: float, chance: random.Random) -> tuple[ReliabilityBin, ...]:
    found = []
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        cases = round(500 * (number / 15) ** 5) if number > 3 else 0
        middle = (low + high) / 2
        right = min(max(middle - over * (1 - middle) * 4 + chance.uniform(-0.05, 0.05), 0), 1)
        found.append(
            ReliabilityBin(
                low=low,
                high=high,
                cases=cases,
                confidence=middle if cases else None,
                accuracy=share(right, cases) if cases else None,
            )
        )
    return tuple(found)


def calibration(chance: random.Random, status: str, *, reference: bool) -> Calibration:
    worse = 0.05 if status == "fail" and not reference else 0.0
    before = {
        "ece": around(0.058 + worse, 0.012),
        "ece_equal_mass": around(0.056 + worse, 0.012),
        "brier": around(0.21, 0.02),
        "log_loss": around(0.44, 0.05),
        "slope": around(0.72, 0.1),
        "intercept": around(-0.21, 0.15),
    }
    gain = {"ece": 0.031, "ece_equal_mass": 0.03, "brier": 0.01, "log_loss": 0.05, "slope": -0.24}
    after = {
        name: one.model_copy(
            update={
                "value": one.value - gain.get(name, -0.2),
                "low": one.low - gain.get(name, -0.2),
                "high": one.high - gain.get(name, -0.2),
            }
        )
        for name, one in before.items()
    }
    return Calibration(
        temperature=1.0 if reference else 1.37,
        chosen_on="validation",
        before=before,
        after=after,
        changes={} if reference else {name: around(0.004 + worse, 0.011) for name in before},
        bins=bins(0.1, chance),
        bins_after=bins(0.01 + worse, chance),
        verdict=said(status, "calibration"),
    )


def subgroups(classes: tuple[str, ...], chance: random.Random, status: str) -> Subgroups:
    groups, gaps = [], []
    for column, values in GROUPS.items():
        for value, cases in values.items():
            hit = 0.09 if status == "fail" and value == "female" else 0.0
            level = 0.9 + chance.uniform(-0.04, 0.04)
            names = ["accuracy", "balanced_accuracy", *[f"sensitivity[{c}]" for c in classes]]
            theirs = {name: share(level, cases) for name in names}
            mine = {name: share(level - 0.006 - hit, cases) for name in names}
            for side, fall in ((theirs, 0.0), (mine, 0.004)):
                side["auroc_macro"] = around(0.975 - fall, 0.01)
                side["ece"] = around(0.03 + fall, 0.012)
            groups.append(
                Subgroup(
                    column=column,
                    value=value,
                    cases=cases,
                    units=max(cases // 2, 1),
                    too_small=cases < 30,
                    metrics=mine,
                    reference=theirs,
                    changes={n: around(-0.006 - hit, 0.4 / math.sqrt(cases)) for n in names},
                )
            )
        widened = 0.05 if status == "fail" and column == "sex" else 0.004
        first, *_, last = values
        gaps.append(
            Gap(
                column=column,
                metric="balanced_accuracy",
                best=last,
                worst=first,
                candidate=around(0.031 + widened, 0.03),
                reference=around(0.031, 0.03),
                change=around(widened, 0.02),
            )
        )
    return Subgroups(
        columns=tuple(GROUPS),
        minimum=30,
        unknown={"age": 43, "sex": 2},
        groups=tuple(groups),
        gaps=tuple(gaps),
        verdict=said(status, "subgroups"),
    )


def no_metadata() -> Subgroups:
    return Subgroups(
        columns=(),
        minimum=30,
        verdict=verdict_of("inconclusive", "No metadata: nothing can be told."),
    )


def counts(name: str, cases: int, lost: int, gained: int, changed: int = 0) -> FlipCounts:
    same = cases - lost - gained - changed
    return FlipCounts(
        name=name,
        cases=cases,
        agreement=share(same / max(cases, 1), cases),
        lost=lost,
        gained=gained,
        changed=changed,
    )


def disagreement(
    classes: tuple[str, ...], chance: random.Random, status: str, flips: int
) -> Disagreement:
    lost, gained = (21, 5) if status == "fail" else (9, 8)
    kinds = ["lost"] * lost + ["changed"] * 3 + ["gained"] * gained
    shown = []
    for number, kind in enumerate(kinds[:flips]):
        truth, other = classes[number % len(classes)], classes[(number + 1) % len(classes)]
        third = classes[(number + 2) % len(classes)]
        before, after = {
            "lost": (truth, other),
            "gained": (other, truth),
            "changed": (other, third),
        }[kind]
        shown.append(
            Flip(
                key=f"images/{truth}/{number:04d}.png",
                truth=truth,
                before=before,
                after=after,
                kind=kind,
                confidence_before=max(0.97 - 0.02 * number, 0.3),
                confidence_after=max(0.9 - 0.02 * number + chance.uniform(-0.05, 0.05), 0.3),
                groups={"sex": "female", "site": "A"} if number % 2 else {},
                picture=f"{PICTURES}/flip-{number:02d}.png" if number % 7 != 6 else None,
            )
        )
    return Disagreement(
        cases=513,
        agreement=share((513 - lost - gained - 3) / 513, 513),
        kappa=around(0.953, 0.02),
        divergence=0.0213,
        lost=lost,
        gained=gained,
        changed=3,
        p_value=0.0023 if status == "fail" else 1.0,
        directions=tuple(
            Direction(
                label=name,
                to_negative=7 + n,
                to_positive=6,
                missed=4 + n,
                found=3,
                p_value=1.0 if status == "pass" else 0.02,
            )
            for n, name in enumerate(classes)
        ),
        by_class=tuple(counts(name, 120 + n, 2 + n, 2, n) for n, name in enumerate(classes)),
        by_confidence=(
            counts("up to 0.5", 12, 3, 4, 2),
            counts("0.5 to 0.7", 41, 4, 3, 1),
            counts("0.7 to 0.9", 120, 2, 1),
            counts("0.9 to 1", 340, 0, 0),
        ),
        by_group=(counts("sex: female", 241, 6, 3), counts("sex: male", 270, 3, 5)),
        flips=tuple(shown),
        verdict=said(status, "disagreement"),
    )


def stress(chance: random.Random, status: str) -> Stress:
    curves = []
    for number, (kind, (unit, amounts)) in enumerate(KINDS.items()):
        levels = []
        for strength, amount in enumerate(amounts, start=1):
            fall = (0.01 + 0.006 * (number % 4)) * strength**1.6 + chance.uniform(0, 0.01)
            added = 0.025 * strength if status == "fail" and kind == "noise" else 0.004
            before, after = max(0.95 - fall, 0.25), max(0.945 - fall - added, 0.25)
            levels.append(
                StressLevel(
                    strength=strength,
                    amount=amount,
                    reference=share(before, 300),
                    candidate=share(after, 300),
                    change=around(after - before, 0.02),
                    added_change=around(after - before + 0.005, 0.022),
                )
            )
        curves.append(StressCurve(kind=kind, unit=unit, levels=tuple(levels)))
    probes = [
        OutOfScopeProbe(
            name=name,
            images=32,
            reference_confidence=0.61,
            candidate_confidence=0.58 + 0.05 * number,
            reference_refused=0.9 - 0.1 * number,
            candidate_refused=0.94 - 0.16 * number,
        )
        for number, name in enumerate(("blank", "noise", "colour photograph"))
    ]
    return Stress(
        images=300,
        seed=0,
        undisturbed={"reference": share(0.95, 300), "candidate": share(0.945, 300)},
        curves=tuple(curves),
        probes=tuple(probes),
        verdict=said(status, "stress"),
    )


def saliency(classes: tuple[str, ...], status: str, *, apart: bool = True) -> Saliency:
    levels = {
        "candidate": 0.41 if status == "fail" else 0.91,
        "independent": 0.63,
        "randomized": 0.11,
    }
    if not apart:
        del levels["independent"]
    rows = {
        name: {
            "ssim": around(0.8 * level, 0.03),
            "spearman": around(level, 0.03),
            "iou_top20": around(0.7 * level, 0.03),
        }
        for name, level in levels.items()
    }
    faithful = {
        name: {
            "average_drop": around(0.21 + 0.1 * n, 0.03),
            "increase_in_confidence": around(0.31 - 0.05 * n, 0.04),
            "deletion_auc": around(0.22, 0.02),
            "insertion_auc": around(0.71, 0.03),
        }
        for n, name in enumerate(("reference", *levels))
    }
    panels = [
        SaliencyPanel(
            key=f"images/{name}/{n:04d}.png",
            truth=name,
            explained=name,
            picture=f"{PICTURES}/maps-{n:02d}.png",
            titles=("image", "reference", "student", "int8", "independent", "random weights"),
            similarity=0.9 - 0.04 * n,
        )
        for n, name in enumerate(classes)
    ]
    return Saliency(
        method="Score-CAM",
        mode="fast",
        images=60,
        maps={
            "candidate": "the shipped int8 file",
            "independent": "the control, trained without the reference",
            "randomized": "the candidate with random weights",
        },
        similarity=rows,
        faithfulness=faithful,
        inside_mask={name: share(0.62 - 0.1 * n, 60) for n, name in enumerate(faithful)},
        seconds_per_image={"reference": 1.92, "candidate": 0.21},
        panels=tuple(panels),
        verdict=said(status, "saliency"),
    )


def judgements(
    classes: tuple[str, ...],
    *,
    reference: bool = False,
    metadata: bool = True,
    planted: str | None = None,
    flips: int = 30,
    missing: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Judgements:
    """All sections of one candidate on one split.

    Args:
        classes: Class names.
        reference: The reference's own: no changes, no disagreement, stress or saliency.
        metadata: Whether groups are known.
        planted: The section that holds a loss; the others pass.
        flips: Flipped images that are named, at most.
        missing: Sections that were not measured, and why.
        seed: Of the drawn numbers.
    """
    chance = random.Random(seed)

    def status(name: str) -> str:
        return "fail" if planted == name else "pass"

    sections = {
        "operating": operating(classes, chance, status("operating"), reference=reference),
        "calibration": calibration(chance, status("calibration"), reference=reference),
    }
    if not reference:
        groups = subgroups(classes, chance, status("subgroups")) if metadata else no_metadata()
        sections |= {
            "subgroups": groups,
            "disagreement": disagreement(classes, chance, status("disagreement"), flips),
            "stress": stress(chance, status("stress")),
            "saliency": saliency(classes, status("saliency")),
        }
    absent = dict(missing or {})
    return Judgements(
        **{name: one for name, one in sections.items() if name not in absent}, not_measured=absent
    )


def with_judgements(
    result: Result,
    *,
    metadata: bool = True,
    planted: str | None = None,
    external: str | None = None,
    missing: Mapping[str, str] | None = None,
    flips: int = 30,
) -> Result:
    """A result whose candidates have sections; the rejected ones fail some of theirs."""
    records = []
    for number, record in enumerate(result.candidates):
        is_reference = record.name == result.reference
        worst = "stress" if record.verdict and record.verdict.status == "fail" else planted
        own = judgements(
            result.classes,
            reference=is_reference,
            metadata=metadata,
            planted=worst,
            missing=missing,
            flips=flips,
            seed=number,
        )
        split = "test" if "test" in record.changes or is_reference else "validation"
        found = {split: own}
        update: dict[str, object] = {"judgements": found}
        if external and (is_reference or record.name == result.shipped):
            found[external] = judgements(
                result.classes, reference=is_reference, metadata=False, seed=100 + number
            )
            update |= _elsewhere(record, external)
        records.append(record.model_copy(update=update))
    return result.model_copy(update={"candidates": tuple(records)})


def _elsewhere(record: CandidateRecord, external: str) -> dict[str, object]:
    measured = {
        metric: share(max(one.value - 0.08, 0), 186) if one.high <= 1 else one
        for metric, one in record.evidence["test"].items()
    }
    changes = {split: dict(found) for split, found in record.changes.items()}
    changes[external] = {metric: around(-0.011, 0.03, 186) for metric in measured}
    return {
        "evidence": {**record.evidence, external: measured},
        "changes": changes if record.parent is not None else record.changes,
    }


@functools.cache
def picture(width: int, height: int, seed: int = 0, *, rough: bool = False) -> bytes:
    """A grey PNG: a soft blob, or noise that no codec makes smaller."""
    chance = random.Random(seed)
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        if rough:
            rows += chance.randbytes(width)
            continue
        for x in range(width):
            far = math.hypot(x % height - height / 2, y - height / 2) / (height / 2)
            rows.append(max(0, min(255, int(230 * (1 - far) + chance.uniform(0, 18)))))

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@functools.cache
def pictures(flips: int = 30, panels: int = 8) -> dict[str, bytes]:
    """What the drawn records name."""
    found = {f"{PICTURES}/flip-{n:02d}.png": picture(96, 96, n) for n in range(flips)}
    return found | {f"{PICTURES}/maps-{n:02d}.png": picture(576, 96, n) for n in range(panels)}
