"""The devices clinipress knows, as data: what fits on each, and who says so.

The table comes from the clinical edge compression guide ("Model Compression for Healthcare",
Nirmitee.io, 18 March 2026), corrected where the hardware says otherwise. Its size limits are
advice for a class of devices, not laws of the hardware: a Raspberry Pi holds more than 50 MB, but
a larger file is slow to run there and hard to update over a clinic's line.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field

from clinipress.errors import InputError, RecipeError
from clinipress.recipe.study import TargetRecipe
from clinipress.records.result import Record

__all__ = ["TARGETS", "Target", "find_target", "fits", "resolve_targets", "unknown"]

MB, GB = 10**6, 10**9  # as file managers and the guide count them
GUIDE = "Nirmitee.io, Model Compression for Healthcare, 18 March 2026, hardware table"
OURS = "chosen by clinipress: an office computer of the last ten years"


class Target(Record):
    """One device.

    Attributes:
        name: What a study file calls it.
        title: Its full name.
        processor: What computes there.
        ram_bytes: Memory of the device, all of it; the system and other programs share it.
        model_bytes: Largest model file advised.
        latency_ms: Longest median time of one answer, milliseconds; None: no limit.
        runtime: What runs the model there.
        formats: File formats that lead there, the best first.
        precisions: Precisions worth shipping there, for speed or for size, the best first.
        use: Typical clinical use.
        sources: Field name -> where its value comes from.
    """

    name: str
    title: str
    processor: str
    ram_bytes: int
    model_bytes: int
    latency_ms: float | None = None
    runtime: str
    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    use: str
    sources: dict[str, str] = Field(default_factory=dict)


def _sources(**special: str) -> dict[str, str]:
    """The guide for every field, except those named."""
    fields = ("ram_bytes", "model_bytes", "runtime", "formats", "precisions", "use")
    return dict.fromkeys(fields, GUIDE) | special


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target(
                name="jetson-orin",
                title="NVIDIA Jetson Orin NX 16 GB",
                processor="Ampere GPU, compute capability 8.7",
                ram_bytes=16 * GB,
                model_bytes=500 * MB,
                runtime="TensorRT",
                formats=("tensorrt",),
                precisions=("float16", "int8", "float32"),
                use="radiology workstation, surgical navigation",
                sources=_sources(
                    precisions=f"float16: {GUIDE}; int8: NVIDIA TensorRT support matrix, "
                    "hardware and precision, compute capability 8.7"
                ),
            ),
            Target(
                name="jetson-nano",
                title="NVIDIA Jetson Nano 4 GB",
                processor="Maxwell GPU, compute capability 5.3",
                ram_bytes=4 * GB,
                model_bytes=100 * MB,
                runtime="TensorRT",
                formats=("tensorrt",),
                precisions=("float16", "float32"),
                use="bedside vital signs, point of care",
                sources=_sources(
                    precisions="the guide says int8, which this GPU does not have: TensorRT "
                    "reports 'Float16 support: 1, Int8 support: 0' on it "
                    "(github.com/ceccocats/tkDNN/issues/26), and its maintainers' advice is the "
                    "same (github.com/NVIDIA-AI-IOT/torch2trt/issues/255)"
                ),
            ),
            Target(
                name="raspberry-pi-5",
                title="Raspberry Pi 5, 8 GB",
                processor="4 x Arm Cortex-A76",
                ram_bytes=8 * GB,
                model_bytes=50 * MB,
                runtime="ONNX Runtime",
                formats=("onnx", "litert", "executorch"),
                precisions=("int8", "mixed", "int8-dynamic", "float32", "float16"),
                use="screening in a remote clinic",
                sources=_sources(
                    formats=f"onnx: {GUIDE}; the others publish aarch64 Linux wheels. OpenVINO "
                    "does too, but computes 8-bit graphs otherwise there than on x86 "
                    "(scripts/arm_check, LOG.md): what was measured here would not hold",
                    precisions=f"int8: {GUIDE}; Arm Cortex-A76 core (Armv8.2-A, dot product and "
                    "half precision): Arm Cortex-A76 Technical Reference Manual",
                ),
            ),
            Target(
                name="smartphone",
                title="Smartphone, 6 to 8 GB",
                processor="Arm CPU and NPU",
                ram_bytes=6 * GB,
                model_bytes=50 * MB,
                runtime="LiteRT",
                formats=("litert", "onnx", "executorch"),
                precisions=("int8", "mixed", "int8-dynamic", "float16", "float32", "int4-weights"),
                use="mobile dermatology, medication tracking",
                sources=_sources(
                    ram_bytes=f"lower end of '6-8 GB': {GUIDE}",
                    formats=f"litert (then TFLite): {GUIDE}; the others by choice of clinipress",
                    precisions=f"int8: {GUIDE}; the others by choice of clinipress: LiteRT runs "
                    "them on the CPU",
                ),
            ),
            Target(
                name="cpu-x86",
                title="Computer without a GPU",
                processor="x86-64 with AVX2",
                ram_bytes=8 * GB,
                model_bytes=500 * MB,
                runtime="the fastest of ONNX Runtime, OpenVINO, LiteRT and ExecuTorch",
                formats=("onnx", "openvino", "litert", "executorch"),
                precisions=("int8", "mixed", "int8-dynamic", "float32", "float16", "int4-weights"),
                use="reading room, practice computer",
                sources=dict.fromkeys(_sources(), OURS),
            ),
            Target(
                name="cortex-m7",
                title="Microcontroller with an Arm Cortex-M7",
                processor="Arm Cortex-M7, no operating system",
                ram_bytes=1 * MB,
                model_bytes=500_000,
                runtime="LiteRT for Microcontrollers",
                formats=("tflite-micro",),
                precisions=("int8",),
                use="wearable ECG, glucose monitor",
                sources=_sources(
                    ram_bytes=f"{GUIDE}; such as STM32H743 (1 MB in blocks, the largest 512 KB)",
                    runtime=f"then TFLite Micro: {GUIDE}",
                ),
            ),
        )
    }
)


def find_target(name: str) -> Target:
    """The target of this name.

    Raises:
        InputError: There is none.

    Example:
        >>> find_target("jetson-nano").precisions
        ('float16', 'float32')
    """
    if name not in TARGETS:
        raise InputError("a known target", f"'{name}'", f"choose from {', '.join(TARGETS)}")
    return TARGETS[name]


def resolve_targets(
    choice: str | TargetRecipe | tuple[str | TargetRecipe, ...] | None,
) -> tuple[Target, ...]:
    """The devices a study aims at, the user's own completed from those they are like.

    Raises:
        InputError: There is no such target.
        RecipeError: A target of the user's own lacks a fact, or two have one name.
    """
    if choice is None:
        return ()
    entries = choice if isinstance(choice, tuple) else (choice,)
    resolved = tuple(find_target(e) if isinstance(e, str) else _own(e) for e in entries)
    names = [target.name for target in resolved]
    if len(set(names)) < len(names):
        raise RecipeError("targets with names that differ", ", ".join(names), "rename one of them")
    return resolved


def _own(recipe: TargetRecipe) -> Target:
    given = recipe.model_dump(exclude_none=True, exclude={"like"})
    base: dict[str, Any] = {"processor": "not stated", "sources": {}}
    if recipe.like:
        base = find_target(recipe.like).model_dump()
    sources = base.pop("sources") | dict.fromkeys(sorted(set(given) - {"name"}), "the study file")
    fields: dict[str, Any] = {
        "use": "not stated",
        **base,
        "title": recipe.name,
        **given,
        "sources": sources,
    }
    if (
        recipe.formats
        and not recipe.runtime
        and set(recipe.formats) != set(base.get("formats", ()))
    ):
        fields["runtime"] = "that of " + ", ".join(recipe.formats) + " files"
    missing = [
        name
        for name, field in Target.model_fields.items()
        if field.is_required() and name not in fields
    ]
    if missing:
        raise RecipeError(
            f"'{missing[0]}' of target '{recipe.name}'",
            "none",
            f"give it, or 'like' with one of {', '.join(TARGETS)}",
        )
    return Target.model_validate(fields)


def fits(
    target: Target,
    file_bytes: int,
    peak_memory_bytes: int | None,
    format: str,  # noqa: A002 - the word of the card and the result
    precision: str,
    median_ms: float | None = None,
) -> tuple[str, ...]:
    """Why a file does not fit a device; empty when nothing that was measured speaks against it.

    Args:
        target: The device.
        file_bytes: Size of the model file.
        peak_memory_bytes: Peak memory while it answers; None when not measured.
        format: "onnx", "litert", ...
        precision: "int8", "float16", ...
        median_ms: Median time of one answer, milliseconds; None when not measured.

    Returns:
        One sentence per reason.

    Example:
        >>> fits(find_target("jetson-nano"), 10_000_000, 200_000_000, "tensorrt", "int8")
        ('NVIDIA Jetson Nano 4 GB does not run int8, only float16, float32',)
    """
    reasons = []
    if format not in target.formats:
        reasons.append(f"{target.title} takes {', '.join(target.formats)} files, not {format}")
    if precision not in target.precisions:
        known = ", ".join(target.precisions)
        reasons.append(f"{target.title} does not run {precision}, only {known}")
    if file_bytes > target.model_bytes:
        size, limit = _size(file_bytes), _size(target.model_bytes)
        reasons.append(f"the file has {size}, {target.title} should get at most {limit}")
    if peak_memory_bytes is not None and peak_memory_bytes > target.ram_bytes:
        need, have = _size(peak_memory_bytes), _size(target.ram_bytes)
        reasons.append(f"it needs {need} of memory, {target.title} has {have}")
    if target.latency_ms is not None and median_ms is not None and median_ms > target.latency_ms:
        reasons.append(
            f"an answer takes {median_ms:.3g} ms here, {target.title} allows {target.latency_ms:g}"
        )
    return tuple(reasons)


def unknown(
    target: Target, peak_memory_bytes: int | None, median_ms: float | None
) -> tuple[str, ...]:
    """What a device needs to know of a file and nobody measured: said beside it, never a pass.

    Example:
        >>> unknown(find_target("jetson-nano"), None, None)
        ('memory: not measured', 'time: not measured')
    """
    reasons = []
    if peak_memory_bytes is None:
        reasons.append("memory: not measured")
    if median_ms is None:
        reasons.append("time: not measured")
    return tuple(reasons)


def _size(count: int) -> str:
    """Bytes for people, never rounded to the limit it exceeds.

    Example:
        >>> _size(500_001), _size(49_000_000)
        ('500,001 bytes', '49 MB')
    """
    for unit, name in ((GB, "GB"), (MB, "MB"), (1000, "KB")):
        if count >= unit and count % (unit // 100 or 1) == 0:
            return f"{count / unit:g} {name}"
    return f"{count:,} bytes"
