"""Size of the report: ``python benchmarks/report_size.py [cases] [candidates] [classes]``.

The aim: 5,000 cases and 20 candidates still make one HTML file under 15 MB. Answers are drawn
(SYNTHETIC); every figure is worked out from them by the functions that a study uses, and every
picture is a real PNG of noise, which no codec makes smaller: a real study's report is smaller.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress.evidence.evidence import changes, evidence
from clinipress.evidence.gate import judge, rules_for
from clinipress.evidence.judged import Declared, statistics
from clinipress.evidence.scores import Scores
from clinipress.evidence.stress import stress_rows, stress_section
from clinipress.kinds.image.disturb import DISTURBANCES
from clinipress.recipe.study import EvidenceRecipe
from clinipress.records.candidate import Applied, CandidateRecord, Latency
from clinipress.records.judgement import Judgements, Saliency, SaliencyPanel
from clinipress.records.result import (
    Audit,
    Environment,
    Interval,
    Reason,
    Result,
    SplitSummary,
    Verdict,
)
from clinipress.reporting.page.build import write_report
from clinipress.stats.metrics import confusion

LIMIT = 15_000_000
RESAMPLES = 200  # the size does not depend on it
THUMBNAIL, MAP = 160, 224  # pixels
GROUPS = {
    "sex": ("female", "male", ""),
    "age": ("0-19", "20-39", "40-59", "60-79", "80 and over"),
    "site": tuple(f"hospital {letter}" for letter in "ABCDEFGH"),
}
EXTERNAL = "external: hospital Z"


def scores(random: np.random.Generator, cases: int, names: tuple[str, ...], split: str) -> Scores:
    """The reference's answers, about 90 % right, in patients of two images."""
    labels = random.integers(0, len(names), cases)
    logits = random.normal(size=(cases, len(names))) + 3.2 * np.eye(len(names))[labels]
    return Scores(
        logits=logits.astype(np.float32),
        labels=labels.astype(np.int64),
        units=np.arange(cases, dtype=np.int64) // 2,
        keys=tuple(f"{split}/{names[y]}/image_{n:06d}.png" for n, y in enumerate(labels)),
        classes=names,
        temperature=0.31,  # what these logits need: unit noise around 3.2
        groups={
            column: tuple(random.choice(values, cases).tolist())
            for column, values in GROUPS.items()
        },
    )


def worse(random: np.random.Generator, root: Scores, noise: float) -> Scores:
    """A candidate's answers: the reference's with noise."""
    shaken = root.logits + noise * random.normal(size=root.logits.shape)
    return replace(root, logits=shaken.astype(np.float32), temperature=0.31 + 0.1 * noise)


def stressed(random: np.random.Generator, root: Scores, mine: Scores) -> Judgements:
    """Ten disturbances at five strengths, answers shaken more and more."""
    rows = stress_rows(root.labels, root.units, 200)

    def shaken(logits: NDArray[np.float32], strength: int) -> NDArray[np.float32]:
        taken = logits[rows]
        return (taken + 0.5 * strength * random.normal(size=taken.shape)).astype(np.float32)

    disturbed = {
        (kind, strength): (shaken(root.logits, strength), shaken(mine.logits, strength))
        for kind in DISTURBANCES
        for strength in range(1, 6)
    }
    section = stress_section(root, mine, rows, disturbed, margin=0.02, resamples=RESAMPLES)
    return Judgements(stress=section)


