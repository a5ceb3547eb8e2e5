"""A study of several findings through every step and format: each file answers as its network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from clinipress.data.study import Rows
from clinipress.stats.metrics import finding_aurocs, same_answers
from clinipress.study.flow import run_study
from clinipress.study.scores import area_words
from kit.drawn_findings import FINDINGS, draw_findings
from kit.studies import BARE, TRAIN, study

LONGER = TRAIN | {"epochs": 8, "learning_rate": 1e-2}
STEPS = [
    {"step": "distill", "student": {"factory": "tiny_nets:make"}, "views": 2, "train": LONGER},
    {"step": "prune", "ratio": 0.3, "round_to": 1, "views": 2, "criterion": "taylor",
     "train": TRAIN},
    {"step": "qat", "views": 2, "train": TRAIN | {"epochs": 2}},
]  # fmt: skip


def run(tmp_path: Path, formats: tuple[str, ...]) -> None:
    exports = [{"format": name, "precision": "int8", "calibration_images": 32} for name in formats]
    asked = study(
        data={"task": "multilabel", "input": {"channels": 1, "height": 32, "width": 32}},
        reference={"model": {"factory": "tiny_nets:make", "arguments": {"width": 24}},
                   "train": LONGER},
        steps=STEPS, exports=exports, evidence=BARE,
    )  # fmt: skip
    result = run_study(asked, draw_findings(tmp_path / "set", patients=40), tmp_path / "run")
    assert (result.task, result.classes) == ("multilabel", FINDINGS)
    rows = {row.name: row for row in result.candidates}
    assert {"distilled", "pruned", "quantization-aware"} <= rows.keys()

    def kept(name: str, what: str) -> NDArray[Any]:
        # the test images are looked at only where something may be released
        return np.asarray(np.load(tmp_path / "run" / "scores" / f"{name}-validation.npz")[what])

    exact, labels = (kept("quantization-aware", what) for what in ("logits", "labels"))
    areas = finding_aurocs(exact, labels)
    assert np.nanmean(areas) > 0.6
    for name in formats:
        row = rows[f"quantization-aware-{name}-int8"]
        logits = kept(row.name, "logits")
        assert same_answers(exact, logits, several=True) > 0.9
        np.testing.assert_allclose(finding_aurocs(logits, labels), areas, atol=0.1)
        assert row.parity.label_flips <= 0.1 * row.parity.images * len(FINDINGS)


def test_distilled_pruned_and_quantized_for_onnx(tmp_path):
    run(tmp_path, ("onnx",))


@pytest.mark.nightly
def test_every_runtime_answers_about_each_finding_as_the_network(tmp_path):
    run(tmp_path, ("onnx", "litert", "openvino", "executorch"))


def test_the_line_of_a_candidate_names_the_mean_that_decides():
    random = np.random.default_rng(0)
    logits = random.normal(size=(40, 3))
    labels = (random.random((40, 3)) < (0.5, 0.4, 0.02)).astype(np.int64)
    labels[0, 2] = 1
    rows = Rows(np.arange(40), labels, np.arange(40), tuple(map(str, range(40))), {})
    mean = np.mean([roc_auc_score(labels[:, c], logits[:, c]) for c in (0, 1)])
    of = "findings that 5 patients or more show, and as many do not"
    words = f"mean AUROC {mean:.3f} over the 2 {of}"
    assert area_words(logits, rows) == words
    assert area_words(logits, replace(rows, units=np.zeros(40, np.int64))).endswith("over all")
