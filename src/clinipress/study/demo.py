"""The embedded default: the whole flow on drawn images, nothing shortened but epochs and pixels."""

from __future__ import annotations

from pathlib import Path

from clinipress.extras import require
from clinipress.progress import SILENT, Progress
from clinipress.recipe.study import Study
from clinipress.records.result import Result
from clinipress.study.read import parse_study

__all__ = ["demo_study", "run_demo"]

PATIENTS = 800
PIXELS = 64


def demo_study() -> Study:
    """The demo's recipe: the same keys as any study file."""
    return parse_study(
        {
            "name": "demo",
            "synthetic": True,
            "risk": "low",
            "intended_use": "Demonstration on SYNTHETIC images. Not for any clinical use.",
            "data": {
                "modality": "chest-ct",
                "normal": "normal",
                "input": {"channels": 1, "height": PIXELS, "width": PIXELS},
                "split": {"fractions": [0.5, 0.15, 0.35]},
            },
            "reference": {
                "model": "resnet10t",
                "train": {"epochs": 12, "warmup_epochs": 1, "ema_decay": 0.98},
            },
            "steps": [
                {
                    "step": "distill",
                    # half as wide: depthwise students need more images than a demo can draw
                    "student": {"name": "resnet10t", "arguments": {"channels": [32, 64, 128, 256]}},
                    "views": 4,
                    "train": {"epochs": 14, "warmup_epochs": 1, "ema_decay": 0.98},
                },
                {
                    "step": "prune",
                    "ratio": 0.3,
                    "views": 4,
                    "train": {
                        "epochs": 4,
                        "learning_rate": 5e-4,
                        "warmup_epochs": 0.5,
                        "ema_decay": 0.98,
                    },
                },
            ],
            "exports": [{"precision": "float16"}, {"precision": "int8"}],
        },
        where="the demo",
    )


def run_demo(out: Path, *, progress: Progress = SILENT) -> Result:
    """Draw the SYNTHETIC set and run the demo study on it.

    Args:
        out: The run folder; the images go to ``out/phantoms``.
        progress: The listener.

    Returns:
        The study's result.
    """
    require("torch", extra="compress", what="running the demo")
    from clinipress.data.drawn.phantom import draw_phantoms
    from clinipress.study.flow import run_study

    study = demo_study()
    manifest = out / "phantoms" / "manifest.csv"
    if not manifest.is_file():
        progress.say(f"drawing {PATIENTS} SYNTHETIC patients")
        manifest = draw_phantoms(out / "phantoms", patients=PATIENTS, seed=study.seed)
    return run_study(study, manifest, out, progress=progress)
