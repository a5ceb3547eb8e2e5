"""`clinipress init`: look at a data folder and propose a study, every choice with its reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from clinipress.data.sources import Dataset, read_dataset
from clinipress.errors import ClinipressError, InputError
from clinipress.kinds.image.read import facts
from clinipress.records.store import write_atomically

__all__ = ["propose", "write_study"]

LOOKED_AT = 64
SIZES = (64, 96, 128, 160, 192, 224)
MODALITY_WORDS = {
    "brain-mri": ("glioma", "meningioma", "pituitary", "tumor", "mri"),
    "chest-xray": ("xray", "x-ray", "cxr", "pneumonia"),
    "chest-ct": ("covid", "carcinoma", "ct_", "lung"),
    "dermoscopy": ("melanoma", "nevus", "akiec", "bkl", "skin", "lesion"),
    "histology": ("aca", "scc", "histo"),
    "retina": ("retin", "fundus", "_dr"),
}


def propose(dataset: Dataset) -> dict[str, Any]:
    """What the images suggest, from headers alone.

    Returns:
        Counts, channels, size, modality and how to split, each as plain data.
    """
    step = max(1, len(dataset.items) // LOOKED_AT)
    seen = []
    for item in dataset.items[::step]:
        try:
            seen.append(facts(item.path))
        except ClinipressError:
            continue  # the audit counts what cannot be read
    shorter = sorted(min(f.width, f.height) for f in seen) or [128]
    typical = shorter[len(shorter) // 2]
    size = max((s for s in SIZES if s <= typical), default=SIZES[0])
    text = " ".join([*dataset.classes, str(dataset.root.name)]).lower()
    modality = next(
        (m for m, words in MODALITY_WORDS.items() if any(w in text for w in words)), "generic"
    )
    colour = sum(f.channels >= 3 for f in seen) > len(seen) / 2 and modality in (
        "dermoscopy",
        "histology",
        "retina",
    )
    patients = all(item.patient for item in dataset.items)
    return {
        "layout": dataset.layout,
        "images": len(dataset.items),
        "classes": dict(Counter(item.label for item in dataset.items)),
        "channels": 3 if colour else 1,
        "size": size,
        "typical_side": typical,
        "modality": modality,
        "patients": patients,
        "published_splits": sorted({item.split for item in dataset.items if item.split}),
    }


def write_study(data: Path, out: Path, *, force: bool = False) -> dict[str, Any]:
    """Write a commented study.yaml for a data folder.

    Returns:
        What was seen and proposed.

    Raises:
        InputError: `out` exists and `force` is not given.
        DataError: The folder is not a data set.
    """
    if out.exists() and not force:
        raise InputError("a new file", f"'{out}', which exists", "choose another --out, or --force")
    dataset = read_dataset(data)
    seen = propose(dataset)
    write_atomically(out, _text(data, seen))
    return seen


def _text(data: Path, seen: dict[str, Any]) -> str:
    unit = (
        "patients are named, so no patient stands on two sides"
        if seen["patients"]
        else "no patient ids: near-duplicate images are kept on one side"
    )
    published = ""
    if seen["published_splits"]:
        names = ", ".join(seen["published_splits"])
        published = (
            f"\n    # the data has its own splits ({names}); published splits often leak:"
            "\n    # 'clinipress audit' shows how much. 'by: published' keeps them, drops the twins"
        )
    name = (
        "".join(c if c.isalnum() or c in "-_." else "-" for c in data.resolve().stem).strip("-.")
        or "study"
    )
    counts = ", ".join(f"{k} {v}" for k, v in seen["classes"].items())
    return f"""# A clinipress study, proposed for {seen["images"]} images ({counts}).
# Run it:  clinipress run THIS_FILE     Most keys have a default; unknown keys are refused.
name: {name}
# critical, high, medium or low: accuracy may fall by 0.5, 1, 2 or 5 points. Decide before you look.
risk: medium
seed: 0
intended_use: ""   # one sentence for the card and the report
data:
  path: {json.dumps(str(data))}
  # chooses the augmentation: generic, brain-mri, chest-ct, chest-xray, dermoscopy, histology,
  # retina
  modality: {seen["modality"]}
  input:
    channels: {seen["channels"]}   # 1 grey, 3 colour
    height: {seen["size"]}   # typical shorter side {seen["typical_side"]} pixels; smaller is faster
    width: {seen["size"]}
  split:
    by: auto   # {unit}{published}
    fractions: [0.65, 0.15, 0.2]   # train, validation, test (sealed until the end)
reference:
  model: resnet50   # any timm name, or {{factory: "module:function"}} (run it with --allow-code)
  # as long as all steps of a student together, or the comparison flatters the student
  train: {{epochs: 60, batch_size: 32, learning_rate: 0.001}}
steps:
  - step: distill
    # narrow and dense: what 8-bit CPUs do best, and it learns from scratch in few steps. With
    # pretrained weights, mobilenetv3_small_100 or mobilenetv2_100 are smaller still
    student: {{name: resnet18, arguments: {{channels: [32, 64, 128, 192]}}}}
    temperature: 2   # the clinical edge compression guide says 4 and 0.7; from random weights
    alpha: 0.5   # these did better (LOG.md). 0 is the control without a teacher
    train: {{epochs: 44, batch_size: 16}}
  - step: prune
    ratio: 0.3   # share of the multiply-adds to remove
    rounds: 2
    train: {{epochs: 10, batch_size: 16, learning_rate: 0.0005, warmup_epochs: 0.5}}
  - step: qat   # learns to live with the rounding of its int8 file
    train: {{epochs: 6, learning_rate: 0.0001, warmup_epochs: 0.5}}
exports:
  - {{format: onnx, precision: float16}}
  - {{format: onnx, precision: int8, calibration_images: 200}}
"""
