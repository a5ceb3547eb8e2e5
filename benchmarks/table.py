"""The guide's table, measured: what each technique loses and gains on real images.

    python benchmarks/table.py DATA OUT --set brain-mri [--only int8 --only qat-0] [--sealed]

One row per study, each a full `clinipress run` of its own: data, reference, steps, exports, the
sealed test split. All rows share one reference, trained once at least as long as any student and
kept at its best epoch, and one split by patient or near-duplicate cluster. Rows marked with seeds
are run once per seed. All studies share the run folder OUT, so that teacher's answers and equal
steps are made once, and go on where they stopped; a row is printed as soon as it is there, and its
result kept as OUT/rows/ROW.json. With `--sealed` the test split stays closed, and figures are of
the validation split: for choosing settings.

Points lost are paired, with their 95 % interval; smaller and faster are over the reference's
float32 file, times without reading the image, 1 thread, measured in turn in one go.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from clinipress.models.classifier import TorchCandidate
from clinipress.records.candidate import CandidateRecord
from clinipress.records.result import Result
from clinipress.study.flow import run_study
from clinipress.study.read import parse_study

SEEDS = (0, 1, 2)
# dense 3 x 3 convolutions, what 8-bit CPUs do best: 1.7 million parameters before pruning
SMALL = {"name": "resnet18", "arguments": {"channels": [32, 64, 128, 192]}}
DATA: dict[str, dict[str, Any]] = {
    "brain-mri": {
        "modality": "brain-mri",
        "input": {"channels": 1, "height": 128, "width": 128},
        "split": {"by": "auto", "fractions": [0.65, 0.15, 0.2]},
    },
    "covid-ct": {
        "modality": "chest-ct",
        "positive": "CT_COVID",
        "input": {"channels": 1, "height": 128, "width": 128},
        "split": {"by": "auto", "fractions": [0.6, 0.15, 0.25]},
    },
}
# The reference's epochs; no row's student sees more in all its steps together.
EPOCHS = {"brain-mri": 54, "covid-ct": 60}
REFERENCE: dict[str, dict[str, Any]] = {
    "brain-mri": {"sizes": [[64, 0.56], [96, 0.18], [128, 0.26]]},
    "covid-ct": {"sizes": [[64, 0.5], [96, 0.2], [128, 0.3]]},
}
# chosen on brain-mri's validation split (LOG.md): T = 4 and alpha = 0.7 lose to the control
SOFT = {"answers": "mean", "temperature": 2, "alpha": 0.5}
INT8 = {"format": "onnx", "precision": "int8", "calibration_images": 200}


def rows(name: str) -> dict[str, dict[str, Any]]:
    """Row -> its steps, exports and seed."""
    many = EPOCHS[name]
    qat: dict[str, Any] = {
        "step": "qat",
        "train": {"epochs": 4, "learning_rate": 5e-5, "warmup_epochs": 0.5},
    }
    tuned: dict[str, Any] = {"epochs": 10, "learning_rate": 5e-4, "warmup_epochs": 0.5}
    pruned = {"step": "prune", "ratio": 0.5, "rounds": 2, "train": tuned}
    student = {
        "step": "distill",
        "student": SMALL,
        **SOFT,
        # small batches: twice the steps of the same images gained a point (LOG.md)
        "train": {"epochs": many - 16, "batch_size": 16},
    }
    small = {
        "step": "distill",
        "student": "mobilenetv3_small_100",
        **SOFT,
        "control": True,
        "train": {"epochs": many - 4},
    }
    small_qat = qat | {"train": qat["train"] | {"learning_rate": 2e-4}}
    found: dict[str, dict[str, Any]] = {
        "int8": {"steps": [], "exports": [{"precision": "float16"}, INT8]},
        "mobilenetv3": {
            "steps": [small],
            "exports": [{"precision": "float16"}, INT8, INT8 | {"precision": "mixed"}],
        },
        "mobilenetv3-qat": {
            "steps": [small, small_qat],
            "exports": [INT8, INT8 | {"precision": "mixed"}],
        },
        "pruned": {"steps": [pruned], "exports": [INT8]},
    }
    for seed in SEEDS:
        found[f"qat-{seed}"] = {"steps": [qat], "exports": [INT8], "seed": seed}
        found[f"all-{seed}"] = {
            "steps": [
                student,
                pruned | {"ratio": 0.3, "train": tuned | {"batch_size": 16}},
                qat | {"train": qat["train"] | {"epochs": 6, "learning_rate": 1e-4}},
            ],
            "exports": [INT8],
            "seed": seed,
        }
    return found


def main() -> None:
    """Run the rows that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", choices=sorted(DATA), required=True, dest="name")
    parser.add_argument("--only", action="append")
    parser.add_argument("--sealed", action="store_true")
    asked = parser.parse_args()
    model = _reference(asked.name, asked.data, asked.out)
    for row, parts in rows(asked.name).items():
        if asked.only and row not in asked.only:
            continue
        tree = _tree(asked.name, row) | parts | {"try_next": False, "open_test": not asked.sealed}
        # the study's seed is added to the split's: -seed keeps every row on the split on which the
        # reference was trained, or its training images would be among those it is judged on
        split = DATA[asked.name]["split"] | {"seed": -parts.get("seed", 0)}
        tree["data"] = DATA[asked.name] | {"split": split}
        tree["reference"] = {"model": model, "train": None}
        result = run_study(parse_study(tree), asked.data, asked.out, progress=Lines())
        kept = asked.out / "rows" / f"{row}{'-sealed' if asked.sealed else ''}.json"
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(result.model_dump_json(indent=1), encoding="utf-8")
        for record in result.candidates[1:]:
            print(line(row, result, record), flush=True)


