"""Which engine opens which file: the one place that knows them all, by format.

Engines are optional parts; each is imported when a file of its format is opened, and a missing one
is named with the command that installs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from clinipress.errors import ModelError
from clinipress.extras import check_installed, is_installed, require
from clinipress.formats.file import FILES, FileCandidate
from clinipress.records.candidate import (
    Card,
)

__all__ = [
    "TRAINING_PACKAGES",
    "check_toolchains",
    "engine_packages",
    "extra_of",
    "format_of",
    "import_engine",
    "installed",
    "open_file",
    "package_of",
    "place_of",
    "timed_here",
    "toolchain_packages",
]

# Format -> (our module, its class, the extra that installs the engine). A TensorRT export is an
# ONNX file: ONNX Runtime runs the very file where `place_of` finds no GPU to build an engine for.
ENGINES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "onnx": ("onnx", "OnnxCandidate", ""),
        "tensorrt": ("onnx", "OnnxCandidate", ""),
        "openvino": ("openvino", "OpenVinoCandidate", "openvino"),
        "litert": ("litert", "LiteRtCandidate", "litert"),
        "executorch": ("executorch", "ExecuTorchCandidate", "executorch"),
        "tflite-micro": ("tflite_micro", "TfliteMicroCandidate", "tflite-micro"),
    }
)
PACKAGES = MappingProxyType(
    {
        "onnx": "onnxruntime",
        "tensorrt": "onnxruntime",
        "openvino": "openvino",
        "litert": "ai_edge_litert.interpreter",
        "executorch": "executorch.runtime",
        "tflite-micro": "tflite_micro",
    }
)
# What makes a format's files, besides what every study needs.
TOOLCHAINS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "onnx": (),
        "tensorrt": (),
        "openvino": ("openvino", "nncf"),
        "litert": ("ai_edge_litert", "ai_edge_quantizer", "litert_torch"),
        "executorch": ("executorch", "torchao"),
        "tflite-micro": ("ai_edge_litert", "ai_edge_quantizer", "litert_torch", "tflite_micro"),
    }
)
# What trains and cuts networks and writes the float32 file every other one is made from.
TRAINING_PACKAGES = (
    *("numpy", "onnx", "onnxconverter-common", "onnxruntime", "onnxscript"),
    *("timm", "torch", "torch-pruning", "torchvision"),
)
# Formats whose engine on this machine is the one on the device. A microcontroller's kernels run
# elsewhere: their time is "not measured", whatever an emulation takes here.
TIMED_HERE = frozenset(("onnx", "openvino", "litert", "executorch"))
SUFFIXES = {".onnx": "onnx", ".xml": "openvino", ".tflite": "litert", ".pte": "executorch"}


def open_file(path: Path, card: Card | None = None, threads: int | None = None) -> FileCandidate:
    """Open a model file with the engine of its card's format, else of its suffix.

    Args:
        path: The file; of several (OpenVINO), the one to open first.
        card: Its card; None: the one inside it or beside it.
        threads: CPU threads of one call; None: as many as there are cores.

    Raises:
        ModelError: No such format, not a whole file, or not what its card says.
        MissingExtraError: The engine is not installed.
    """
    kind = card.format if card is not None else format_of(path)
    if kind not in ENGINES:
        raise ModelError(f"a file of format {', '.join(ENGINES)}", f"'{kind}'")
    module, name, extra = ENGINES[kind]
    if place_of(kind):
        module, name = "tensorrt", "TensorRtCandidate"
    if extra:
        check_installed(
            (PACKAGES[kind].partition(".")[0],), extra=extra, what=f"running {kind} files"
        )
    engine = importlib.import_module(f"clinipress.formats.{module}.run")
    opened: FileCandidate = getattr(engine, name).load(path, card=card, threads=threads)
    if card is None and place_of(opened.card.format):  # an .onnx file whose card was inside
        return open_file(path, opened.card, threads)
    return opened


def place_of(kind: str) -> str:
    """The engine and the device that run files of a format in place of this processor.

    Returns:
        "tensorrt 10.3.0 on Orin" where NVIDIA's package imports and a GPU answers; else "".

    Example:
        >>> place_of("onnx")
        ''
    """
    if kind != "tensorrt" or not is_installed("tensorrt"):
        return ""
    from clinipress.formats.tensorrt.run import engine_and_gpu

    return engine_and_gpu()


def timed_here(kind: str) -> bool:
    """True where a format's engine on this machine is the one on the device.

    Example:
        >>> timed_here("onnx"), timed_here("tflite-micro")
        (True, False)
    """
    return kind in TIMED_HERE or place_of(kind) != ""


def package_of(kind: str) -> str:
    """What `pip install` needs to run files of a format.

    Example:
        >>> package_of("litert"), package_of("onnx")
        ('clinipress[litert]', 'clinipress')
    """
    extra = ENGINES[kind][2]
    return f"clinipress[{extra}]" if extra else "clinipress"


def extra_of(kind: str) -> str:
    """The extra that installs what makes files of a format."""
    return ENGINES[kind][2] or "compress"


def installed(kind: str) -> bool:
    """True when the packages that make and run files of a format are there; nothing is imported."""
    return all(is_installed(package) for package in TOOLCHAINS[kind])


def check_toolchains(kinds: Iterable[str]) -> None:
    """Refuse formats that cannot be made here, before hours of training.

    Raises:
        MissingExtraError: A format's packages are not installed.
    """
    for kind in kinds:
        check_installed(TOOLCHAINS[kind], extra=extra_of(kind), what=f"making {kind} files")


def engine_packages(kinds: Iterable[str]) -> tuple[str, ...]:
    """Distributions whose versions the answers of files of these formats depend on.

    Example:
        >>> engine_packages(["onnx", "openvino", "pytorch"])
        ('numpy', 'onnxruntime', 'openvino', 'timm', 'torch')
    """
    found = {"numpy"}
    for kind in kinds:
        known = PACKAGES.get(kind)
        found |= {known.partition(".")[0]} if known else {"torch", "timm"}
    return tuple(sorted(found))


def toolchain_packages(kind: str) -> tuple[str, ...]:
    """Distributions whose versions a file of this format depends on."""
    return tuple(sorted({*TRAINING_PACKAGES, *TOOLCHAINS[kind], *engine_packages([kind])}))


def import_engine(kind: str) -> None:
    """Import the engine of a format, so that what it needs by itself can be told apart."""
    if kind == "openvino":  # a bare import sends an event to its maker's statistics
        from clinipress.formats.openvino.run import engine

        engine()
        return
    if place_of(kind):
        from clinipress.formats.tensorrt.run import start

        start()
        return
    extra = ENGINES[kind][2]
    if extra:
        require(PACKAGES[kind], extra=extra, what=f"running {kind} files")
    else:
        importlib.import_module(PACKAGES[kind])


def format_of(path: Path) -> str:
    """The format that a file's suffix stands for.

    Raises:
        ModelError: None does.

    Example:
        >>> format_of(Path("model.tflite"))
        'litert'
    """
    if path.suffix not in SUFFIXES:
        known = ", ".join(sorted({name for names in FILES.values() for name in names[:1]}))
        raise ModelError(f"a model file such as {known}", f"'{path.name}'")
    return SUFFIXES[path.suffix]
