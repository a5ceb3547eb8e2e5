"""Networks by name or by the user's function, and their weights from files."""

from __future__ import annotations

import os
import pickle
import sys
import textwrap

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from clinipress.errors import ModelError
from clinipress.models.classifier import new_classifier
from clinipress.models.pretrained import load_checkpoint, load_pretrained
from clinipress.models.weights import read_weights
from clinipress.models.zoo import create_backbone, list_models
from clinipress.recipe.steps import ModelRecipe
from clinipress.records.candidate import InputSpec

GREY = InputSpec(channels=1, height=32, width=32)
COLOUR = InputSpec(channels=3, height=32, width=32)


def make(recipe, spec=GREY, classes=3):
    torch.manual_seed(0)
    return new_classifier(recipe, spec, classes, 0.4, 0.2)


def resnet(classes=3, channels=3, name="resnet18"):
    torch.manual_seed(1)
    return timm.create_model(name, num_classes=classes, in_chans=channels)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A folder with the user's own file, made the current one."""

    def write(source):
        name = f"nets_{abs(hash(source))}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.chdir(tmp_path)
        return name

    return write


def refuse(match, call):
    with pytest.raises(ModelError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224", "regnety_002.pycls_in1k"]
)
def test_timm_models_by_name(name):
    spec, module = make(ModelRecipe(name=name))
    assert (spec.name, spec.in_channels, spec.num_classes) == (name, 1, 3)
    assert (spec.mean, spec.std, spec.pruning) == (0.4, 0.2, ())
    assert module.eval()(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).shape == (2, 3)


def test_users_own_image_size_wins():
    recipe = ModelRecipe(
        name="vit_tiny_patch16_224", arguments={"img_size": 64, "dynamic_img_size": True}
    )
    spec, module = make(recipe)
    assert module.backbone.patch_embed.img_size == (64, 64)
    assert spec.arguments == recipe.arguments


def test_unknown_name_names_the_nearest():
    assert "resnet34" in refuse("a model name", lambda: make(ModelRecipe(name="resnet_34")))
    assert "densenet101" in refuse("a model name", lambda: make(ModelRecipe(name="densenet102")))
    refuse("clinipress models", lambda: make(ModelRecipe(name="zzzzqqqq")))
    refuse("a model name", lambda: make(ModelRecipe(name="hf-hub:someone/something")))


def test_wrong_arguments_are_one_line():
    recipe = ModelRecipe(name="resnet18", arguments={"no_such_argument": 1})
    refuse("no_such_argument", lambda: make(recipe))


def test_images_too_small_for_the_network_are_one_line():
    spec = InputSpec(channels=1, height=8, width=8)
    refuse("8 x 8 pixels", lambda: make(ModelRecipe(name="inception_v3"), spec))


def test_listing():
    assert "resnet18" in list_models("resnet18")
    assert list_models("resnet1?")
    assert all(n.startswith("resnet1") for n in list_models("resnet1?"))
    assert len(list_models("*")) == len(list_models("")) > 500


def test_factory_in_the_current_folder(user_module):
    name = user_module(
        """
        from torch import nn
        def make(num_classes, in_chans, width=4):
            body = nn.Conv2d(in_chans, width, 3)
            head = nn.Linear(width, num_classes)
            return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
        """
    )
    recipe = ModelRecipe(factory=f"{name}:make", arguments={"width": 6})
    spec, module = make(recipe)
    assert spec.factory == f"{name}:make"
    assert module.backbone[0].weight.shape == (6, 1, 3, 3)

    assert os.getcwd() not in sys.path  # noqa: PTH109


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (
            "def make(num_classes, in_chans):\n    raise RuntimeError('no\\nluck')",
            "RuntimeError: no",
        ),
        ("def make(num_classes, in_chans):\n    return 3", "a torch.nn.Module"),
        ("def make(in_chans):\n    return 3", "TypeError"),
        ("make = 3", "a function 'make'"),
        ("def made():\n    pass", "a function 'make'"),
        ("import no_such_package", "No module named 'no_such_package'"),
        ("def (", "SyntaxError"),
        (
            "from torch import nn\ndef make(num_classes, in_chans):\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * 1024, num_classes + 1))",
            "3 outputs per image",
        ),
    ],
)
def test_errors_of_a_factory_are_one_line(user_module, source, match):
    name = user_module(source)
    refuse(match, lambda: make(ModelRecipe(factory=f"{name}:make")))