def _tree(name: str, row: str) -> dict[str, Any]:
    return {"name": f"{name}-{row}", "risk": "medium", "data": DATA[name]}


def _reference(name: str, data: Path, out: Path) -> dict[str, Any]:
    """Train the reference, or find it; the model as every row's recipe names it."""
    train: dict[str, Any] = {"epochs": EPOCHS[name], "batch_size": 32, "learning_rate": 0.001}
    train |= REFERENCE[name]
    tree = _tree(name, "reference") | {
        "reference": {"model": "resnet50", "train": train},
        "steps": [],
        "exports": [],
        "open_test": False,
    }
    result = run_study(parse_study(tree), data, out, progress=Lines())
    first = result.candidates[0]
    accuracy = first.evidence["validation"]["accuracy"]
    said = f"{accuracy.value:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%})"
    print(f"reference: ResNet-50, {EPOCHS[name]} epochs, validation accuracy {said}", flush=True)
    weights = out / "reference.safetensors"
    trained = next(
        folder
        for folder in (out / "objects").glob("train-*")
        if TorchCandidate.load(folder, allow_code=True).digest == first.history[-1].parent
    )
    weights.unlink(missing_ok=True)
    weights.hardlink_to(trained / "weights.safetensors")
    return {"name": "resnet50", "checkpoint": str(weights)}


class Lines:
    """Progress as plain lines."""

    def start(self, what: str, total: int) -> None:
        """A task begins."""

    def advance(self, what: str, units: int = 1, note: str = "") -> None:
        """A part of it is done."""

    def finish(self, what: str, note: str = "") -> None:
        """It is over."""

    def say(self, text: str) -> None:
        """A line worth keeping."""
        print(f"  {text}", flush=True)


def line(row: str, result: Result, record: CandidateRecord) -> str:
    """A row of the table, as Markdown."""
    root = result.candidates[0]
    split = "test" if "test" in record.changes else "validation"
    change, accuracy = record.changes[split]["accuracy"], record.evidence[split]["accuracy"]
    agreement = record.evidence[split].get("agreement")
    smaller = root.file_bytes / record.file_bytes
    times = [one.latency_ms.median for one in (root, record) if one.latency_ms is not None]
    faster = f"{times[0] / times[1]:.1f}x" if len(times) == 2 else "not measured"
    parts = [
        row,
        record.name,
        split,
        f"{100 * accuracy.value:.1f} %",
        f"{100 * change.value:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})",
        f"{agreement.value:.1%}" if agreement else "-",
        f"{record.file_bytes / 1e6:.2f} MB",
        f"{max(0.0, 1 - 1 / smaller):.1%}, {smaller:.1f}x",
        faster,
        record.verdict.status if record.verdict else "-",
    ]
    text = "| " + " | ".join(parts) + " |"
    over = record.over_control.get(split, {}).get("accuracy")
    if over is not None:
        gained = f"{100 * over.value:+.1f} ({100 * over.low:+.1f} to {100 * over.high:+.1f})"
        text += f"\n  over its control without a teacher: {gained} points"
    return text


if __name__ == "__main__":
    main()
