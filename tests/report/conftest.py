"""A study with six candidates, drawn from counts, as the pipeline would have recorded it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from clinipress.records.candidate import Applied, CandidateRecord, Latency, Parity
from clinipress.records.result import (
    Audit,
    DuplicatePair,
    Environment,
    Interval,
    Result,
    Rule,
    Shortcut,
    SplitSummary,
    TestOpening,
    Unreadable,
)
from kit.verdicts import verdict_of

HOSTILE = '<script>alert("x")</script>'
PLAIN = ("glioma", "meningioma", "no tumour", HOSTILE)
MARGIN = 0.02

# name, parent, format, precision, bytes, parameters, accuracy, milliseconds, verdict, rejected
ROWS: tuple[tuple[Any, ...], ...] = (
    ("reference", None, "onnx", "float32", 28_312_044, 6_957_956, 0.949, 41.2, None, None),
    (
        "distilled",
        "reference",
        "onnx",
        "float32",
        6_214_992,
        1_522_884,
        0.951,
        7.31,
        "pass",
        "'pruned-int8' gains more: size times speed 486-fold over the reference, here 26-fold.",
    ),
    (
        "pruned",
        "distilled",
        "onnx",
        "float32",
        2_687_310,
        662_104,
        0.944,
        4.87,
        "pass",
        "'pruned-int8' gains more: size times speed 486-fold over the reference, here 89-fold.",
    ),
    (
        "pruned-float16",
        "pruned",
        "onnx",
        "float16",
        1_350_144,
        662_104,
        0.944,
        None,
        "inconclusive",
        "'pruned-int8' passed on validation; here the cases were too few to tell.",
    ),
    ("pruned-int8", "pruned", "onnx", "int8", 706_918, 662_104, 0.946, 3.43, "pass", None),
    (
        "pruned-int8-minmax",
        "pruned",
        "onnx",
        "int8",
        706_514,
        662_104,
        0.871,
        3.41,
        "fail",
        "Failed its gate on validation. Accuracy fell by 7.8 points.",
    ),
)


def wilson(hits: int, n: int) -> Interval:
    """Wilson's score interval."""
    z, share = 1.959964, hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = max(centre - half, 0), min(centre + half, 1)
    return Interval(value=share, low=low, high=high, method="wilson", n=n)


def drawn_matrix(accuracy: float, counts: list[int], seed: int) -> list[list[int]]:
    """A confusion matrix with about this accuracy."""
    chance, size = random.Random(seed), len(counts)
    matrix = [[0] * size for _ in counts]
    for row, count in enumerate(counts):
        for _ in range(count):
            wrong = chance.random() > accuracy + 0.02 * math.cos(row)
            column = (row + chance.choice((1, 1, 2))) % size if wrong else row
            matrix[row][column] += 1
    return matrix


def measured(
    matrix: list[list[int]], classes: tuple[str, ...], agreement: float | None
) -> dict[str, Interval]:
    """Evidence that follows from a confusion matrix."""
    total = sum(map(sum, matrix))
    hits = [matrix[number][number] for number in range(len(classes))]
    found = {"accuracy": wilson(sum(hits), total)}
    for number, name in enumerate(classes):
        column = sum(row[number] for row in matrix)
        found[f"sensitivity[{name}]"] = wilson(hits[number], sum(matrix[number]))
        found[f"precision[{name}]"] = wilson(hits[number], column)
        found[f"f1[{name}]"] = wilson(2 * hits[number], column + sum(matrix[number]))
    mean = sum(found[f"sensitivity[{name}]"].value for name in classes) / len(classes)
    for name, value, half in (
        ("balanced_accuracy", mean, 0.018),
        ("auroc_macro", 0.9 + mean / 10.5, 0.004),
        ("f1_macro", mean - 0.002, 0.018),
        ("kappa", mean - 0.03, 0.025),
        ("log_loss", 1.2 - mean, 0.04),
        ("ece", 0.021, 0.009),
    ):
        found[name] = Interval(
            value=value, low=value - half, high=value + half, method="bootstrap", n=total
        )
    if agreement is not None:
        found["agreement"] = wilson(round(agreement * total), total)
    return found


