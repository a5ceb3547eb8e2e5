"""Sentences about files that do not hold what their names promise."""

from clinipress.formats.precision import not_quantized, quantized_layers

HALF = {"Conv int8": 2, "Conv float32": 2, "Gemm int8": 1, "Gemm float32": 0, "LSTM int8": 1}


def test_layers_are_counted_by_kind():
    assert quantized_layers(HALF) == {"convolutions": (2, 4), "linear": (1, 1), "recurrent": (1, 1)}


def test_more_than_half_must_compute_in_8_bits():
    assert not_quantized(HALF, {}, "int8") is None
    assert not_quantized({"Conv int8": 1, "Conv float32": 1}, {}, "int8") == (
        "1 of 2 convolutions quantized"
    )
    assert not_quantized({"Conv float32": 53}, {}, "int8-dynamic") == (
        "0 of 53 convolutions quantized"
    )
    assert not_quantized({"Conv float32": 53}, {}, "float32") is None


def test_stored_precisions_promise_bytes():
    assert not_quantized({}, {"int4": 60, "float32": 40}, "int4-weights") is None
    assert not_quantized({}, {"int8": 60, "float32": 40}, "int4-weights") == (
        "0% of the weights' bytes in int4"
    )
    assert not_quantized({}, {"int8": 60, "float32": 40}, "mixed") is None
