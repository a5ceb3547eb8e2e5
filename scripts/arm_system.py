"""An Arm system for `arm_check`, put together once from Debian's packages and Arm wheels.

Nothing of it is installed and nothing needs rights of an administrator: packages are fetched and
checked by debootstrap, unpacked into a folder, and started by qemu's user emulation from there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

OLDEST_QEMU = 10
MANYLINUX = ("2_17", "2_26", "2_27", "2_28", "2_31", "2_34", "2_35")


class CannotRunError(Exception):
    """One line: what was needed, what came, and the remedy."""


def say(line: str) -> None:
    """Progress, to standard error: standard output is for the JSON."""
    sys.stderr.write(f"arm_check: {line}\n")


def run(command: Sequence[str], doing: str) -> str:
    """Run a program to its end; returns its standard output.

    Raises:
        CannotRunError: It failed; its own last words say why.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in words if line.startswith(("E:", "ERROR:"))] or words
        why = errors[-1] if errors else f"exit code {done.returncode}"
        raise CannotRunError(f"{doing} failed: {why.strip()}")
    return done.stdout


def tool(name: str) -> str:
    """Path of a program that Debian packages.

    Raises:
        CannotRunError: It is not installed.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        package = "dpkg" if name == "dpkg-deb" else name
        raise CannotRunError(f"needs '{name}', which is not here: apt-get install {package}")
    return path


def debian(
    place: Path, suite: str, mirror: str, machine: str, packages: str, only: str = ""
) -> Path:
    """A Debian tree, its packages fetched and checked by debootstrap and unpacked, never run.

    Args:
        place: Where; what is there is taken.
        suite: Debian's release.
        mirror: Address of the archive.
        machine: Debian's name of the architecture.
        packages: What to add to the smallest system, parted by commas.
        only: Unpack nothing but packages whose file names begin so.
    """
    if place.is_dir():
        return place
    unpack, fetch = tool("dpkg-deb"), tool("debootstrap")
    say(f"fetching Debian {suite} for {machine} from {mirror}")
    part, tree = place.with_suffix(".part"), place.with_suffix(".tree")
    for old in (part, tree):
        shutil.rmtree(old, ignore_errors=True)
    options = ["--download-only", "--variant=minbase", f"--arch={machine}", f"--include={packages}"]
    run([fetch, *options, suite, str(part), mirror], "debootstrap")
    found = sorted((part / "var/cache/apt/archives").glob(f"{only}*.deb"))
    # first what makes /lib a link into /usr, as the other packages take it to be
    for archive in sorted(found, key=lambda path: not path.name.startswith("base-files")):
        run([unpack, "-x", str(archive), str(tree)], f"unpacking {archive.name}")
    shutil.rmtree(part)
    tree.rename(place)
    return place


def qemu_version(path: str) -> tuple[int, ...]:
    """The version a qemu says it has."""
    found = re.search(r"version (\d+)\.(\d+)\.?(\d*)", run([path, "--version"], "qemu"))
    return tuple(int(number or 0) for number in found.groups()) if found else (0,)


def emulator(asked: str | None, work: Path, suite: str, mirror: str) -> str:
    """Path of a qemu that is new enough, or the one that was asked for."""
    if asked:
        return tool(asked)
    for name in ("qemu-aarch64-static", "qemu-aarch64"):
        path = shutil.which(name)
        if path and qemu_version(path) >= (OLDEST_QEMU,):
            return path
    own = run([tool("dpkg"), "--print-architecture"], "dpkg").strip()
    place = work / f"qemu-{suite}-{own}"
    tree = debian(place, suite, mirror, own, "qemu-user", only="qemu-user_")
    return str(tree / "usr/bin/qemu-aarch64")


def arm_python(tree: Path) -> tuple[Path, str]:
    """The tree's Python and its version, "3.13"."""
    found = [p for p in (tree / "usr/bin").glob("python3.*") if re.fullmatch(r"[\d.]+", p.name[6:])]
    if not found:
        raise CannotRunError(f"no Python in '{tree}': delete that folder and run this again")
    return found[0], found[0].name[6:]


def arm_packages(work: Path, python: str, requirements: Sequence[str]) -> Path:
    """The wheels of `requirements` for Arm, unpacked in one folder."""
    key = hashlib.sha256("\n".join([python, *requirements]).encode()).hexdigest()[:12]
    place = work / f"packages-{key}"
    if place.is_dir():
        return place
    say(f"fetching wheels for Python {python} on Arm: {', '.join(requirements[:3])}, ...")
    part = place.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    platforms = [f"--platform=manylinux_{number}_aarch64" for number in MANYLINUX]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
    pip += ["--no-compile", f"--python-version={python}", "--implementation=cp"]
    run([*pip, *platforms, "--target", str(part), *requirements], "pip for Arm")
    part.rename(place)
    return place


def second_environment(work: Path, requirements: Sequence[str]) -> str:
    """Python of an environment on this machine with the very versions of the Arm side."""
    key = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    place = work / f"here-{key}"
    if not place.is_dir():
        say(f"making an environment here with {', '.join(requirements[:3])}, ...")
        part = place.with_suffix(".part")
        run([sys.executable, "-m", "venv", "--clear", str(part)], "venv")
        run([str(part / "bin/python"), "-m", "pip", "install", "--quiet", *requirements], "pip")
        part.rename(place)  # its Python moves along; its scripts would not, and none is used
    return str(place / "bin/python")


def installed(package: str) -> str:
    """Version of a package in this environment.

    Raises:
        CannotRunError: It is not installed.
    """
    try:
        return str(metadata.version(package))
    except metadata.PackageNotFoundError:
        raise CannotRunError(f"needs {package} in this environment: pip install it") from None


def mirror_of(sources: Iterable[str]) -> str | None:
    """The first Debian mirror in the texts of apt's source files; security archives aside.

    Example:
        >>> mirror_of(["deb [arch=amd64] https://mirror.test/debian trixie main"])
        'https://mirror.test/debian'
    """
    for text in sources:
        for line in text.splitlines():
            found = re.match(r"(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(\S+/debian)/?(?:\s|$)", line)
            if found:
                return found[1]
    return None


def base_requirements(project: Mapping[str, Any], pins: Mapping[str, str]) -> list[str]:
    """The base package's requirements, with `pins` in the place of those they name."""
    wanted = dict(pins)
    rest = []
    for requirement in project["project"]["dependencies"]:
        name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower()
        # a model of another format runs without onnxruntime, but the base package asks for it
        if name not in wanted:
            rest.append(requirement)
    return sorted(f"{name}=={version}" for name, version in wanted.items()) + sorted(rest)


def apt_sources() -> list[str]:
    """The texts of this machine's apt source files."""
    folder = Path("/etc/apt")
    paths = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()]