def noise_picture(random: np.random.Generator, height: int, width: int) -> bytes:
    """A colour PNG of noise."""
    buffer = io.BytesIO()
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def mapped(random: np.random.Generator, root: Scores, folder: Path, images: int = 12) -> Saliency:
    """Saliency with drawn figures and, for every image, six maps side by side."""

    def near(value: float) -> Interval:
        return Interval(value=value, low=value - 0.03, high=value + 0.03, n=images)

    rows = {"candidate": 0.9, "independent": 0.6, "randomized": 0.1}
    panels: list[SaliencyPanel] = []
    for key in root.keys[:images]:
        name = f"pictures/maps-{len(panels):02d}.png"
        (folder / name).write_bytes(noise_picture(random, MAP // 2, 3 * MAP))
        titles = ("image", "reference", "student", "int8", "independent", "random weights")
        truth = root.classes[0]
        panels.append(
            SaliencyPanel(
                key=key, truth=truth, explained=truth, picture=name, titles=titles, similarity=0.9
            )
        )
    return Saliency(
        method="Score-CAM",
        mode="fast",
        images=images,
        maps=dict.fromkeys(rows, "drawn"),
        similarity={
            row: {metric: near(level) for metric in ("ssim", "spearman", "iou_top20")}
            for row, level in rows.items()
        },
        panels=tuple(panels),
        verdict=Verdict(status="pass", reasons=(Reason(kind="drawn", text="Drawn."),)),
    )


def pictured(random: np.random.Generator, found: Judgements, folder: Path) -> Judgements:
    """The same with a thumbnail on disk for every named flip."""
    if found.disagreement is None:
        return found
    flips = []
    for number, flip in enumerate(found.disagreement.flips):
        name = f"pictures/flip-{number:03d}.png"
        if not (folder / name).is_file():
            (folder / name).write_bytes(noise_picture(random, THUMBNAIL, THUMBNAIL))
        flips.append(flip.model_copy(update={"picture": name}))
    part = found.disagreement.model_copy(update={"flips": tuple(flips)})
    return found.model_copy(update={"disagreement": part})


def record(number: int, **measured: object) -> CandidateRecord:
    """A candidate's row."""
    latency = Latency(median=3.0, p95=3.5, batch=1, threads=1, runtime="drawn", repeats=100)
    step = Applied(step="train", params={"epochs": 50}, facts={"seconds": 2211.4})
    return CandidateRecord(
        name="reference" if number == 0 else f"candidate-{number}",
        parent=None if number == 0 else "reference",
        history=(step,) * (1 + number % 3),
        format="onnx",
        precision="float32" if number == 0 else "int8",
        path=f"objects/{number}/model.onnx",
        digest=f"{number:064x}",
        file_bytes=28_000_000 // (1 + number),
        parameters=7_000_000,
        macs=600_000_000,
        latency_ms=latency.model_copy(update={"median": 40 / (1 + number)}),
        peak_memory_bytes=90_000_000,
        **measured,
    )


def records(
    random: np.random.Generator, cases: int, candidates: int, names: tuple[str, ...], folder: Path
) -> Iterator[CandidateRecord]:
    """The reference and its candidates on the test split, one of them on a set from elsewhere."""
    asked = Declared("medium", EvidenceRecipe(), RESAMPLES)
    chosen, test = (scores(random, cases, names, split) for split in ("validation", "test"))
    elsewhere = scores(random, cases // 2, names, "elsewhere")
    for number in range(candidates + 1):
        noise = 0.08 * number
        finalist = number <= 1
        found, figures, differences, tables = {}, {}, {}, {}
        mine = worse(random, chosen, noise) if number else chosen
        sets = {"test": test} | ({EXTERNAL: elsewhere} if finalist else {})
        for split, root in sets.items():
            own = worse(random, root, noise) if number else root
            part = statistics(asked, root, own, validation=(chosen, mine))
            figures[split] = evidence(
                own.logits, own.labels, names, units=own.units, resamples=RESAMPLES,
                reference=root.logits if number else None,
            )  # fmt: skip
            if number:
                differences[split] = changes(
                    root.logits, own.logits, root.labels, names, units=root.units,
                    resamples=RESAMPLES,
                )  # fmt: skip
                inspected = stressed(random, root, own)
                maps = mapped(random, root, folder) if finalist else None
                part = part.model_copy(update={"stress": inspected.stress, "saliency": maps})
            found[split] = pictured(random, part, folder)
            tables[split] = confusion(own.logits, own.labels, len(names)).tolist()
        verdict = judge(rules_for("medium"), differences["test"]) if number else None
        yield record(
            number,
            evidence=figures,
            confusion=tables,
            changes=differences,
            verdict=verdict,
            rejected=None if finalist else "Drawn: another gains more.",
            judgements=found,
        )


def drawn(cases: int, candidates: int, classes: int, folder: Path) -> Result:
    """A whole SYNTHETIC study and its pictures."""
    random = np.random.default_rng(0)
    names = tuple(f"class {number}" for number in range(classes))
    (folder / "pictures").mkdir(parents=True)
    made = tuple(records(random, cases, candidates, names, folder))
    counts = {split: dict.fromkeys(names, cases // classes) for split in ("validation", "test")}
    return Result(
        study="SYNTHETIC study of the report's size",
        risk="medium",
        synthetic=True,
        created="2026-01-01T00:00:00+00:00",
        recipe={"name": "drawn", "seed": 0},
        classes=names,
        rules=rules_for("medium"),
        reference="reference",
        shipped="candidate-1",
        bundle=None,
        verdict=made[1].verdict or Verdict(status="inconclusive"),
        candidates=made,
        audit=Audit(
            path="drawn",
            layout="drawn",
            images=3 * cases,
            classes=dict.fromkeys(names, 3 * cases // classes),
        ),
        split=SplitSummary(
            by="patient",
            reason="Drawn.",
            seed=0,
            counts=counts,
            units={"test": cases // 2},
            digest="0" * 64,
        ),
        environment=Environment(
            clinipress="drawn",
            python="drawn",
            platform="drawn",
            cpu="drawn",
            cpu_flags=(),
            cores=2,
            memory_bytes=8_000_000_000,
            packages={},
        ),
    )


def main(cases: int = 5000, candidates: int = 20, classes: int = 7) -> None:
    """Make the study and its report, and say how large both are.

    Raises:
        SystemExit: The report is too large.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        began = time.perf_counter()
        result = drawn(cases, candidates, classes, folder)
        middle = time.perf_counter()
        path = write_report(result, folder)
        written = time.perf_counter()
        size = path.stat().st_size
        page = path.read_text(encoding="utf-8")
        pictures = sum(len(part.partition('"')[0]) for part in page.split("data:image")[1:])
        on_disk = sum(one.stat().st_size for one in (folder / "pictures").iterdir())
    record_bytes = len(json.dumps(result.model_dump(mode="json")))
    print(f"{cases} cases, {candidates} candidates, {classes} classes, {RESAMPLES} resamples")
    print(f"  figures {middle - began:.0f} s, report {written - middle:.2f} s")
    print(f"  record {record_bytes / 1e6:.2f} MB, pictures on disk {on_disk / 1e6:.2f} MB")
    print(f"  report {size / 1e6:.2f} MB, of which pictures {pictures / 1e6:.2f} MB as text")
    if size >= LIMIT:
        sys.exit(f"the report is larger than {LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
