"""`clinipress init`: look at a data folder and propose a study, every choice with its reason."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clinipress.data.finding import propose_normal, propose_positive, words_of
from clinipress.data.layouts.items import Dataset, left_out_lines, patient_columns
from clinipress.data.sources import decode_item, item_facts, read_dataset
from clinipress.data.units import CLUSTER, best_unit
from clinipress.errors import ClinipressError, DataError, InputError
from clinipress.kinds.image.refuse import is_colourful
from clinipress.records.candidate import InputSpec
from clinipress.records.item import plural_of
from clinipress.records.store import write_atomically
from clinipress.text import joined

__all__ = ["finding_words", "propose", "write_study"]

LOOKED_AT = 64
SIZES = (28, 32, 48, 64, 96, 128, 160, 192, 224)
LOOK = InputSpec(channels=3, height=64, width=64)
# Modality, whether its pictures have colour, and words of which one decides. The first that fits.
_MODALITIES = (
    ("brain-mri", False, "glioma meningioma pituitary glioblastoma brain demented alzheimer"),
    ("chest-xray", False, "xray xrays cxr pneumonia tuberculosis cardiomegaly radiograph"),
    ("chest-ct", False, "covid ct ctscan hrct lung lungs"),
    ("dermoscopy", True, "melanoma nevus naevus nevi akiec bkl skin dermoscopy dermatoscopy ham"),
    ("histology", True, "aca scc histo histology histopathology pathology pcam mitosis stroma"),
    ("retina", True, "retina retinal retinopathy fundus dr glaucoma drusen"),
)


def propose(dataset: Dataset) -> dict[str, Any]:
    """What some of the images, and the names of the classes, suggest.

    Returns:
        Counts, channels, size, modality, the finding and how to split, each as plain data.

    Raises:
        DataError: None of the images looked at can be read.
    """
    step = max(1, len(dataset.items) // LOOKED_AT)
    sides, colours = [], []
    for item in dataset.items[::step]:
        try:
            about, picture = item_facts(item), decode_item(item, LOOK)
        except ClinipressError as problem:
            trouble = problem  # the audit counts what cannot be read
            continue
        sides.append(min(about.width, about.height))
        colours.append(is_colourful(picture))
    if not sides:
        raise DataError("readable images", f"none of {len(dataset.items[::step])}", str(trouble))
    typical = sorted(sides)[len(sides) // 2]
    colour = float(np.mean(colours)) > 0.5
    unit, unnamed = best_unit(dataset.items)
    return {
        "layout": dataset.layout,
        "images": len(dataset.items),
        "classes": dict(Counter(item.label for item in dataset.items)),
        "channels": 3 if colour else 1,
        "in_colour": round(float(np.mean(colours)), 3),
        "size": max((s for s in SIZES if s <= typical), default=SIZES[0]),
        "typical_side": typical,
        "modality": _modality([*dataset.classes, dataset.root.resolve().name], colour),
        # numbers in an array name nothing: of 0 and 1, either is the finding in published sets
        "positive": None if dataset.layout == "npz" else propose_positive(dataset.classes),
        "normal": propose_normal(dataset.classes),
        "patients": unit == "patient" and not unnamed,
        "unit": unit,
        "without_unit": unnamed,
        "notes": [*dataset.notes, *_patient_hint(dataset), *left_out_lines(dataset.left_out)],
        "left_out": [entry.model_dump() for entry in dataset.left_out],
        "published_splits": sorted({item.split for item in dataset.items if item.split}),
    }


def _patient_hint(dataset: Dataset) -> list[str]:
    likely = patient_columns(dataset.left_out)[:4]
    named = any(item.patient for item in dataset.items)
    hint = f"if column {joined(likely, 'or')} names the patient, call it patient_id"
    return [hint] if likely and not named else []


def _modality(names: Sequence[str], colour: bool) -> str:
    words = [word for name in names for word in words_of(name)]
    # "x-ray" is two words
    known = {*words, *map("".join, itertools.pairwise(words))}
    return next(
        (name for name, has, own in _MODALITIES if has == colour and known & {*own.split()}),
        "generic",
    )


def write_study(
    data: Path, out: Path, *, force: bool = False, class_map: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Write a commented study.yaml for a data folder.

    `class_map` names classes that folders or labels do not: it is read by, and written too.

    Returns:
        What was seen and proposed.

    Raises:
        InputError: `out` exists and `force` is not given.
        DataError: The folder is not a data set.
    """
    if out.exists() and not force:
        raise InputError("a new file", f"'{out}', which exists", "choose another --out, or --force")
    seen = propose(read_dataset(data, class_map=class_map))
    write_atomically(out, _text(data, seen, class_map or {}))
    return seen


