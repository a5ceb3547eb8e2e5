"""One training in a process of its own, to be killed: WORK OUT [stages]."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from clinipress.train.fit import Images, fit
from kit.training import MemoryStore, options, small_net


class Slow(MemoryStore):
    """Gives the killer time."""

    def take(self, indices):
        time.sleep(0.02)
        return super().take(indices)


STAGES = (
    {"train": "head", "epochs": 3},
    {"epochs": 3, "layer_decay": 0.7},
    {"epochs": 2, "decay": "exponential"},
)


def main(work, out, kind="plain"):
    torch.set_num_threads(1)
    module = small_net()
    data = Images(Slow(side=16), np.arange(18), np.arange(18, 24))
    chosen = options(
        epochs=8, sizes=((8, 0.5), (16, 0.5)), learning_rate=0.02,
        **({"stages": STAGES, "mixup": 0.3} if kind == "stages" else {}),
    )  # fmt: skip
    fit(
        module, data, chosen, modality="brain-mri", seed=3, work=Path(work),
        numerics="float32-channels-last",
    )  # fmt: skip
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    Path(out).write_text(digest.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
