"""ONNX files that others made: what they say, what they leave open, and what is refused.

Rows F2 to F9 are public reports of other tools, in our own words.
"""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from clinipress.edge.load import load_candidate
from clinipress.errors import ModelError
from clinipress.formats.onnx.adopt import FileNetwork, TemporaryFile, adopt, randomized_file
from clinipress.formats.onnx.foreign import examine, own_files
from clinipress.formats.onnx.make import apply_onnx, plan_onnx
from clinipress.formats.onnx.settle import as_read, open_questions, settle
from clinipress.formats.parity import check_candidate
from clinipress.kinds.image.read import decode
from clinipress.recipe.steps import OnnxRecipe
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Card, InputSpec, ModelSpec
from clinipress.stats.metrics import softmax
from kit.foreign_nets import CLASSES, SIDE, expected, foreign_net, pictures

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CAFFE = {"mean": np.array((103.939, 116.779, 123.68)) / 255, "std": 1 / 255, "bgr": True}
DECLARED = {"scale": "0..1", "channels": "RGB", "fit": "stretch"}


def settled(path, classes=CLASSES, cases=None, grey=False, **declared):
    """The file's candidate with what was left open settled, the recipe and the trials."""
    recipe = OnnxRecipe(file=str(path), **declared)
    foreign = examine(path, recipe)
    images, labels = cases or pictures(240)
    channels = 1 if grey else foreign.channels
    spec = InputSpec(channels=channels, height=foreign.height, width=foreign.width)
    closed, trials = settle(
        foreign, as_read(foreign, recipe), classes, spec, lambda _: (images, labels)
    )
    model = adopt(foreign, closed, classes, spec)
    card = Card(name="net", classes=tuple(classes), input=spec, format="onnx")
    return TemporaryFile.made(model, card, 1), closed, trials


def gap(candidate, reference=None):
    """Largest difference of a probability from the network's own, on pictures."""
    images, _ = pictures(12, seed=3)
    right = expected(images) if reference is None else reference(images)
    return np.abs(softmax(candidate.predict(images)) - softmax(right)).max()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "NHWC"},
        {"layout": "NHWC", "ending": "Softmax", "opset": 9},
        {"opset": 7},
        {"std": 1 / 255},
        {"mean": 0.5, "std": 0.5},
        IMAGENET,
        IMAGENET | {"layout": "NHWC"},
        CAFFE,
        {"kind": TensorProto.UINT8},
        {"kind": TensorProto.UINT8, "layout": "NHWC"},
        {"maps": True},
        {"batch": 1},
        {"batch": 4},
        {"shape": False},
        {"size": ("h", "w")},
    ],
    ids=str,
)
def test_what_a_file_takes_is_read_or_settled(tmp_path, options):
    path = foreign_net(tmp_path / "net.onnx", **options)
    size = {"size": SIDE} if not options.get("shape", True) or "size" in options else {}
    candidate, closed, _ = settled(path, **size)
    assert gap(candidate) < 1e-4
    assert closed.fit == "stretch"
    assert closed.classes == CLASSES
    check_candidate(candidate)