@pytest.mark.parametrize("factory", ["nothing", ":f", "m:", "no_such_module_at_all:f"])
def test_factories_that_are_none(factory):
    refuse("module", lambda: make(ModelRecipe(factory=factory)))


def test_factory_has_no_weights_on_the_hub():
    refuse("a timm model", lambda: make(ModelRecipe(factory="a:b", pretrained=True)))


def test_hub_out_of_reach_is_one_line(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    text = refuse("from the hub", lambda: make(ModelRecipe(name="resnet18", pretrained=True)))
    assert "local file" in text


def test_backbone_file_with_another_head(tmp_path):
    source = resnet(classes=1000)
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    target = resnet(classes=3)
    nn.init.zeros_(target.layer1[0].conv1.weight)
    head = target.fc.weight.clone()
    assert load_pretrained(target, tmp_path / "a.safetensors") == ("fc.weight", "fc.bias")
    assert torch.equal(target.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    assert torch.equal(target.bn1.running_var, source.bn1.running_var)
    assert torch.equal(target.fc.weight, head)


def test_backbone_file_without_a_head_and_with_the_same_head(tmp_path):
    source = resnet()
    body = {k: v for k, v in source.state_dict().items() if not k.startswith("fc.")}
    save_file(body, tmp_path / "body.safetensors")
    save_file(source.state_dict(), tmp_path / "all.safetensors")
    assert load_pretrained(resnet(), tmp_path / "body.safetensors") == ("fc.weight", "fc.bias")
    target = resnet()
    nn.init.zeros_(target.fc.weight)
    assert load_pretrained(target, tmp_path / "all.safetensors") == ()
    assert torch.equal(target.fc.weight, source.fc.weight)


def test_pretrained_in_a_recipe_takes_three_channels_and_repeats_grey(tmp_path):
    save_file(resnet(1000).state_dict(), tmp_path / "a.safetensors")
    spec, module = make(ModelRecipe(name="resnet18", pretrained=str(tmp_path / "a.safetensors")))
    assert (spec.in_channels, module.repeats) == (3, 3)
    assert torch.equal(module.backbone.conv1.weight, resnet(1000).conv1.weight)


def test_colour_weights_for_a_grey_network_answer_as_for_repeated_grey(tmp_path):
    source = resnet().eval()
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    target = resnet(channels=1)
    load_pretrained(target, tmp_path / "a.safetensors")
    grey = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            target.eval()(grey), source(grey.expand(-1, 3, -1, -1)), atol=1e-5, rtol=0
        )


def test_grey_weights_for_a_colour_network_answer_as_for_the_mean(tmp_path):
    source = resnet(channels=1).eval()
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    target = resnet(channels=3)
    load_pretrained(target, tmp_path / "a.safetensors")
    colour = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            target.eval()(colour), source(colour.mean(1, keepdim=True)), atol=1e-5, rtol=0
        )


def test_transformers_positions_are_resized_for_another_input(tmp_path):
    source = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5)
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    target = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3)
    assert load_pretrained(target, tmp_path / "a.safetensors") == ("head.weight", "head.bias")
    assert torch.equal(target.blocks[0].mlp.fc1.weight, source.blocks[0].mlp.fc1.weight)


