"""How much each layer bears: accuracy when one layer alone loses a share of its channels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from clinipress.models.classifier import TorchCandidate
from clinipress.models.pruning.coupling import hidden_from
from clinipress.models.pruning.importance import Batch
from clinipress.models.pruning.pruned import hidings
from clinipress.recipe.steps import PruneStep
from clinipress.records.store import read_json, write_atomically
from clinipress.stats.metrics import overall_score
from clinipress.steps.step import Context

__all__ = ["SHARES", "layer_sensitivity"]

SHARES = tuple(round(0.1 * n, 1) for n in range(1, 10))
TASK = "layer sensitivity"


def layer_sensitivity(
    origin: TorchCandidate, recipe: PruneStep, seed: int, batches: Sequence[Batch], context: Context
) -> dict[str, Any]:
    """Accuracy on validation images with one layer's least important channels hidden.

    Hiding a channel from all its readers answers as removing it does (see
    `clinipress.models.pruning.coupling`), batch norms keeping their statistics; nothing is
    fine-tuned, so
    the curves say which layers are delicate, not what a pruned network reaches. (Li et al., ICLR
    2017, arXiv:1608.08710, figure 2b, with whole groups of coupled layers for single layers.)

    Returns:
        images, seed, baseline (accuracy with nothing hidden), and layers: rows of name, shares
        and accuracies, in the order of the network.
    """
    path = context.work / "sensitivity.json"
    if path.is_file():
        curves: dict[str, Any] = read_json(path)
        return curves
    spec = origin.card.input
    rows = context.data.rows("validation", spec)
    count = min(recipe.sensitivity_images, len(rows.index))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows.index))[:count])
    images, labels = context.data.cache(spec).take(rows.index[chosen]), rows.labels[chosen]

    def accuracy() -> float:
        return overall_score(origin.predict(images), labels)

    layers: dict[str, dict[str, Any]] = {}
    plans = hidings(
        origin.module,
        SHARES,
        criterion=recipe.criterion,
        protect=recipe.protect,
        seed=seed,
        batches=batches,
    )
    for name, share, hidden in plans:
        with hidden_from(origin.module.backbone, hidden):
            row = layers.setdefault(name, {"name": name, "shares": [], "accuracies": []})
            if row["shares"][-1:] == [share]:
                continue  # a layer of few channels has fewer steps than nine
            row["shares"].append(share)
            row["accuracies"].append(accuracy())
    curves = {
        "images": count,
        "seed": seed,
        "baseline": accuracy(),
        "layers": list(layers.values()),
    }
    write_atomically(path, json.dumps(curves))
    return curves
