"""A study that runs in seconds, for the tests of the flow."""

from typing import Any

from clinipress.recipe.study import Study
from clinipress.study.read import parse_study

TRAIN = {
    "epochs": 3,
    "batch_size": 16,
    "warmup_epochs": 0.5,
    "ema_decay": 0.9,
    # "auto" measures, and a measurement may differ between two runs
    "numerics": "float32-contiguous",
}
# of what is shipped, for tests of something else
BARE = {"stress": 0, "saliency": 0}


def tree(**changes: Any) -> dict[str, Any]:
    net = {"factory": "tiny_nets:make"}
    return {
        "name": "small",
        "synthetic": True,
        "risk": "low",
        "threads": 1,
        "bootstrap": 200,
        "try_next": False,  # what is tried depends on times
        "data": {"modality": "chest-ct", "input": {"channels": 1, "height": 32, "width": 32}},
        "reference": {"model": net | {"arguments": {"width": 24}}, "train": TRAIN},
        "steps": [
            {"step": "distill", "student": net, "views": 2, "train": TRAIN},
            {
                "step": "prune",
                "ratio": 0.3,
                "round_to": 1,
                "views": 2,
                "train": TRAIN | {"epochs": 2},
            },
        ],
        "exports": [{"precision": "float16"}, {"precision": "int8", "calibration_images": 32}],
    } | changes


def study(**changes: Any) -> Study:
    return parse_study(tree(**changes))
