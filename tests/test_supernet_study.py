"""A supernet from training to the file of its best sub-net, as one study."""

import pytest

from clinipress.study.flow import run_study
from kit.studies import TRAIN, study

LIMIT = 2_000_000  # multiply-adds
PHASES = [{"name": "all", "kernels": [3, 5, 7], "depths": [2, 4], "expansions": [3, 6]}]
NARROW = {"factory": "clinipress.models.ofa:ofa_supernet", "arguments": {"width": 0.25}}


@pytest.mark.slow
def test_a_searched_sub_net_keeps_its_limit_and_is_an_ordinary_candidate(phantoms, tmp_path):
    train = TRAIN | {"epochs": 4}
    steps = [
        {"step": "shrink", "phases": PHASES, "views": 1, "train": train, "calibration_images": 80},
        {
            "step": "search",
            "macs": LIMIT,
            "population": 4,
            "generations": 1,
            "images": 12,
            "calibration_images": 80,
        },
    ]
    # at 32 pixels its last maps are single pixels, and batch norms of so few images are noise
    side = {"channels": 1, "height": 64, "width": 64}
    asked = study(
        data={"modality": "chest-ct", "input": side},
        reference={"model": NARROW, "train": train},
        steps=steps,
        exports=[{"precision": "int8", "calibration_images": 16}],
        evidence={"stress": 0, "saliency": 0},
        open_test=False,
    )
    result = run_study(asked, phantoms, tmp_path / "run")
    rows = {row.name: row for row in result.candidates}
    assert list(rows) == ["reference", "shrunk", "searched", "searched-onnx-int8"]
    assert rows["searched"].macs <= LIMIT < rows["shrunk"].macs
    assert rows["searched"].file_bytes < rows["shrunk"].file_bytes
    kinds = [applied.step for applied in rows["searched-onnx-int8"].history]
    assert kinds == ["train", "shrink", "search", "export"]
    flips = rows["searched-onnx-int8"].parity.label_flips
    assert flips <= rows["searched-onnx-int8"].parity.images / 4