def test_a_file_of_float16_computes_in_float32(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", kind=TensorProto.FLOAT16)
    assert examine(path, OnnxRecipe(file=str(path))).widened == "float16"
    candidate, _, _ = settled(path)
    assert gap(candidate) < 5e-3  # its weights are rounded as it was stored
    stored = {tensor.data_type for tensor in onnx.load(candidate.path).graph.initializer}
    assert TensorProto.FLOAT16 not in stored


def test_colours_are_turned_where_it_costs_nothing(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", bgr=True)
    candidate, _, _ = settled(path, scale="0..1")
    assert gap(candidate) < 1e-4
    assert "Gather" not in {node.op_type for node in onnx.load(candidate.path).graph.node}


def test_scaling_before_channels_are_moved_stays_readable(tmp_path):
    """Keras writes Rescaling before the Transpose: both go, and bytes are read at once."""
    path = foreign_net(tmp_path / "net.onnx", kind=TensorProto.UINT8, layout="NHWC")
    candidate, _, _ = settled(path)
    operators = [node.op_type for node in onnx.load(candidate.path).graph.node]
    assert "Transpose" not in operators
    assert operators[0] == "DequantizeLinear"


def test_grey_images_for_a_colour_network_are_repeated(tmp_path):
    path = foreign_net(tmp_path / "net.onnx")
    foreign, recipe = examine(path, OnnxRecipe(file=str(path))), OnnxRecipe(file="x", **DECLARED)
    spec = InputSpec(channels=1, height=SIDE, width=SIDE)
    model = adopt(foreign, recipe, CLASSES, spec)
    card = Card(name="net", classes=CLASSES, input=spec, format="onnx")
    candidate = TemporaryFile.made(model, card, 1)
    grey = pictures(6)[0][:, :1]
    difference = candidate.predict(grey) - expected(np.repeat(grey, 3, axis=1))
    assert np.abs(difference).max() < 1e-3
    assert "Concat" not in {node.op_type for node in onnx.load(candidate.path).graph.node}


# ------------------------------------------------------------------ F2, F9: classes


def test_f2_names_in_the_metadata_win(tmp_path):
    names = str({0: "normal", 1: "fibroma", 2: "glioma"})
    path = foreign_net(tmp_path / "net.onnx", order=(2, 0, 1), names=names)
    candidate, closed, trials = settled(path)
    assert closed.classes == ("normal", "fibroma", "glioma")
    assert candidate.card.classes == CLASSES
    assert gap(candidate) < 1e-4
    assert not [row for row in trials if row["asked"] in ("classes", "order?")]


@pytest.mark.parametrize(
    "names",
    ['["normal", "fibroma", "glioma"]', "normal, fibroma,glioma", "normal\nfibroma\nglioma"],
)
def test_f2_names_are_read_however_they_are_written(tmp_path, names):
    path = foreign_net(tmp_path / "net.onnx", metadata={"labels": names})
    assert examine(path, OnnxRecipe(file=str(path))).names == ("normal", "fibroma", "glioma")


def test_f2_a_contradiction_is_a_line(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", names=str(dict(enumerate(CLASSES))))
    other = OnnxRecipe(file=str(path), classes=("normal", "glioma", "fibroma"))
    with pytest.raises(ModelError, match=r"names itself: fibroma, glioma, normal, got normal"):
        as_read(examine(path, other), other)


def test_f2_without_names_another_order_is_asked_for(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", order=(2, 0, 1))
    with pytest.raises(ModelError, match=r"as normal, fibroma, glioma: order\? declare 'classes'"):
        settled(path)
    recipe = OnnxRecipe(file=str(path), classes=("normal", "fibroma", "glioma"), **DECLARED)
    foreign, spec = examine(path, recipe), InputSpec(channels=3, height=SIDE, width=SIDE)
    card = Card(name="net", classes=CLASSES, input=spec, format="onnx")
    assert gap(TemporaryFile.made(adopt(foreign, recipe, CLASSES, spec), card, 1)) < 1e-4


def test_f2_a_declared_order_stands_and_is_questioned(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", order=(2, 0, 1))
    recipe = OnnxRecipe(file=str(path), classes=CLASSES, **DECLARED)
    foreign, spec = examine(path, recipe), InputSpec(channels=3, height=SIDE, width=SIDE)
    closed, trials = settle(foreign, recipe, CLASSES, spec, lambda _: pictures(240))
    assert closed.classes == CLASSES
    question = next(row for row in trials if row["asked"] == "order?")
    assert question["option"] == "normal, fibroma, glioma"
    assert question["accuracy"] > 0.9


@pytest.mark.parametrize("data_by_number", [True, False])
@pytest.mark.parametrize("by_number", [True, False])
def test_f9_numbered_folders_are_settled_on_training_cases(tmp_path, by_number, data_by_number):
    numbers = [str(number) for number in range(1, 13)]
    text = sorted(numbers)
    assert text != numbers
    data = numbers if data_by_number else text
    random = np.random.default_rng(0)
    centres = random.uniform(0.1, 0.9, (12, 3))
    order = numbers if by_number else text  # what each output stands for
    weight = np.stack([centres[int(name) - 1] for name in order])
    labels = np.arange(240) % 12
    colours = np.stack([centres[int(data[label]) - 1] for label in labels])
    tints = random.normal(0, 0.02, (240, 3))
    images = (255 * np.clip(colours + tints, 0, 1))[:, :, None, None].repeat(16, 2).repeat(16, 3)
    path = foreign_net(tmp_path / "net.onnx", centres=weight)
    _, closed, trials = settled(
        path, classes=tuple(data), cases=(images.astype(np.uint8), labels), **DECLARED
    )
    assert closed.classes == tuple(order)
    tried = {row["option"]: row["accuracy"] for row in trials if row["asked"] == "classes"}
    assert set(tried) == {"as the data's are sorted", "as text" if data_by_number else "by number"}
    assert min(tried.values()) < 0.5


# ------------------------------------------------------------------ F3: pixels


def test_f3_scale_and_channels_are_tried_and_shown(tmp_path):
    _, closed, trials = settled(foreign_net(tmp_path / "net.onnx", **IMAGENET))
    assert (closed.scale, closed.channels) == ("imagenet", "RGB")
    first = [row for row in trials if row["asked"] == "scale and channels"][:9]
    assert len(first) == 9
    assert sum(row["chosen"] for row in first) == 1
    assert {row["cases"] for row in first} == {48}


def test_f3_what_cases_do_not_settle_is_asked_for(tmp_path):
    """So near to each other that 240 cases cannot tell: neither is taken in silence."""
    path = foreign_net(tmp_path / "net.onnx", bgr=True)
    with pytest.raises(ModelError, match=r"do not settle, got .*0\.\.1 BGR .*: declare 'scale'"):
        settled(path)


def test_f3_geometry_is_settled_by_what_stands_near_the_edge(tmp_path):
    """Pictures of 16 x 32 whose sign stands at the left edge: cropped, it is gone."""
    images, labels = pictures(240, side=(16, 32))
    images[:, :, :, 6:] = 90
    files = []
    # the network was trained on stretched pictures: its centres are theirs
    seen = np.stack([images[labels == k].mean(axis=(0, 2, 3)) / 255 for k in range(3)])
    path = foreign_net(tmp_path / "net.onnx", centres=seen)
    for number, image in enumerate(images):
        file = tmp_path / f"{number}.png"
        Image.fromarray(image.transpose(1, 2, 0)).save(file)
        files.append(file)

    def cases(spec):
        return np.stack([decode(file, spec) for file in files]), labels

    recipe = OnnxRecipe(file=str(path), scale="0..1", channels="RGB")
    foreign, spec = examine(path, recipe), InputSpec(channels=3, height=SIDE, width=SIDE)
    closed, trials = settle(foreign, recipe, CLASSES, spec, cases)
    assert closed.fit == "stretch"
    tried = {row["option"]: row["accuracy"] for row in trials if row["asked"] == "fit"}
    assert tried["stretch"] > 0.9
    assert tried["crop"] < 0.5


def test_crop_takes_the_middle(tmp_path):
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 30:70] = 200  # the square in the middle
    Image.fromarray(picture).save(tmp_path / "wide.png")
    Image.fromarray(picture.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    spec = InputSpec(channels=1, height=20, width=20, fit="crop")
    for name in ("wide.png", "tall.png"):
        assert (decode(tmp_path / name, spec)[0, 1:-1, 1:-1] == 200).all()


@pytest.mark.parametrize(
    ("facts", "known"),
    [
        ({"Image.NominalPixelRange": "NominalRange_0_255"}, ("0..255", None)),
        ({"Image.NominalPixelRange": "Normalized_1_1"}, ("-1..1", None)),
        ({"Image.BitmapPixelFormat": "Bgr8"}, (None, "BGR")),
    ],
)
def test_f3_onnx_metadata_of_images_is_read(tmp_path, facts, known):
    path = foreign_net(tmp_path / "net.onnx", metadata=facts)
    foreign = examine(path, OnnxRecipe(file=str(path)))
    assert (foreign.scale, foreign.order) == known


# ------------------------------------------------------------------ F4: endings


@pytest.mark.parametrize("ending", ["", "Softmax", "LogSoftmax", "composed"])
def test_f4_equal_probabilities_wherever_the_softmax_is(tmp_path, ending):
    path = foreign_net(tmp_path / "net.onnx", ending=ending)
    candidate, _, _ = settled(path, **DECLARED)
    assert gap(candidate) < 1e-4
    operators = {node.op_type for node in onnx.load(candidate.path).graph.node}
    assert not operators & {"Softmax", "LogSoftmax"}


def test_f4_one_sigmoid_becomes_two_logits(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", ending="one", kept=(0, 1))
    images, labels = pictures(240)
    two = labels < 2
    candidate, _, _ = settled(
        path, classes=("fibroma", "glioma"), cases=(images[two], labels[two]), **DECLARED
    )
    assert gap(candidate, lambda pixels: expected(pixels)[:, :2]) < 1e-4


def test_f4_several_sigmoids_are_no_one_class(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", ending="Sigmoid")
    with pytest.raises(ModelError, match=r"3 sigmoids, each an answer of its own"):
        examine(path, OnnxRecipe(file=str(path)))
    foreign = examine(path, OnnxRecipe(file=str(path), answers="probabilities"))
    assert foreign.ending == "probabilities"


@pytest.mark.parametrize(("ending", "declared"), [("Softmax", "logits"), ("composed", "logits")])
def test_f4_a_declaration_against_the_sums_is_a_line(tmp_path, ending, declared):
    path = foreign_net(tmp_path / "net.onnx", ending=ending)
    with pytest.raises(ModelError, match="logits"):
        examine(path, OnnxRecipe(file=str(path), answers=declared))
    path = foreign_net(tmp_path / "raw.onnx")
    with pytest.raises(ModelError, match=r"probabilities from 'raw\.onnx', as declared"):
        examine(path, OnnxRecipe(file=str(path), answers="probabilities"))


# ------------------------------------------------------------------ F6, F8: one image, one answer


def _training_norm():
    values = {"g": np.ones(6), "b": np.zeros(6), "m": np.zeros(6), "v": np.ones(6)}
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()]
    nodes = [
        helper.make_node(
            "BatchNormalization", ["relu", "g", "b", "m", "v"], ["norm", "mo", "vo"],
            training_mode=1,
        )
    ]  # fmt: skip
    return {"nodes": nodes, "tensors": tensors}


def _live_dropout():
    tensors = [
        numpy_helper.from_array(np.float32(0.5), "share"),
        numpy_helper.from_array(np.array(True), "on"),
    ]
    return {"nodes": [helper.make_node("Dropout", ["relu", "share", "on"], ["dropped"])],
            "tensors": tensors}  # fmt: skip


def _noise():
    nodes = [
        helper.make_node("RandomNormalLike", ["relu"], ["noise"], scale=5.0),
        helper.make_node("Add", ["relu", "noise"], ["noisy"]),
    ]
    return {"nodes": nodes, "tensors": []}


def _batch_mean():
    axes = numpy_helper.from_array(np.array([0]), "first.axis")
    nodes = [
        helper.make_node("ReduceMean", ["relu", "first.axis"], ["batch.mean"]),
        helper.make_node("Sub", ["relu", "batch.mean"], ["centred"]),
    ]
    return {"nodes": nodes, "tensors": [axes], "opset": 18}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (_training_norm, "a 'BatchNormalization' in training mode"),
        (_live_dropout, "a 'Dropout' in training mode"),
        (_noise, "differ between two looks"),
        (_batch_mean, "differ alone and in a batch"),
    ],
)
def test_f6_answers_of_chance_or_batch_are_refused(tmp_path, parts, words):
    path = foreign_net(tmp_path / "net.onnx", **parts())
    with pytest.raises(ModelError, match=words):
        examine(path, OnnxRecipe(file=str(path)))


@pytest.mark.parametrize("batch", ["n", 1])
def test_f8_a_batch_baked_into_a_reshape_is_freed(tmp_path, batch):
    path = foreign_net(tmp_path / "net.onnx", baked=True, batch=batch)
    candidate, _, _ = settled(path, **DECLARED)
    images, _ = pictures(5)
    for count in (1, 4, 5):
        assert np.abs(candidate.predict(images[:count]) - expected(images[:count])).max() < 1e-3


def test_f8_what_cannot_be_freed_goes_one_by_one(tmp_path):
    """A class token of one image, joined to the maps: the graph holds one image."""
    token = numpy_helper.from_array(np.zeros((1, 6, 1, SIDE), np.float32), "token")
    nodes = [helper.make_node("Concat", ["relu", "token"], ["joined"], axis=2)]
    path = foreign_net(tmp_path / "net.onnx", nodes=nodes, tensors=[token], batch=1)
    foreign = examine(path, OnnxRecipe(file=str(path)))
    assert foreign.single
    spec = InputSpec(channels=3, height=SIDE, width=SIDE)
    model = adopt(foreign, OnnxRecipe(file="x", **DECLARED), CLASSES, spec)
    card = Card(name="net", classes=CLASSES, input=spec, format="onnx")
    candidate = TemporaryFile.made(model, card, 1)
    assert candidate.largest_batch == 1
    images, _ = pictures(40)
    alone = np.concatenate([candidate.predict(image[None]) for image in images])
    assert (candidate.predict(images) == alone).all()
    recipe = ExportRecipe(calibration_images=24)
    plan = plan_onnx(recipe, candidate.path, images, threads=1, seed=0)
    apply_onnx(recipe, candidate.path, tmp_path / "int8.onnx", plan, card)
    made = load_candidate(tmp_path / "int8.onnx", 1)
    assert (made.predict(images).argmax(1) == alone.argmax(1)).mean() > 0.9


# ------------------------------------------------------------------ what is made of one


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "mixed", "int8-dynamic"])
def test_files_are_made_of_an_adopted_one(tmp_path, precision):
    candidate, _, _ = settled(foreign_net(tmp_path / "net.onnx", layout="NHWC"), **DECLARED)
    images, _ = pictures(60)
    recipe = ExportRecipe(precision=precision, calibration_images=32)
    plan = plan_onnx(recipe, candidate.path, images[:32], threads=1, seed=0)
    apply_onnx(recipe, candidate.path, tmp_path / "made.onnx", plan, candidate.card)
    made = load_candidate(tmp_path / "made.onnx", 1)
    agreement = (made.predict(images).argmax(1) == candidate.predict(images).argmax(1)).mean()
    assert agreement > 0.9
    assert made.card.precision == precision


def test_a_file_counts_and_shuffles_its_weights(tmp_path):
    candidate, _, _ = settled(foreign_net(tmp_path / "net.onnx"), **DECLARED)
    spec = ModelSpec(num_classes=3, in_channels=3, mean=0.0, std=1.0)
    network = FileNetwork(candidate, spec)
    assert network.parameters == 6 * 3 + 6 + 3 * 6 + 3
    assert network.macs == 6 * 3 * SIDE * SIDE + 3 * 6
    shuffled = randomized_file(network, seed=0)
    images, labels = pictures(90)
    assert (shuffled.predict(images).argmax(1) == labels).mean() < 0.9
    assert shuffled.digest == randomized_file(network, seed=0).digest != network.digest


# ------------------------------------------------------------------ odd files: right, or a line


def odd(tmp_path, words, path=None, **options):
    path = path or foreign_net(tmp_path / "net.onnx", **options)
    with pytest.raises(ModelError, match=words) as problem:
        examine(path, OnnxRecipe(file=str(path)))
    assert "\n" not in str(problem.value)


def test_odd_two_inputs(tmp_path):
    age = helper.make_tensor_value_info("age", TensorProto.FLOAT, ["n", 1])
    add = helper.make_node("Add", ["relu", "age"], ["aged"])
    odd(tmp_path, "one input, the image", inputs=[age], nodes=[add])


def test_odd_sequence_output(tmp_path):
    path = foreign_net(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("SequenceConstruct", ["scores"], ["listed"]))
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_sequence_value_info("listed", TensorProto.FLOAT, None)
    )
    onnx.save(model, path)
    odd(tmp_path, r"'listed' \(sequence\): export it with plain scores", path)


def test_odd_zipmap(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", ending="Softmax")
    model = onnx.load(path)
    model.graph.node.append(
        helper.make_node(
            "ZipMap", ["answers"], ["zipped"], domain="ai.onnx.ml",
            classlabels_strings=list(CLASSES),
        )
    )  # fmt: skip
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    del model.graph.output[:]
    kind = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    model.graph.output.append(
        helper.make_value_info("zipped", helper.make_sequence_type_proto(kind))
    )
    onnx.save(model, path)
    odd(tmp_path, r"'zipped' \(sequence\).*no ZipMap", path)


def test_odd_several_outputs_are_asked_for(tmp_path):
    path = foreign_net(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", 6]))
    onnx.save(model, path)
    odd(tmp_path, "name the right one with 'output'", path)
    foreign = examine(path, OnnxRecipe(file=str(path), output="scores"))
    assert foreign.outputs == 3


def test_odd_free_size(tmp_path):
    odd(tmp_path, "'size' of 'net.onnx', which the file leaves open", size=("h", "w"))
    path = foreign_net(tmp_path / "sized.onnx", size=("h", "w"), metadata={"imgsz": "[24, 20]"})
    foreign = examine(path, OnnxRecipe(file=str(path)))
    assert (foreign.height, foreign.width) == (24, 20)


def test_odd_four_channels(tmp_path):
    path = foreign_net(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    weights = next(t for t in model.graph.initializer if t.name == "conv.w")
    weights.CopyFrom(numpy_helper.from_array(np.ones((6, 4, 1, 1), np.float32), "conv.w"))
    onnx.save(model, path)
    odd(tmp_path, "of 1 or 3 channels", path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
def test_odd_truncated(tmp_path, share):
    path = foreign_net(tmp_path / "net.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    odd(tmp_path, "a whole ONNX file", path)


def test_odd_not_onnx_at_all(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\x80\x04PK not a model" * 40)
    odd(tmp_path, "a whole ONNX file", path)


def _outside(tmp_path, location="net.onnx.data"):
    path = foreign_net(tmp_path / "in" / "net.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_odd_weights_beside_the_file(tmp_path):
    path = _outside(tmp_path)
    assert [file.name for file in own_files(path)] == ["net.onnx", "net.onnx.data"]
    candidate, _, _ = settled(path, **DECLARED)
    assert gap(candidate) < 1e-4
    data = path.with_name("net.onnx.data")
    data.write_bytes(data.read_bytes()[:-8])
    odd(tmp_path, "which are too few", path)
    data.unlink()
    odd(tmp_path, "no 'net.onnx.data': copy that file there too", path)


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/hostname", "a/../../../secret.bin", "..\\secret.bin", ""]
)
def test_odd_weights_outside_its_folder_are_not_read(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    odd(tmp_path, "in its own folder", _outside(tmp_path, location))


def test_odd_link_out_of_its_folder_is_not_read(tmp_path):
    path = _outside(tmp_path)
    data = path.with_name("net.onnx.data")
    data.rename(tmp_path / "elsewhere.bin")
    data.symlink_to(tmp_path / "elsewhere.bin")
    odd(tmp_path, "in its own folder", path)


def test_odd_custom_operator(tmp_path):
    node = helper.make_node("MyRelu", ["relu"], ["mine"], domain="their.ops")
    path = foreign_net(tmp_path / "net.onnx", nodes=[node])
    odd(tmp_path, "'MyRelu' of 'their.ops', which would need a library of its maker", path)


def test_odd_more_than_two_gigabytes(tmp_path):
    path = tmp_path / "net.onnx"
    path.touch()
    os.truncate(path, 2**31 + 10)  # sparse: takes no room
    odd(tmp_path, "less than 2 GB", path)
    path = _outside(tmp_path)
    model = onnx.load(path, load_external_data=False)
    os.truncate(path.with_name("net.onnx.data"), 2**31 + 2**20)
    first = model.graph.initializer[0]
    for entry in first.external_data:
        if entry.key == "length":
            entry.value = str(2**31 + 1000)
    path.write_bytes(model.SerializeToString())
    odd(tmp_path, "less than 2 GB", path)


def test_odd_batch_that_cannot_be_freed(tmp_path):
    token = numpy_helper.from_array(np.zeros((4, 6, 1, SIDE), np.float32), "token")
    nodes = [helper.make_node("Concat", ["relu", "token"], ["joined"], axis=2)]
    odd(tmp_path, "a batch of 4, baked into it", nodes=nodes, tensors=[token], batch=4)


def test_odd_answers_with_places(tmp_path):
    path = foreign_net(tmp_path / "net.onnx")
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("relu", TensorProto.FLOAT, ["n", 6, SIDE, SIDE])
    )
    onnx.save(model, path)
    odd(tmp_path, "a map, not a class", path)


def test_odd_quantized_already(tmp_path):
    """Judged as it is; it is no reference that something small is made of."""
    candidate, _, _ = settled(foreign_net(tmp_path / "net.onnx"), **DECLARED)
    images, _ = pictures(60)
    recipe = ExportRecipe(calibration_images=32)
    plan = plan_onnx(recipe, candidate.path, images[:32], threads=1, seed=0)
    apply_onnx(recipe, candidate.path, tmp_path / "int8.onnx", plan, candidate.card)
    model = onnx.load(tmp_path / "int8.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "theirs.onnx")
    foreign = examine(tmp_path / "theirs.onnx", OnnxRecipe(file="theirs.onnx"))
    assert foreign.precision == "int8"
    assert foreign.scale == "0..255"
    declared = {"channels": "RGB", "fit": "stretch", "classes": list(CLASSES)}
    other = load_candidate(tmp_path / "theirs.onnx", 1, onnx=declared)
    ours = load_candidate(tmp_path / "int8.onnx", 1)
    assert np.abs(other.predict(images) - ours.predict(images)).max() < 1e-3
    assert other.card.precision == "int8"


# ------------------------------------------------------------------ without training images


def test_without_a_trial_everything_open_is_asked_for(tmp_path):
    path = foreign_net(tmp_path / "net.onnx")
    words = r"scale, channels, fit and classes of 'net.onnx'.*--onnx scale=.*--onnx classes="
    with pytest.raises(ModelError, match=words):
        load_candidate(path)
    with pytest.raises(ModelError, match="'scale'"):
        load_candidate(path, onnx={"scale": "0..2"})
    with pytest.raises(ModelError, match="'sacle'"):
        load_candidate(path, onnx={"sacle": "0..1"})
    candidate = load_candidate(path, onnx=DECLARED | {"classes": list(CLASSES)})
    assert gap(candidate) < 1e-4
    folder = candidate.path.parent
    del candidate
    assert not folder.exists()


def test_a_grey_file_has_no_order_of_channels(tmp_path):
    path = foreign_net(tmp_path / "net.onnx", grey=True)
    foreign = examine(path, OnnxRecipe(file=str(path)))
    assert foreign.channels == 1
    assert open_questions(as_read(foreign, OnnxRecipe(file=str(path)))) == [
        "scale", "fit", "classes",
    ]  # fmt: skip
    spec = InputSpec(channels=3, height=SIDE, width=SIDE)
    with pytest.raises(ModelError, match=r"grey images for 'net\.onnx'"):
        adopt(foreign, OnnxRecipe(file="x", classes=CLASSES, **DECLARED), CLASSES, spec)


def small(ending, ir=8, opset=17):
    """SYNTHETIC: three classes by the mean of each colour, and what is made of their scores."""
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32), "weight")
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
        *ending,
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])
    inputs = [image]
    if ir < 4:  # then weights had to be inputs as well
        inputs.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [3, 3]))
    answer = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "net", inputs, [answer], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir
    return model


def constant(name, value):
    tensor = numpy_helper.from_array(np.asarray(value), name)
    return helper.make_node("Constant", [], [name], value=tensor)


PERCENT = [
    helper.make_node("Softmax", ["scores"], ["shares"], axis=1),
    constant("hundred", np.float32(100)),
    helper.make_node("Mul", ["shares", "hundred"], ["percent"]),
]
DECISIONS = [
    helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
    constant("three", np.int64(3)),
    constant("values", np.asarray([0, 1], np.float32)),
    helper.make_node("OneHot", ["best", "three", "values"], ["decisions"], axis=1),
]


@pytest.mark.parametrize(
    ("ending", "message"), [(PERCENT, "whose sum is 100"), (DECISIONS, "decisions: 1 for a class")]
)
def test_f4_shares_of_another_whole_and_decisions_are_no_scores(tmp_path, ending, message):
    """Percentages passed for logits: a softmax of a softmax, a hundred times too sure."""
    onnx.save(small(ending), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=message):
        examine(tmp_path / "net.onnx", OnnxRecipe(file="net.onnx"))


def test_weights_that_are_inputs_as_well_are_weights(tmp_path):
    """Files of IR 3, as all were before 2019: the converter of opsets refused them."""
    onnx.save(small([], ir=3, opset=9), tmp_path / "net.onnx")
    foreign = examine(tmp_path / "net.onnx", OnnxRecipe(file="net.onnx"))
    assert (foreign.classes, foreign.single) == (3, False)


def test_a_dynamically_quantized_file_is_judged_image_by_image(tmp_path):
    """Its ranges follow the batch: it was called a network that computes over the batch."""
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(small([]), tmp_path / "net.onnx")
    quantize_dynamic(tmp_path / "net.onnx", tmp_path / "dynamic.onnx")
    foreign = examine(tmp_path / "dynamic.onnx", OnnxRecipe(file="dynamic.onnx"))
    assert (foreign.single, foreign.precision) == (True, "int8")


def test_a_pointer_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "net.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid 0\n")
    with pytest.raises(ModelError, match="a Git LFS pointer"):
        examine(tmp_path / "net.onnx", OnnxRecipe(file="net.onnx"))


def test_mistakes_of_ours_are_no_refusals():
    """A misspelt name in a line of ours would have been the network's fault."""
    from clinipress.formats.make import _refusing

    recipe = ExportRecipe(precision="int8")
    ours = compile(
        "undefined_name", __import__("clinipress.formats.make").formats.make.__file__, "eval"
    )
    with pytest.raises(NameError), _refusing(recipe):
        eval(ours)
    with pytest.raises(ModelError, match="a toolchain that gave up"), _refusing(recipe):
        np.zeros(2).no_such_attribute  # noqa: B018  in a file that is not of clinipress