def changed(reference: dict[str, Interval], candidate: dict[str, Interval]) -> dict[str, Interval]:
    """Candidate minus reference, with plausible ends."""
    found = {}
    for metric, before in reference.items():
        if metric not in candidate:
            continue
        value, n = candidate[metric].value - before.value, before.n or 100
        half = 1.96 * math.sqrt(0.028 / n) if metric != "auroc_macro" else 0.003
        found[metric] = Interval(
            value=value, low=value - half, high=value + half, method="tango", n=n
        )
    return found


def history(name: str, precision: str, depth: int) -> tuple[Applied, ...]:
    train = Applied(
        step="train",
        params={
            "model": {"name": "densenet121"},
            "train": {"epochs": 50, "sizes": [[96, 0.5], [128, 0.5]]},
        },
        facts={"best_epoch": 41, "numerics": "bfloat16-channels-last", "seconds": 2211.4},
    )
    distill = Applied(
        step="distill",
        params={"student": {"name": "mobilenetv3_large_100"}, "temperature": 4.0, "alpha": 0.7},
        parent="a" * 64,
        facts={"best_epoch": 44, "seconds": 1312.0},
    )
    pruned = [["backbone.conv_stem", True, [1, 4, 9]], ["backbone.a", True, [2]]] * 30
    prune = Applied(
        step="prune", params={"ratio": 0.5, "of": "macs", "pruning": pruned}, parent="b" * 64
    )
    export = Applied(
        step="export",
        params={"format": "onnx", "precision": precision, "note": f"for {name}"},
        facts={"operators": {"QLinearConv": 47}, "opset": 21},
    )
    return (*(train, distill, prune)[:depth], export)


def candidate(
    row: tuple[Any, ...], classes: tuple[str, ...], counts: dict[str, list[int]], number: int
) -> CandidateRecord:
    name, parent, form, precision, size, parameters, accuracy, milliseconds, status, rejected = row
    splits = (
        ("validation", "test")
        if name in ("reference", "pruned-int8", "pruned")
        else ("validation",)
    )
    confusion = {split: drawn_matrix(accuracy, counts[split], number) for split in splits}
    agreement = None if parent is None else 0.97
    latency = milliseconds and Latency(
        median=milliseconds,
        p95=1.13 * milliseconds,
        batch=1,
        threads=1,
        runtime="onnxruntime 1.31.1",
        repeats=200,
    )
    return CandidateRecord(
        name=name,
        parent=parent,
        history=history(name, precision, min(number, 3)),
        format=form,
        precision=precision,
        path=f"candidates/{name}.onnx",
        digest=f"{number:064x}",
        file_bytes=size,
        parameters=parameters,
        macs=parameters * 88,
        latency_ms=latency,
        latency_with_preprocessing_ms=latency
        and latency.model_copy(update={"median": 2 * latency.median, "preprocessing": True}),
        peak_memory_bytes=None if milliseconds is None else 61_000_000 + size,
        low_precision_operators={"QLinearConv": 47, "QGemm": 1} if precision == "int8" else {},
        evidence={split: measured(confusion[split], classes, agreement) for split in splits},
        confusion=confusion,
        parity=Parity(
            images=200, max_logit_difference=0.00043, mean_logit_difference=1e-5, label_flips=0
        ),
        verdict=status
        and verdict_of(
            status,
            f"The gate's own sentence on {name}.",
            cases_needed=1480 if status == "inconclusive" else None,
        ),
        rejected=rejected,
    )


def with_changes(record: CandidateRecord, reference: CandidateRecord) -> CandidateRecord:
    changes = {
        split: changed(reference.evidence[split], found) for split, found in record.evidence.items()
    }
    return record.model_copy(update={"changes": changes})