def test_file_of_another_network_is_refused(tmp_path):
    save_file(resnet().state_dict(), tmp_path / "a.safetensors")
    other = timm.create_model("mobilenetv3_small_100", num_classes=3)
    refuse("the same network", lambda: load_pretrained(other, tmp_path / "a.safetensors"))
    refuse("the same network", lambda: load_checkpoint(other, tmp_path / "a.safetensors"))
    wider = resnet(name="resnet34")
    refuse("without .* of", lambda: load_pretrained(wider, tmp_path / "a.safetensors"))


def test_old_file_without_batch_counters(tmp_path):
    state = {k: v for k, v in resnet().state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "a.pt")
    load_checkpoint(resnet(), tmp_path / "a.pt")
    assert load_pretrained(resnet(), tmp_path / "a.pt") == ()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "args": {"lr": 0.1}},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: {f"backbone.{k}": v for k, v in s.items()},
    ],
)
def test_checkpoints_as_training_scripts_write_them(tmp_path, wrap):
    source = resnet()
    torch.save(wrap(source.state_dict()), tmp_path / "a.pth")
    _, module = make(ModelRecipe(name="resnet18", checkpoint=str(tmp_path / "a.pth")), COLOUR)
    for name, tensor in module.backbone.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_checkpoint_in_safetensors_whatever_it_is_called(tmp_path):
    save_file(resnet().state_dict(), tmp_path / "a.pt")
    assert set(read_weights(tmp_path / "a.pt").tensors) == set(resnet().state_dict())


def test_checkpoint_of_other_classes_names_both_numbers(tmp_path):
    torch.save(resnet(classes=7).state_dict(), tmp_path / "a.pt")
    recipe = ModelRecipe(name="resnet18", checkpoint=str(tmp_path / "a.pt"))
    text = refuse("3 classes", lambda: make(recipe, COLOUR))
    assert "7 classes" in text


def test_checkpoint_of_other_channels_names_the_cure(tmp_path):
    torch.save(resnet().state_dict(), tmp_path / "a.pt")
    recipe = ModelRecipe(name="resnet18", checkpoint=str(tmp_path / "a.pt"))
    assert "in_channels" in refuse("conv1.weight", lambda: make(recipe, GREY))
    make(recipe.model_copy(update={"in_channels": 3}), GREY)


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path, zipped):
    victim, path = tmp_path / "victim", tmp_path / "a.pt"
    torch.save({"state_dict": Malice(victim)}, path, _use_new_zipfile_serialization=zipped)
    refuse("not run", lambda: load_checkpoint(resnet(), path))
    refuse("not run", lambda: load_pretrained(resnet(), path))
    path.write_bytes(pickle.dumps(Malice(victim)))
    refuse("'.*a.pt'", lambda: load_checkpoint(resnet(), path))
    assert not victim.exists()
    pickle.loads(path.read_bytes())  # the file does bite when it is unpickled
    assert victim.exists()


def test_whole_network_in_a_pickle_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    refuse("whole objects", lambda: read_weights(tmp_path / "a.pt"))


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
@pytest.mark.parametrize("left", [0, 5, 1000, -100])
def test_truncated_files_are_refused(tmp_path, kind, left):
    path = tmp_path / f"a.{kind}"
    save_file(resnet().state_dict(), path) if kind == "safetensors" else torch.save(
        resnet().state_dict(), path
    )
    path.write_bytes(path.read_bytes()[:left])
    refuse("damaged", lambda: load_checkpoint(resnet(), path))


def test_files_that_hold_no_weights(tmp_path):
    (tmp_path / "a.pt").write_text("hello")
    torch.save({"epoch": 3}, tmp_path / "b.pt")
    refuse("damaged", lambda: read_weights(tmp_path / "a.pt"))
    refuse("without tensors", lambda: read_weights(tmp_path / "b.pt"))
    refuse("nothing at", lambda: read_weights(tmp_path / "c.pt"))
    refuse("nothing at", lambda: read_weights(tmp_path))


def test_nothing_to_build():
    refuse("neither", lambda: create_backbone(num_classes=2, in_channels=1, size=(32, 32)))
