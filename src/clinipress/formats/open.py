"""Which engine opens which file, as the table of formats says (`clinipress.recipe.formats`).

Engines are optional parts; each is imported when a file of its format is opened, and a missing one
is named with the command that installs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clinipress.errors import ModelError
from clinipress.extras import check_installed, is_installed, require
from clinipress.formats.file import FileCandidate
from clinipress.recipe.formats import FORMATS, FormatFacts, format_facts
from clinipress.records.candidate import Card

__all__ = [
    "TRAINING_PACKAGES",
    "check_toolchains",
    "engine_facts",
    "engine_packages",
    "extra_of",
    "format_of",
    "format_packages",
    "import_engine",
    "installed",
    "open_file",
    "package_of",
    "place_of",
    "timed_here",
    "toolchain_packages",
]

# What trains and cuts networks and writes the float32 file every other one is made from.
TRAINING_PACKAGES = (
    *("numpy", "onnx", "onnxconverter-common", "onnxruntime", "onnxscript"),
    *("timm", "torch", "torch-pruning", "torchvision"),
)


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
    if not format_facts(kind).engine:
        known = ", ".join(row.name for row in FORMATS)
        raise ModelError(f"a file of format {known}", f"'{kind}'")
    facts = engine_facts(kind)
    if facts.extra:
        check_installed(
            (facts.engine.partition(".")[0],), extra=facts.extra, what=f"running {kind} files"
        )
    opened: FileCandidate = _room(facts).ENGINE.load(path, card=card, threads=threads)
    if card is None and place_of(opened.card.format):  # an .onnx file whose card was inside
        return open_file(path, opened.card, threads)
    return opened


def engine_facts(kind: str) -> FormatFacts:
    """The row of the format whose engine answers for files of a format on this machine.

    Example:
        >>> engine_facts("litert").name
        'litert'
    """
    facts = format_facts(kind)
    if facts.runs_as and not place_of(kind):
        return format_facts(facts.runs_as)
    return facts


def _room(facts: FormatFacts) -> Any:
    """What runs a format's files: ``clinipress.formats.ROOM.run``."""
    return importlib.import_module(f"clinipress.formats.{facts.room}.run")


def place_of(kind: str) -> str:
    """The engine and the device that run files of a format in place of this processor.

    Returns:
        "tensorrt 10.3.0 on Orin" where NVIDIA's package imports and a GPU answers; else "".

    Example:
        >>> place_of("onnx")
        ''
    """
    facts = format_facts(kind)
    if not facts.runs_as or not is_installed(facts.engine):
        return ""
    engine: str = _room(facts).engine_and_gpu()
    return engine


def timed_here(kind: str) -> bool:
    """True where a format's engine on this machine is the one on the device.

    Example:
        >>> timed_here("onnx"), timed_here("tflite-micro")
        (True, False)
    """
    return format_facts(kind).timed_here or place_of(kind) != ""


def package_of(kind: str) -> str:
    """What `pip install` needs to run files of a format.

    Example:
        >>> package_of("litert"), package_of("onnx")
        ('clinipress[litert]', 'clinipress')
    """
    extra = format_facts(kind).extra
    return f"clinipress[{extra}]" if extra else "clinipress"


def extra_of(kind: str) -> str:
    """The extra that installs what makes files of a format."""
    return format_facts(kind).extra or "compress"


def installed(kind: str) -> bool:
    """True when the packages that make and run files of a format are there; nothing is imported."""
    return all(is_installed(package) for package in format_facts(kind).toolchain)


def check_toolchains(kinds: Iterable[str]) -> None:
    """Refuse formats that cannot be made here, before hours of training.

    Raises:
        MissingExtraError: A format's packages are not installed.
    """
    for kind in kinds:
        check_installed(
            format_facts(kind).toolchain, extra=extra_of(kind), what=f"making {kind} files"
        )


def engine_packages(kinds: Iterable[str]) -> tuple[str, ...]:
    """Distributions whose versions the answers of files of these formats depend on.

    Example:
        >>> engine_packages(["onnx", "openvino", "pytorch"])
        ('numpy', 'onnxruntime', 'openvino', 'timm', 'torch')
    """
    packages = {"numpy"}
    for kind in kinds:
        facts = format_facts(kind)
        engine = format_facts(facts.runs_as or kind).engine
        packages |= {engine.partition(".")[0]} if engine else {"torch", "timm"}
    return tuple(sorted(packages))


def toolchain_packages(kind: str) -> tuple[str, ...]:
    """Distributions whose versions a file of this format depends on."""
    return tuple(
        sorted({*TRAINING_PACKAGES, *format_facts(kind).toolchain, *engine_packages([kind])})
    )


def import_engine(kind: str) -> None:
    """Import the engine of a format, so that what it needs by itself can be told apart."""
    facts = engine_facts(kind)
    start = getattr(_room(facts), "start", None)
    if start is not None:
        start()
    elif facts.extra:
        require(facts.engine, extra=facts.extra, what=f"running {kind} files")
    else:
        importlib.import_module(facts.engine)


def format_packages() -> tuple[str, ...]:
    """Distributions that make or run files of any format."""
    modules = {module for row in FORMATS for module in (row.engine, *row.toolchain)}
    return tuple(sorted({name.partition(".")[0].replace("_", "-") for name in modules} - {""}))


def format_of(path: Path) -> str:
    """The format that a file's suffix stands for.

    Raises:
        ModelError: None does.

    Example:
        >>> format_of(Path("model.tflite"))
        'litert'
    """
    for row in FORMATS:
        if path.suffix in row.suffixes:
            return row.name
    known = ", ".join(sorted({row.files[0] for row in FORMATS if row.files}))
    raise ModelError(f"a model file such as {known}", f"'{path.name}'")
