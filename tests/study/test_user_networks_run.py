"""F1, F7, F14: users' networks through whole studies."""

import pytest
import yaml

from clinipress.cli.commands import main
from clinipress.models.classifier import TorchCandidate
from clinipress.study.flow import run_study
from kit.studies import TRAIN, study, tree

QUICK = TRAIN | {"epochs": 1}


def net(name):
    return {"factory": f"user_nets:{name}"}


def test_f1_f7_f14_from_a_view_to_tied_weights_and_a_softmax(phantoms, tmp_path):
    """The reference takes views, the student has tied weights and is pruned."""
    result = run_study(
        study(
            reference={"model": net("View32"), "train": QUICK | {"numerics": "auto"}},
            steps=[
                {"step": "distill", "student": net("TiedSoftmax"), "views": 1, "train": QUICK},
                {"step": "prune", "ratio": 0.21, "round_to": 1, "views": 1, "train": QUICK},
            ],
            exports=[{"precision": "int8", "calibration_images": 16}],
            evidence={"stress": 0, "saliency": 0},
        ),
        phantoms,
        tmp_path / "run",
    )
    reference, student, pruned, file = result.candidates
    cards = [
        TorchCandidate.load(tmp_path / "run" / piece.network, allow_code=True).card
        for piece in (reference, student)
    ]
    assert cards[0].model.layout == "contiguous"
    assert cards[0].history[0].params["numerics"] == "float32-contiguous"
    assert cards[1].model.output.taken_off
    assert pruned.parameters < student.parameters
    assert file.parity.label_flips <= 0.1 * file.parity.images


@pytest.mark.nightly
def test_f1_a_trained_network_that_takes_views_by_the_command_line(phantoms, tmp_path, monkeypatch):
    import torch

    import user_nets

    torch.save(user_nets.View32(3, 1).state_dict(), tmp_path / "view.pt")
    model = net("View32") | {"checkpoint": str(tmp_path / "view.pt")}
    changes = {
        "reference": {"model": model, "train": None},
        "steps": [{"step": "qat", "train": QUICK}],
        "exports": [{"precision": "int8", "calibration_images": 16}],
        "evidence": {"stress": 0, "saliency": 0},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree(**changes)))
    words = ["run", tmp_path / "study.yaml", "--data", phantoms, "--out", tmp_path / "run"]
    monkeypatch.setattr("sys.argv", ["clinipress", *map(str, words), "--allow-code"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, 1)
    assert (tmp_path / "run" / "result.json").is_file()
