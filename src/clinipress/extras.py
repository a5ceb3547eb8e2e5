"""The packages that the base install does not bring: imported here, or named with their extra.

Every import of such a package inside a function goes through `require`, or stands behind one; a
package that is not installed is one line that says which extra brings it, and one that is
installed and broken is another.

Some of those packages, and ONNX Runtime, which the base install brings, report their use to their
makers unless told not to. `clinipress` itself calls `refuse_reports` before anything else of ours
can import one of them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from types import MappingProxyType
from typing import Any

from clinipress.errors import BrokenExtraError, MissingExtraError

__all__ = [
    "check_installed",
    "extra_of_package",
    "is_installed",
    "missing_extra",
    "refuse_reports",
    "require",
]

# What an extra is for, where the caller has nothing closer to say; any other brings a format.
PURPOSES = MappingProxyType(
    {
        "dicom": "reading DICOM",
        "nifti": "reading NIfTI",
        "compress": "training, changing and exporting networks",
        "data": "public data sets",
        "ray": "running a table on a cluster",
    }
)
# What each asks before it reports; read when it is imported, and by the processes it starts.
NO_REPORTS = MappingProxyType(
    {
        # ONNX Runtime 1.29 and newer: no uploader, no event, no number for this device under HOME
        # (its Privacy.md). `disable_telemetry_events` comes too late for the first event.
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",  # in the headers of downloads that were asked for
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)
GATHERED = frozenset(("all", "test"))  # they repeat the others', and bring what is no part of it
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def refuse_reports() -> None:
    """See to it that no package reports its use, whatever the environment says."""
    os.environ.update(NO_REPORTS)


def require(module: str, *, extra: str, what: str = "") -> Any:
    """Import a module that an extra brings.

    Args:
        module: Its dotted name: "scipy", "pydicom.pixels".
        extra: The extra that brings its package.
        what: What needs it, as a clause; "": what the extra is for.

    Returns:
        The module itself, not the package around it.

    Raises:
        MissingExtraError: The package is not installed.
        BrokenExtraError: It is, and importing it fails.

    Example:
        >>> require("json", extra="compress").loads("1")
        1
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except Exception as problem:  # a broken wheel raises nearly anything
        if is_installed(package):
            raise _broken(package, extra, problem) from problem
    raise MissingExtraError(what or _purpose(extra), extra)


def _purpose(extra: str) -> str:
    return PURPOSES.get(extra, f"{extra} files")


def _broken(package: str, extra: str, problem: Exception) -> BrokenExtraError:
    return BrokenExtraError(package, extra, f"{type(problem).__name__}: {problem}")


def check_installed(packages: Iterable[str], *, extra: str, what: str = "") -> None:
    """Refuse to go on without some packages; none is imported.

    Raises:
        MissingExtraError: One is not installed.
    """
    if not all(is_installed(package) for package in packages):
        raise MissingExtraError(what or _purpose(extra), extra)


def is_installed(package: str) -> bool:
    """True where a package can be found; it is not imported.

    Example:
        >>> is_installed("json"), is_installed("no_such_package")
        (True, False)
    """
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # imported already, by something that gave it no specification
        return True


def missing_extra(problem: ModuleNotFoundError) -> MissingExtraError | None:
    """What an import that was not foreseen means, where it is of an extra's package.

    Returns:
        The error to raise in its place; None for a module that no extra brings.
    """
    package = (problem.name or "").partition(".")[0]
    extra = extra_of_package(package)
    if extra is None:
        return None
    if is_installed(package):
        return _broken(package, extra, problem)
    return MissingExtraError(_purpose(extra), extra)


def extra_of_package(package: str) -> str | None:
    """The extra that brings a package, by its import name; None where none does.

    Example:
        >>> extra_of_package("torch_pruning"), extra_of_package("numpy")
        ('compress', None)
    """
    return _extras().get(package)


@functools.cache
def _extras() -> Mapping[str, str]:
    """Import name -> extra, from the requirements that clinipress was installed with.

    Every package of our extras is imported under its own name, with underscores for hyphens.
    """
    try:
        requirements = metadata.requires("clinipress") or []
    except metadata.PackageNotFoundError:  # run from a folder of source files
        requirements = []
    members: dict[str, set[str]] = {}
    for requirement in requirements:
        name, extra = _NAME.match(requirement), _EXTRA.search(requirement)
        if name and extra and extra[1] not in GATHERED:
            members.setdefault(extra[1], set()).add(name[0].replace("-", "_"))
    # an extra repeats what it includes: a package belongs to the smallest that has it
    by_size = sorted(members, key=lambda extra: len(members[extra]), reverse=True)
    return MappingProxyType({package: extra for extra in by_size for package in members[extra]})
