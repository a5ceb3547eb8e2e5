"""Files that keep TensorRT's rules, and rules that notice when one is broken."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from clinipress.errors import ModelError
from clinipress.formats.make import apply_export, file_facts, plan_export
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.parity import parity
from clinipress.formats.tensorrt.make import OPSET, RULES, broken_rules
from clinipress.recipe.study import ExportRecipe
from kit.random_nets import candidate_of, pictures

# every kind of network in a small form by day; those of practice at night
NETS = [
    pytest.param(("mobilenetv3_small_050", {}), id="mobilenetv3"),
    pytest.param(("resnet10t", {}), id="resnet10t"),
    pytest.param(("densenet121", {"growth_rate": 8, "block_config": (2, 2, 2, 2)}), id="densenet"),
    pytest.param(("vit_tiny_patch16_224", {"depth": 2}), id="vit"),
    pytest.param(("densenet121", {}), id="densenet121", marks=pytest.mark.nightly),
    pytest.param(("vit_tiny_patch16_224", {}), id="vit_tiny", marks=pytest.mark.nightly),
]
TOLERANCE = {"float32": 1e-3, "float16": 1e-2}


@pytest.fixture(scope="module", params=NETS)
def parent(request, tmp_path_factory):
    name, arguments = request.param
    candidate = candidate_of(name, 32, **arguments)
    path = tmp_path_factory.mktemp("tensorrt") / "model.onnx"
    return candidate, export_onnx(candidate, path).path


def made(parent, precision, folder):
    candidate, source = parent
    recipe = ExportRecipe(format="tensorrt", precision=precision, calibration_method="percentile")
    spec = candidate.card.input
    images = pictures(8, spec)
    plan = plan_export(recipe, candidate, source, images, threads=1, seed=0)
    target = folder / precision / "model.onnx"
    target.parent.mkdir(parents=True)
    apply_export(recipe, candidate, source, target, plan, candidate.card)
    return recipe, target, plan


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_files_keep_every_rule_and_answer_like_their_parent(parent, precision, tmp_path):
    recipe, target, plan = made(parent, precision, tmp_path)
    model = onnx.load(target)
    assert broken_rules(model) == ()
    assert model.opset_import[0].version == OPSET
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    card = OnnxCandidate.load(parent[1]).card.model_copy(update={"format": "tensorrt"})
    opened = OnnxCandidate.load(target, card, 1)  # the file's arithmetic, GPU or not
    spec = card.input
    images = pictures(16, spec, 1)
    found = parity(parent[0], opened, images)
    if precision in TOLERANCE:
        assert found.max_logit_difference <= TOLERANCE[precision]
        assert found.label_flips == 0
    else:
        exact = parent[0].predict(images)
        assert found.mean_logit_difference < 0.3 * exact.std()
    facts = file_facts(recipe, target, plan)
    if precision == "int8":
        low, every = facts["layers"]["convolutions"]
        assert low == every > 0
        assert facts["operators"]["Conv float32"] == 0
    assert "warning" not in facts


def test_the_same_plan_gives_the_same_bytes(parent, tmp_path):
    recipe, target, plan = made(parent, "int8", tmp_path)
    again = tmp_path / "again" / "model.onnx"
    again.parent.mkdir()
    apply_export(recipe, parent[0], parent[1], again, plan, parent[0].card)
    assert again.read_bytes() == target.read_bytes()


def test_the_build_script_travels_and_needs_nothing_but_tensorrt(parent, tmp_path):
    _, target, _ = made(parent, "float16", tmp_path)
    text = (target.parent / "build_engine.py").read_text()
    tree = ast.parse(text)
    names = {
        (node.names[0].name if isinstance(node, ast.Import) else node.module).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert names <= {"__future__", "argparse", "sys", "pathlib", "typing", "tensorrt"}


# ------------------------------------------------------------------ each rule can fail


def good() -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 1, 8, 8])
    one = numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    kernel = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "kernel")
    bias = numpy_helper.from_array(np.ones(1, np.float32), "bias")
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Conv", ["d", "kernel", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "g", [image], [logits], [one, zero, kernel, bias])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def later_opset(model):
    model.opset_import[0].version = 17


def foreign_domain(model):
    model.graph.node[2].domain = "com.microsoft"


def unlisted_operator(model):
    model.graph.node[2].op_type = "NonMaxSuppression"


def unsigned_input(model):
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8


def shifted_grid(model):
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array(3, np.int8), "zero"))


def computed_grid(model):
    del model.graph.initializer[0]


def quantized_bias(model):
    model.graph.node[2].input[2] = "d"


def open_size(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"


BREAKS = (
    later_opset, foreign_domain, unlisted_operator, unsigned_input, shifted_grid, computed_grid,
    quantized_bias, open_size,
)  # fmt: skip


def test_a_good_file_breaks_no_rule():
    assert broken_rules(good()) == ()


@pytest.mark.parametrize("damage", BREAKS)
def test_each_rule_notices_what_breaks_it(damage):
    model = good()
    damage(model)
    found = broken_rules(model)
    assert len(found) == 1
    assert any(rule in found[0] for rule in RULES)


def test_every_rule_is_broken_by_some_damage():
    rules = set()
    for damage in BREAKS:
        model = good()
        damage(model)
        rules |= {rule for rule in RULES for said in broken_rules(model) if rule in said}
    assert rules == set(RULES)


def test_a_network_that_breaks_a_rule_is_not_written(parent, tmp_path, monkeypatch):
    from clinipress.formats.tensorrt import make as to_tensorrt

    monkeypatch.setattr(to_tensorrt, "OPERATORS", frozenset({"Conv"}))
    with pytest.raises(ModelError, match="a network that TensorRT takes"):
        made(parent, "float32", tmp_path)
    assert not [p for p in Path(tmp_path).rglob("*") if p.is_file()]
