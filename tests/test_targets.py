"""The device table, and what fits where."""

import pytest

from clinipress.errors import InputError, RecipeError
from clinipress.recipe.study import TargetRecipe
from clinipress.study.devices import TARGETS, Target, find_target, fits, resolve_targets, unknown

SMALL = {"file_bytes": 400_000, "peak_memory_bytes": 900_000}


def test_the_guides_table_is_here_row_by_row():
    """RAM and file limits of the hardware table the project was born from."""
    table = {
        "jetson-orin": (16e9, 500e6),
        "jetson-nano": (4e9, 100e6),
        "raspberry-pi-5": (8e9, 50e6),
        "smartphone": (6e9, 50e6),
        "cortex-m7": (1e6, 500e3),
    }
    found = {name: (TARGETS[name].ram_bytes, TARGETS[name].model_bytes) for name in table}
    assert found == table
    assert set(TARGETS) == {*table, "cpu-x86"}


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_every_figure_has_a_source(target: Target):
    facts = {"ram_bytes", "model_bytes", "runtime", "formats", "precisions", "use"}
    assert set(target.sources) == facts
    assert all(target.sources.values())
    assert target.formats
    assert target.precisions


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_small_file_in_the_best_format_and_precision_fits(target: Target):
    best = {"format": target.formats[0], "precision": target.precisions[0]}
    assert fits(target, **SMALL, **best) == ()


def test_the_nano_has_no_int8_and_the_orin_has():
    assert find_target("jetson-nano").precisions == ("float16", "float32")
    (reason,) = fits(find_target("jetson-nano"), **SMALL, format="tensorrt", precision="int8")
    assert "int8" in reason
    assert fits(find_target("jetson-orin"), **SMALL, format="tensorrt", precision="int8") == ()


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_limits_are_exact_and_never_rounded(target: Target):
    best = {"format": target.formats[0], "precision": target.precisions[0]}
    full = (target.model_bytes, target.ram_bytes)
    assert fits(target, *full, **best) == ()
    (size,) = fits(target, full[0] + 1, full[1], **best)
    assert f"{full[0] + 1:,} bytes" in size
    (memory,) = fits(target, full[0], full[1] + 1, **best)
    assert f"{full[1] + 1:,} bytes" in memory


def test_every_reason_is_given():
    reasons = fits(find_target("cortex-m7"), 10**8, 10**9, "onnx", "float32")
    assert len(reasons) == 4
    assert all(reason.strip() for reason in reasons)


def test_what_was_not_measured_is_said_and_is_no_reason():
    target = find_target("jetson-orin")
    assert fits(target, 1000, None, "tensorrt", "int8") == ()
    assert unknown(target, None, None) == ("memory: not measured", "time: not measured")
    assert unknown(target, 1000, 2.0) == ()


# ------------------------------------------------------------------ the user's own


OWN = {"name": "cart", "like": "raspberry-pi-5", "ram_bytes": "512 MB", "latency_ms": 20}


def test_a_device_of_ones_own_takes_the_rest_from_the_one_it_is_like():
    (cart,) = resolve_targets(TargetRecipe.model_validate(OWN))
    pi = find_target("raspberry-pi-5")
    assert (cart.ram_bytes, cart.latency_ms) == (512_000_000, 20)
    assert (cart.model_bytes, cart.formats, cart.precisions) == (
        pi.model_bytes,
        pi.formats,
        pi.precisions,
    )
    assert (cart.title, cart.runtime) == ("cart", pi.runtime)
    other = {**OWN, "formats": ["executorch"]}
    assert resolve_targets(TargetRecipe.model_validate(other))[0].runtime == (
        "that of executorch files"
    )
    assert cart.sources["ram_bytes"] == "the study file"
    assert cart.sources["model_bytes"] == pi.sources["model_bytes"]
    (slow,) = fits(cart, 1000, 1000, "onnx", "int8", 20.5)
    assert "20.5 ms" in slow
    assert fits(cart, 1000, 1000, "onnx", "int8", 20.0) == ()


def test_a_device_without_a_pattern_needs_every_fact():
    with pytest.raises(RecipeError, match=r"'ram_bytes' of target 'cart'.*'like'"):
        resolve_targets(TargetRecipe(name="cart"))
    whole = {
        "name": "cart",
        "ram_bytes": 10**9,
        "model_bytes": "2.5 MB",
        "runtime": "ONNX Runtime",
        "formats": ["onnx"],
        "precisions": ["int8"],
    }
    (cart,) = resolve_targets(TargetRecipe.model_validate(whole))
    assert cart.model_bytes == 2_500_000


def test_several_devices_have_names_of_their_own():
    both = resolve_targets(("cpu-x86", TargetRecipe.model_validate(OWN)))
    assert [target.name for target in both] == ["cpu-x86", "cart"]
    with pytest.raises(RecipeError, match="names that differ"):
        resolve_targets(("cpu-x86", "cpu-x86"))
    assert resolve_targets(None) == ()


@pytest.mark.parametrize("size", ["lots", "5 XB", "-3 MB", -3, 0])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match="ram_bytes"):
        TargetRecipe.model_validate({**OWN, "ram_bytes": size})


def test_an_unknown_target_names_the_known_ones():
    with pytest.raises(InputError, match="raspberry-pi-5"):
        find_target("raspberry")


def test_targets_are_frozen_and_plain_data():
    target = find_target("cpu-x86")
    with pytest.raises(ValueError, match="frozen"):
        target.ram_bytes = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        TARGETS["mine"] = target  # type: ignore[index]
    assert Target.model_validate_json(target.model_dump_json()) == target
