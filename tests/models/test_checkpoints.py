"""Every layout that training scripts leave gives the logits of plain PyTorch, or one line.

What Lightning, fastai and MONAI wrote is in `checkpoints`, beside the script that had them write
it; what torch, timm and safetensors write is written here.
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict, defaultdict
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from timm.models import save_for_hf
from timm.utils import CheckpointSaver, ModelEmaV2
from torch import nn

from checkpoint_nets import CLASSES, SIDE, images, normed, tied, wrapped
from clinipress.errors import ModelError
from clinipress.models.classifier import TorchCandidate, new_classifier
from clinipress.models.pretrained import head_names, load_checkpoint, load_pretrained
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import Card, InputSpec
from tiny_nets import make

HERE = Path(__file__).parent / "checkpoints"
GREY = InputSpec(channels=1, height=SIDE, width=SIDE)
TOLERANCE = 1e-5  # of a logit, of the same float32 weights in the same network


def network(seed=0):
    torch.manual_seed(seed)
    net = make(CLASSES, 1, width=4)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
    return net.eval()


def answers(net):
    with torch.inference_mode():
        return net((images() / 255 - 0.5) / 0.25)


def loaded(path, key=None, factory="tiny_nets:make", pretrained=False, **arguments):
    """Logits of the images by a network that the product built and filled from a file."""
    kind = "pretrained" if pretrained else "checkpoint"
    arguments = arguments or {"width": 4}
    recipe = ModelRecipe(
        factory=factory, arguments=arguments, checkpoint_key=key, in_channels=1,
        **{kind: str(path)},
    )  # fmt: skip
    torch.manual_seed(9)
    _, module = new_classifier(recipe, GREY, CLASSES, 0.5, 0.25)
    with torch.inference_mode():
        return module.eval()(images())


def refused(match, call, *arguments, **options):
    with pytest.raises(ModelError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def before(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def with_optimizer(state):
    net = network()
    net.load_state_dict(state)
    optimizer = torch.optim.AdamW(net.parameters())
    net.train()(torch.zeros(2, 1, SIDE, SIDE)).sum().backward()
    optimizer.step()
    return {"epoch": 3, "state_dict": state, "optimizer": optimizer.state_dict(), "best": 0.9}


LAYOUTS = {
    "plain": lambda s: s,
    **{key: lambda s, key=key: {key: s, "epoch": 3} for key in (
        "state_dict", "model", "model_state_dict", "model_state", "weights", "network", "net",
    )},
    "optimizer": with_optimizer,
    "another order": lambda s: dict(sorted(s.items(), reverse=True)),
    "model.": lambda s: {"state_dict": before("model.", s)},
    "loss and metrics": lambda s: {"state_dict": before("net.", s) | {
        "criterion.weight": torch.ones(3), "loss_fn.pos_weight": torch.ones(1),
        "val_acc.tp": torch.ones(3), "train_metrics.auroc.total": torch.ones(1)}},
    "DataParallel": lambda s: before("module.", s),
    "compiled": lambda s: before("_orig_mod.", s),
    "both": lambda s: {"model": before("module._orig_mod.", s)},
    "compiled inside": lambda s: {n.replace("block.", "block._orig_mod."): t for n, t in s.items()},
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(7)} | before("module.", s),
    "average equal to it": lambda s: {"model": s, "ema": before("module.", s)},
    "float64": lambda s: {n: t.double() if t.is_floating_point() else t for n, t in s.items()},
    "in a list": lambda s: {"models": [s]},
    "body and head apart": lambda s: {"state": [s], "other": {"x.weight": torch.ones(2, 2)}},
    "profiled": lambda s: s | {"total_ops": torch.zeros(1), "block.0.total_params": torch.zeros(1)},
    "numbers of numpy": lambda s: {"state_dict": s, "best": torch.tensor(0.5).numpy()[()]},
    "options": lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1, out=Path("a"))},
    "defaultdict": lambda s: {"state_dict": defaultdict(list, s), "log": defaultdict(list, a=[1])},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_f12_layouts_give_the_logits_of_plain_pytorch(tmp_path, layout):
    net = network()
    torch.save(LAYOUTS[layout](OrderedDict(net.state_dict())), tmp_path / "a.pt")
    for pretrained in (False, True):
        logits = loaded(tmp_path / "a.pt", pretrained=pretrained)
        torch.testing.assert_close(logits, answers(net), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_f12_half_precision_loses_its_own_rounding_alone(tmp_path, kind):
    net = network()
    torch.save({"model": net.to(kind).state_dict()}, tmp_path / "a.pt")
    expected = answers(net.float())
    torch.testing.assert_close(loaded(tmp_path / "a.pt"), expected, atol=TOLERANCE, rtol=0)


REAL = {
    "lightning.ckpt": None, "lightning_compiled.ckpt": None, "lightning_average.ckpt": "state_dict",
    "fastai.pth": None, "fastai_weights.pth": None, "monai.pt": None, "bundle": None,
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_f12_files_of_lightning_fastai_and_monai(name):
    if REAL[name]:
        text = refused("2 that differ", loaded, HERE / name)
        assert "'state_dict.model', 'current_model_state.model'" in text
    logits = loaded(HERE / name, key=REAL[name])
    if name != "lightning_average.ckpt":  # trained on
        expected = torch.tensor(json.loads((HERE / "logits.json").read_text()))
    else:
        file = torch.load(HERE / name, weights_only=False)
        net, prefix = network(), "model."
        state = {n: t for n, t in file["state_dict"].items() if n.startswith(prefix)}
        net.load_state_dict({n.removeprefix(prefix): t for n, t in state.items()})
        expected = answers(net)
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


def test_f12_a_learner_of_fastai_is_refused_with_the_way_out():
    text = refused("which is not run", loaded, HERE / "fastai_export.pkl")
    assert "m = load_learner('fastai_export.pkl').model; s.save_model(m, " in text


def test_f12_files_of_timm_with_its_average_and_options(tmp_path):
    net, average = network(), ModelEmaV2(network(1))
    saver = CheckpointSaver(
        net, torch.optim.SGD(net.parameters(), 0.1), argparse.Namespace(model="tiny"),
        average, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path),
    )  # fmt: skip
    saver.save_checkpoint(1, 0.5)
    path = tmp_path / "last.pth.tar"
    text = refused("one set of weights", loaded, path)
    assert "'state_dict', 'state_dict_ema'" in text
    assert "model.checkpoint_key" in text
    for key, expected in (("state_dict", net), ("state_dict_ema", average.module)):
        torch.testing.assert_close(loaded(path, key=key), answers(expected), atol=TOLERANCE, rtol=0)
    refused("none below 'ema'", loaded, path, key="ema")


@pytest.mark.parametrize(
    "mix",
    [
        lambda a, b: {"model": a, "ema": before("module.", b) | {"n_averaged": torch.tensor(1)}},
        lambda a, b: {"state_dict": before("model.", a) | before("ema_model.module.", b)},
        lambda a, b: {"state_dict": before("student.", a) | before("teacher.", b)},
        lambda a, b: a | before("module.", b),
        lambda a, b: {"networks": [a, b]},
    ],
)
def test_f12_two_sets_of_weights_are_never_confused(tmp_path, mix):
    first, second = network(), network(1)
    torch.save(mix(dict(first.state_dict()), dict(second.state_dict())), tmp_path / "a.pt")
    text = refused("2 that differ", loaded, tmp_path / "a.pt")
    refused("2 that differ", loaded, tmp_path / "a.pt", pretrained=True)
    keys = text.partition("differ: ")[2].partition(":")[0].replace("'", "").split(", ")
    for key, net in zip(keys, (first, second), strict=True):
        if key:
            torch.testing.assert_close(
                loaded(tmp_path / "a.pt", key=key), answers(net), atol=TOLERANCE, rtol=0
            )


@pytest.mark.parametrize("name", ["backbone", "module", "model"])
def test_f12_a_network_kept_in_an_attribute_of_any_name(tmp_path, name):
    net = wrapped(CLASSES, 1, name).eval()
    factory = "checkpoint_nets:wrapped"
    inner = getattr(net, name).state_dict()
    for layout in (
        net.state_dict(),
        before("module.", net.state_dict()),
        {"state_dict": before("model.", net.state_dict())},
        inner,
        {"model": inner},
    ):
        torch.save(layout, tmp_path / "a.pt")
        for pretrained in (False, True):
            logits = loaded(tmp_path / "a.pt", factory=factory, name=name, pretrained=pretrained)
            torch.testing.assert_close(logits, answers(net), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["backbone", "module"])
def test_f12_our_own_candidate_of_such_a_network(tmp_path, name):
    recipe = ModelRecipe(factory="checkpoint_nets:wrapped", arguments={"name": name})
    spec, module = new_classifier(recipe, GREY, CLASSES, 0.5, 0.25)
    card = Card(name="mine", classes=("a", "b", "c"), input=GREY, model=spec)
    TorchCandidate(card, module).save(tmp_path)
    logits = loaded(tmp_path / "weights.safetensors", factory=recipe.factory, name=name)
    torch.testing.assert_close(logits, answers(module.eval().backbone), atol=TOLERANCE, rtol=0)


def test_f12_tied_weights_that_a_file_holds_once(tmp_path):
    net = tied(CLASSES, 1).eval()
    safetensors.torch.save_model(net, tmp_path / "a.safetensors")
    state = dict(net.state_dict())
    torch.save(state, tmp_path / "b.pt")
    torch.save({n: t for n, t in state.items() if n != "third.weight"}, tmp_path / "c.pt")
    for name in ("a.safetensors", "b.pt", "c.pt"):
        logits = loaded(tmp_path / name, factory="checkpoint_nets:tied")
        torch.testing.assert_close(logits, answers(net), atol=TOLERANCE, rtol=0)
    state["third.weight"] = state["third.weight"] + 1
    torch.save(state, tmp_path / "d.pt")
    refused("tied", loaded, tmp_path / "d.pt", factory="checkpoint_nets:tied")


@pytest.mark.parametrize("kind", ["old", "new"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_f12_weight_norm_by_hooks_and_by_parametrization(tmp_path, kind):
    net = normed(CLASSES, 1, kind).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("original0", "weight_g")):
                parameter.mul_(3)
    torch.save(net.state_dict(), tmp_path / "a.pt")
    logits = loaded(tmp_path / "a.pt", factory="checkpoint_nets:normed", kind="new")
    torch.testing.assert_close(logits, answers(net), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["block.0.weight", "stem.1.running_var"])
def test_f12_weights_that_are_no_numbers_are_refused(tmp_path, name, value):
    state = network().state_dict()
    state[name].view(-1)[0] = value
    torch.save(state, tmp_path / "a.pt")
    for pretrained in (False, True):
        refused(f"'{name}'", loaded, tmp_path / "a.pt", pretrained=pretrained)


def test_f12_a_part_that_the_network_lacks_is_refused_unless_it_is_asked_for(tmp_path):
    net = network()
    extra = {"neck.weight": torch.ones(3, 3), "neck.bias": torch.ones(3)}
    torch.save({"state_dict": before("model.", net.state_dict()) | extra}, tmp_path / "a.pt")
    text = refused("with 'state_dict.neck.weight' too", loaded, tmp_path / "a.pt")
    assert "model.checkpoint_key: 'state_dict.model'" in text
    logits = loaded(tmp_path / "a.pt", key="state_dict.model")
    torch.testing.assert_close(logits, answers(net), atol=TOLERANCE, rtol=0)
    torch.save(net.state_dict() | {"down.3.weight": torch.ones(3, 3)}, tmp_path / "b.pt")
    refused("check model.name", loaded, tmp_path / "b.pt")


def test_f12_a_missing_tensor_is_never_let_pass(tmp_path):
    state = network().state_dict()
    del state["down.1.bias"]
    torch.save({"net": before("module.", state)}, tmp_path / "a.pt")
    for pretrained in (False, True):
        refused("without 1 of .* such as 'down.1.bias'", loaded, tmp_path / "a.pt",
                pretrained=pretrained)  # fmt: skip


def test_f12_a_deeper_network_is_not_taken_for_its_beginning(tmp_path):
    deep = timm.create_model("resnet34", num_classes=3, in_chans=1)
    safetensors.torch.save_file(deep.state_dict(), tmp_path / "a.safetensors")
    shallow = timm.create_model("resnet18", num_classes=3, in_chans=1)
    for load in (load_pretrained, load_checkpoint):
        refused("with 'layer.* too", load, shallow, tmp_path / "a.safetensors")


def test_f12_another_head_is_refused_with_the_way_out(tmp_path):
    torch.save({"state_dict": make(1000, 1, 4).state_dict()}, tmp_path / "a.pt")
    assert "model.pretrained" in refused("1000 classes", loaded, tmp_path / "a.pt")
    loaded(tmp_path / "a.pt", pretrained=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_f12_whole_objects_and_programs_are_refused_with_the_way_out(tmp_path, monkeypatch):
    net = network()
    monkeypatch.chdir(tmp_path)
    torch.save(net, "whole.pt")
    torch.save({"model": net, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, "under.pt")
    with torch.no_grad():
        torch.jit.trace(net, torch.zeros(1, 1, SIDE, SIDE)).save("program.pt")
    for name in ("whole.pt", "under.pt", "program.pt"):
        text = refused("which is not run", loaded, Path(name))
        script = text[text.index("import torch") :]
        exec(script, {})  # the way out that the message prints
        logits = loaded(Path(name).with_suffix(".safetensors"))
        torch.testing.assert_close(logits, answers(net), atol=TOLERANCE, rtol=0)


def test_f12_a_model_folder_of_the_hub(tmp_path):
    net = timm.create_model("test_resnet", num_classes=CLASSES, in_chans=1).eval()
    save_for_hf(net, tmp_path, model_config={"num_classes": CLASSES})
    recipe = ModelRecipe(name="test_resnet", checkpoint=str(tmp_path), in_channels=1)
    spec = InputSpec(channels=1, height=64, width=64)
    _, module = new_classifier(recipe, spec, CLASSES, 0.5, 0.25)
    for name, tensor in net.state_dict().items():
        assert torch.equal(module.backbone.state_dict()[name], tensor), name
    (tmp_path / "empty").mkdir()
    refused("a folder without weights", loaded, tmp_path / "empty")


class HeadFirst(nn.Module):
    """The head registered first, an auxiliary one last, and one of each kind between them."""

    def __init__(self, kind):
        super().__init__()
        self.fc = nn.Conv2d(4, CLASSES, 1) if kind == "convolution" else nn.Linear(4, CLASSES)
        self.conv1 = nn.Conv2d(1, 4, 3, 2)
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.scale = nn.Parameter(torch.ones(CLASSES))
        self.aux = nn.Linear(4, CLASSES)
        self.kind = kind

    def forward(self, x):
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        if self.kind == "convolution":
            return self.fc(x).relu().mean((2, 3)) * self.scale
        x = x.mean((2, 3))
        if self.kind == "functional":
            return nn.functional.linear(x, self.fc.weight, self.fc.bias) * self.scale
        if self.kind == "two":
            return (self.fc(x) + self.aux(x)) / 2
        return self.fc(x)


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("linear", {"fc.weight", "fc.bias"}),
        ("convolution", {"fc.weight", "fc.bias", "scale"}),
        ("functional", {"fc.weight", "fc.bias", "scale"}),
        ("two", {"fc.weight", "fc.bias", "aux.weight", "aux.bias"}),
    ],
)
def test_f17_the_head_is_what_makes_the_logits(kind, heads):
    net = HeadFirst(kind).requires_grad_(False)
    modes = [part.training for part in net.modules()]
    assert set(head_names(net, (1, SIDE, SIDE))) == heads
    assert [part.training for part in net.modules()] == modes
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_f17_the_head_of_a_normed_layer_and_of_a_network_that_refuses_the_image():
    net = normed(CLASSES, 1)
    assert set(head_names(net, (1, SIDE, SIDE))) == {
        "head.bias", "head.parametrizations.weight.original0",
        "head.parametrizations.weight.original1",
    }  # fmt: skip
    assert head_names(make(CLASSES, 1, 4), (7, SIDE, SIDE)) == ["head.weight", "head.bias"]
    assert head_names(make(CLASSES, 1, 4)) == ["head.weight", "head.bias"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "test_vit"])
def test_f17_traced_as_timm_says(name):
    net = timm.create_model(name, num_classes=CLASSES, in_chans=1)
    told = head_names(net)
    net.get_classifier = None
    side = 160 if "vit" in name else 32
    assert head_names(net, (1, side, side)) == told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: torch.empty_like(t, device="meta"), "a tensor that is without numbers"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "a tensor that is quantized"),
        (lambda t: t.to(torch.complex64), "a tensor that is complex"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_floats_are_one_line(tmp_path, change, message):
    state = network().state_dict()
    last = list(state)[-2]
    torch.save(state | {last: change(state[last])}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=message):
        loaded(tmp_path / "w.pt")


def test_sparse_weights_and_masks_of_pruning_are_read(tmp_path):
    net = network()
    name = next(n for n, part in net.named_modules() if isinstance(part, nn.Linear))
    mask = (torch.rand_like(net.get_submodule(name).weight) > 0.5).float()
    net.get_submodule(name).weight.data *= mask
    expected, state = answers(net), net.state_dict()
    sparse = state | {f"{name}.weight": state[f"{name}.weight"].to_sparse()}
    torch.save({"state_dict": sparse}, tmp_path / "sparse.pt")
    weight = state.pop(f"{name}.weight")
    pruned = state | {f"{name}.weight_orig": weight + (1 - mask), f"{name}.weight_mask": mask}
    torch.save(pruned, tmp_path / "pruned.pt")
    for file in ("sparse.pt", "pruned.pt"):
        torch.testing.assert_close(loaded(tmp_path / file), expected, atol=TOLERANCE, rtol=0)


def test_a_part_of_other_names_is_named(tmp_path):
    state = network().state_dict()
    head = list(state)[-1].rpartition(".")[0]
    torch.save({n.replace(head, "my_head"): t for n, t in state.items()}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"in their place it may have 'my_head\.weight'"):
        loaded(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\xff\xd8\xff\xe0JFIF", "a JPEG picture"),
        (b"\x89HDF\r\n", "an HDF5 file, as Keras writes"),
        (b"", "an empty file"),
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_what_lies_there_in_place_of_weights_is_named(tmp_path, name, content, message):
    """It was called a pickle with code in it, and a script that unpickles it was advised."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        loaded(tmp_path / name)


def test_arrays_in_place_of_tensors_have_a_way_out(tmp_path):
    torch.save({n: t.numpy() for n, t in network().state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"NumPy arrays.*torch\.as_tensor"):
        loaded(tmp_path / "w.pt")
