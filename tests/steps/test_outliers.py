"""Images of another kind have no say in an int8 file's ranges."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.int8 import apply_int8, plan_int8, prepare
from clinipress.formats.onnx.outliers import MOST, excitation, outliers
from clinipress.formats.onnx.run import OnnxCandidate
from kit.onnx_nets import conv_net, pixels, saved
from kit.random_nets import candidate_of, pictures


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return saved(conv_net(), tmp_path_factory.mktemp("outliers") / "float.onnx")


def usual(count, seed=0):
    """Dim images: grey levels up to 20."""
    return (pixels(count, seed) // 13).astype(np.uint8)


def test_excitation_is_that_of_the_networks_own_layers(source):
    images = usual(24)
    model = prepare(source)
    found = excitation(model, images)
    # the slow way: every layer's result, one image at a time
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    names = [n.output[0] for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    for name in names:
        opened.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    import onnxruntime

    running = onnxruntime.InferenceSession(opened.SerializeToString())
    key = running.get_inputs()[0].name
    largest = np.array(
        [[np.abs(a).max() for a in running.run(names, {key: image[None]})] for image in images]
    )
    expected = np.median(largest / np.median(largest, axis=0), axis=1)
    assert found == pytest.approx(expected, rel=1e-4)
    assert np.median(found) == pytest.approx(1, abs=0.2)


def test_an_image_of_another_kind_is_left_out_and_ranges_are_those_without_it(source, tmp_path):
    images = usual(40)
    images[[7, 31]] = 255 - images[[7, 31]]
    assert outliers(prepare(source), images).tolist() == [7, 31]
    with_it, without = (
        plan_int8(source, given, method="minmax")
        for given in (images, np.delete(images, [7, 31], axis=0))
    )
    assert with_it.left_out == (7, 31)
    assert without.left_out == ()
    assert with_it.ranges == without.ranges
    exact = OnnxCandidate.load(source, threads=1).predict(usual(16, 5))
    file = apply_int8(source, tmp_path / "a.onnx", with_it)
    assert np.abs(file.predict(usual(16, 5)) - exact).max() < 0.1 * np.abs(exact).max() + 0.05


def test_many_of_another_kind_are_a_part_of_the_data(source):
    images = usual(40)
    many = int(MOST * 40) + 1
    images[:many] = 255 - images[:many]
    assert outliers(prepare(source), images).tolist() == []


def test_of_a_few_images_none_is_unusual(source):
    images = usual(8)
    images[0] = 255 - images[0]
    assert outliers(prepare(source), images).tolist() == []


def test_a_network_that_answers_nothing_excites_nobody():
    from onnx import TensorProto, helper, numpy_helper

    from clinipress.formats.onnx.run import INPUT_NAME

    weight = numpy_helper.from_array(np.zeros((4, 3), np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [INPUT_NAME], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["x"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "w"], ["y"]),
        ],
        "zeros",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["n", 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    images = torch.zeros((20, 1, 2, 2), dtype=torch.uint8).numpy()
    assert excitation(model, images).tolist() == [1.0] * 20


def test_attention_that_mixes_images_and_pieces_has_no_say(tmp_path):
    """mobilevit lays the patches of all images along one axis: no figure per image there."""
    candidate = candidate_of("mobilevit_xxs", 64)
    source = export_onnx(candidate, tmp_path / "float.onnx").path
    images = pictures(21, candidate.card.input)
    assert excitation(prepare(source), images).shape == (21,)