def _one_line(text: str) -> str:
    """For a comment, which a line end in a class's name would end."""
    return " ".join(text.split())


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def finding_words(seen: dict[str, Any]) -> str:
    """What a person must check or fill in about the finding; "" where there is nothing."""
    classes = [str(name) for name in seen["classes"]]
    if len(classes) == 2:
        if seen["positive"] is None:
            return f"which class is the finding, {' or '.join(classes)}? Fill in 'positive'"
        other = next(name for name in classes if name != seen["positive"])
        taken = f"'{seen['positive']}' is taken as the finding"
        return f"{taken} because '{other}' reads as none"
    if seen["normal"] is None:
        return ""
    return f"'{seen['normal']}' is taken as the class without a finding"


def _class_map_line(class_map: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{_quoted(theirs)}: {_quoted(ours)}" for theirs, ours in class_map.items())
    return f"\n  class_map: {{{pairs}}}" if pairs else ""


def _finding_line(seen: dict[str, Any]) -> str:
    words = _one_line(finding_words(seen))
    if len(seen["classes"]) == 2:
        if seen["positive"] is None:
            two = " or ".join(_quoted(name) for name in seen["classes"])
            return f"positive:   # which class is the finding? {two}: sensitivity is its"
        return f"positive: {_quoted(seen['positive'])}   # {words}"
    if seen["normal"] is None:
        return "# normal: NAME   # the class without a finding, if there is one"
    return f"normal: {_quoted(seen['normal'])}   # {words}"


def _channels_words(seen: dict[str, Any]) -> str:
    share = seen["in_colour"]
    if share in (0, 1):
        return f"1 grey, 3 colour; the images are {'in colour' if share else 'grey'}"
    return (
        f"1 grey, 3 colour; {100 * share:.0f} % of the images are in colour: the others are refused"
    )


def _unit_words(seen: dict[str, Any]) -> str:
    kind, unnamed, images = seen["unit"], seen["without_unit"], seen["images"]
    if kind == CLUSTER:
        return "no patient is named: near-duplicate images are kept on one side"
    whole = f"no {kind} stands on two sides"
    if unnamed:
        whole = (
            f"{images - unnamed} of {images} images name their {kind}, and none of those stands on "
            f"two sides; the {unnamed} without may belong to a {kind} of another side"
        )
    else:
        whole = f"{plural_of(kind)} are named, so {whole}"
    return whole if kind == "patient" else f"{whole}; patients are not named"


def _text(data: Path, seen: dict[str, Any], class_map: Mapping[str, str]) -> str:
    unit = _unit_words(seen)
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
    counts = _one_line(", ".join(f"{k} {v}" for k, v in seen["classes"].items()))
    return f"""# A clinipress study, proposed for {seen["images"]} images ({counts}).
# Run it:  clinipress run THIS_FILE     Most keys have a default; unknown keys are refused.
name: {name}
# critical, high, medium or low: accuracy may fall by 0.5, 1, 2 or 5 points. Decide before you look.
risk: medium
seed: 0
intended_use: ""   # one sentence for the card and the report
data:
  path: {json.dumps(str(data))}{_class_map_line(class_map)}
  # chooses the augmentation: generic, brain-mri, chest-ct, chest-xray, dermoscopy, histology,
  # retina
  modality: {seen["modality"]}
  {_finding_line(seen)}
  input:
    channels: {seen["channels"]}   # {_channels_words(seen)}
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