def audited(classes: tuple[str, ...], counts: dict[str, list[int]]) -> Audit:
    pair = DuplicatePair(
        a="Training/a/0012.jpg",
        b="Testing/b/0931.jpg",
        exact=True,
        correlation=1.0,
        label_a=classes[0],
        label_b=classes[1],
        split_a="train",
        split_b="test",
    )
    totals = {
        name: sum(split[number] for split in counts.values()) for number, name in enumerate(classes)
    }
    published = {"Training": {name: 5 * n // 6 for name, n in totals.items()}}
    published["Testing"] = {name: n - published["Training"][name] for name, n in totals.items()}
    return Audit(
        path="data",
        layout="split/class folders",
        images=sum(totals.values()),
        classes=totals,
        splits=published,
        patients=None,
        unreadable=(
            Unreadable(path="Training/a/broken.jpg", reason="the file ends early"),
            Unreadable(path=f"Testing/{HOSTILE}.png", reason="not an image"),
        ),
        exact_duplicates=214,
        near_duplicates=97,
        clusters=2_871,
        duplicate_pairs=(pair,) * 30,
        leaks={"Testing->Training": 61},
        leaked_images={"Testing->Training": ("Testing/b/0931.jpg",)},
        conflicting_labels=(pair,),
        shortcuts=(
            Shortcut(feature="all", target="macro", auroc=wilson(842, 1000), warning=True),
            Shortcut(feature="width", target=classes[-1], auroc=wilson(911, 1000), warning=True),
            Shortcut(
                feature="mean intensity", target=classes[0], auroc=wilson(631, 1000), warning=False
            ),
        ),
        baseline_accuracy=wilson(1740, 3212),
        majority_accuracy=0.31,
        warnings=(
            "61 images of the published test split have a twin in the training split.",
            f"The image width gives away the class '{classes[-1]}'.",
        ),
        seconds=21.0,
    )


def study(
    *,
    synthetic: bool = False,
    classes: tuple[str, ...] = PLAIN,
    status: str = "pass",
    per_class: int = 160,
    extra_candidates: int = 0,
) -> Result:
    """A whole result.

    Args:
        synthetic: Whether it says that the images are drawn.
        classes: Class names.
        status: Verdict of the study.
        per_class: Test images of a class, about.
        extra_candidates: More rejected candidates.
    """
    sizes = {"train": 4, "validation": 0.8, "test": 1}
    counts = {
        split: [round(share * (per_class + 7 * number)) for number in range(len(classes))]
        for split, share in sizes.items()
    }
    more = tuple(
        (
            f"variant-{n}-with-a-long-name",
            "pruned",
            "onnx",
            "int8",
            700_000 + 9_000 * n,
            660_000,
            0.90 + 0.002 * n,
            3.3 + n / 7,
            "fail",
            "Failed its gate on validation.",
        )
        for n in range(extra_candidates)
    )
    rows = [candidate(row, classes, counts, n) for n, row in enumerate((*ROWS, *more), start=1)]
    records = (rows[0], *(with_changes(row, rows[0]) for row in rows[1:]))
    return Result(
        study="brain-mri <small>" if not synthetic else "demo",
        risk="medium",
        synthetic=synthetic,
        created="2026-02-03T10:11:12+00:00",
        recipe={
            "name": "brain-mri",
            "seed": 0,
            "risk": "medium",
            "data": {"path": "data", "modality": "brain-mri"},
        },
        classes=classes,
        rules=(
            Rule(metric="accuracy", margin=MARGIN),
            Rule(metric="balanced_accuracy", margin=MARGIN, primary=False),
            Rule(metric="auroc_macro", margin=MARGIN, primary=False),
            Rule(metric="sensitivity[*]", margin=4 * MARGIN, primary=False),
        ),
        reference="reference",
        shipped="pruned-int8",
        bundle="bundle",
        verdict=verdict_of(
            status,
            "Accuracy: the gate's own sentence.",
            cases_needed=1480 if status == "inconclusive" else None,
        ),
        candidates=records,
        audit=audited(classes, counts),
        split=SplitSummary(
            by="near-duplicate cluster",
            reason="No patient identifiers were found.",
            seed=0,
            counts={
                split: dict(zip(classes, found, strict=True)) for split, found in counts.items()
            },
            units={"train": 1904, "validation": 421, "test": 546},
            digest="c" * 64,
            dropped=2,
        ),
        test_openings=(
            TestOpening(
                when="2026-02-03T10:05:00+00:00",
                candidates=("reference", "pruned", "pruned-int8"),
                reason="final evaluation; shipping 'pruned-int8' was decided on validation",
            ),
        ),
        environment=Environment(
            clinipress="0.1.0",
            python="3.11.9",
            platform="Linux x86_64",
            cpu="Example CPU at 2.5 GHz",
            cpu_flags=("avx2", "avx512f", "avx512_vnni"),
            cores=2,
            memory_bytes=8_200_000_000,
            packages={"torch": "2.14.0", "onnxruntime": "1.31.1", "timm": "1.0.22"},
        ),
        seconds={"audit": 21.0, "reference": 2211.4, "distilled": 1312.0, "test": 14.2},
    )


@pytest.fixture(scope="session")
def make_study() -> Callable[..., Result]:
    return study


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE
