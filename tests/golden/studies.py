"""The golden studies: SYNTHETIC, small, and between them everything a study can do."""

from __future__ import annotations

from typing import Any

NET = "golden_nets:make"
SUPERNET = "clinipress.models.ofa:ofa_supernet"
TRAIN = {
    "epochs": 30,
    "batch_size": 32,
    "warmup_epochs": 1,
    "learning_rate": 5e-3,
    "ema_decay": 0.9,
    "numerics": "float32-contiguous",  # "auto" measures
}
# What is measured before it is decided is decided here: calibration, equalization, bias
# correction, and the 7-bit weights that only some processors need.
PLANNED = {"calibration_images": 48, "calibration_method": "minmax"}
ONNX = PLANNED | {"equalize": False, "bias_correction": False, "reduce_range": True}
CART = {"name": "cart", "like": "raspberry-pi-5", "formats": ["executorch"], "ram_bytes": "1 GB"}


def _common(side: int) -> dict[str, Any]:
    return {
        "synthetic": True,
        "risk": "low",
        "threads": 1,
        "bootstrap": 200,
        "try_next": False,
        "data": {"modality": "chest-ct", "input": {"channels": 1, "height": side, "width": side}},
    }


def devices() -> dict[str, Any]:
    """Every step of plain networks, every format and precision, every section, five devices."""
    short = TRAIN | {"epochs": 10, "learning_rate": 1e-3}
    common = _common(32)
    common["data"] |= {"split": {"by": "published"}}
    return common | {
        "name": "golden-devices",
        "intended_use": "SYNTHETIC: a fixture of the tests.",
        "target": ["cpu-x86", "smartphone", "cortex-m7", "jetson-nano", CART],
        "reference": {"model": {"factory": NET, "arguments": {"width": 16}}, "train": TRAIN},
        "steps": [
            {  # fails: what is said of a failed candidate is compared too
                "step": "distill",
                "name": "too-small",
                "student": {"factory": NET, "arguments": {"width": 2}},
                "views": 2,
                "train": TRAIN | {"epochs": 3},
            },
            {
                "step": "distill",
                "name": "distilled",
                "student": {"factory": NET, "arguments": {"width": 10}},
                "control": True,
                "views": 2,
                "train": TRAIN,
            },
            {
                "step": "prune",
                "ratio": 0.3,
                "round_to": 1,
                "views": 2,
                "sensitivity": True,
                "sensitivity_images": 48,
                "train": short,
            },
            {
                "step": "qat",
                "calibration_images": 48,
                "calibration_method": "minmax",
                "views": 2,
                "train": short | {"epochs": 5},
            },
        ],
        "exports": [
            {"format": "onnx", "precision": "float16"},
            {"format": "onnx", "precision": "int8"} | ONNX,
            {"format": "onnx", "precision": "int8-dynamic"},
            {"format": "onnx", "precision": "int4-weights"},
            {"format": "onnx", "precision": "mixed"} | ONNX,
            {"format": "openvino", "precision": "float16"},
            {"format": "openvino", "precision": "int8", "equalize": False} | PLANNED,
            {"format": "litert", "precision": "float32"},
            {"format": "litert", "precision": "int8"} | PLANNED,
            {"format": "executorch", "precision": "float32"},
            {"format": "executorch", "precision": "int8"} | PLANNED,
            {"format": "tflite-micro", "precision": "int8"} | PLANNED,
            {"format": "tensorrt", "precision": "float16"},
        ],
        "evidence": {
            "stress": 24,
            "saliency": 3,
            "smallest_group": 10,
            "prevalence": {"nodule": 0.05},
        },
    }


def supernet() -> dict[str, Any]:
    """The steps of supernets, and a further seed; nothing is shipped, the test split stays shut."""
    train = TRAIN | {"epochs": 8}
    phases = [{"name": "all", "kernels": [3, 5, 7], "depths": [2, 4], "expansions": [3, 6]}]
    return _common(64) | {
        "name": "golden-supernet",
        "reference": {"model": {"factory": SUPERNET, "arguments": {"width": 0.1}}, "train": train},
        "steps": [
            {
                "step": "shrink",
                "phases": phases,
                "views": 1,
                "train": train,
                "calibration_images": 96,
            },
            {
                "step": "search",
                "macs": 1_000_000,
                "population": 4,
                "generations": 1,
                "images": 24,
                "calibration_images": 96,
            },
        ],
        # in float32 alone: an 8-bit file of so deep a network differs between processors
        "exports": [{"precision": "float32"}],
        "evidence": {"stress": 0, "saliency": 0},
        "open_test": False,
    }


def seeds() -> dict[str, Any]:
    """Again with another seed; the 8-bit file is slow, so that the policy's ladder is climbed."""
    train = TRAIN | {"epochs": 15}
    return _common(32) | {
        "name": "golden-seeds",
        "risk": "medium",
        "seeds": [1],
        "try_next": True,
        "reference": {"model": {"factory": NET, "arguments": {"width": 12}}, "train": train},
        "steps": [],
        "exports": [{"precision": "int8"} | ONNX],
        "evidence": {"stress": 0, "saliency": 0},
    }


TREES = {"devices": devices, "supernet": supernet, "seeds": seeds}
