"""What a recipe takes from outside the study file, by content: weights, and a user's own source.

A path says where something is, not what: the file behind it may change between two runs. Nothing
here runs the code that it reads.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from clinipress.errors import ModelError
from clinipress.models.packages import package_weights
from clinipress.recipe.steps import ModelRecipe, OnnxRecipe
from clinipress.records.store import digest_of, sha256_of

__all__ = ["IN_FOLDERS", "Hashed", "outside", "source_digest", "weights_path"]

PACKAGE = "package:"
# a MONAI bundle's weights, a model of the Hugging Face hub
IN_FOLDERS = ("models/model.pt", "model.safetensors", "pytorch_model.bin")

# factory -> digest of its source when this process first asked: what is imported stays as it was
_FIRST: dict[str, str] = {}


# (path, size, time it was written) -> sha256, within one run: a file that is written over is read
# again, and the next run believes none of it
Hashed = dict[tuple[str, int, int], str]


def outside(recipe: Any, hashed: Hashed | None = None) -> dict[str, str]:
    """Path or "module:function" -> sha256, of every network in a recipe or a part of one.

    Files in `hashed` are not read again; those read now are added to it.

    Raises:
        ModelError: A file is not there, or source was changed after it had been imported.
    """
    contents = {}
    hashed = {} if hashed is None else hashed
    for model in _networks(recipe):
        if isinstance(model, OnnxRecipe):
            if not Path(model.file).is_file():
                raise ModelError("an ONNX file", f"nothing at '{model.file}'", "check the path")
            contents[model.file] = sha256_of(Path(model.file))
            continue
        for path in (model.pretrained, model.checkpoint):
            if isinstance(path, str):
                file = weights_path(path)
                about = file.stat()
                key = (path, about.st_size, about.st_mtime_ns)
                if key not in hashed:
                    hashed[key] = sha256_of(file)
                contents[path] = hashed[key]
        if model.factory is not None:
            contents[model.factory] = source_digest(model.factory)
    return contents


def weights_path(value: str) -> Path:
    """The file that `model.pretrained` or `model.checkpoint` means.

    A path; a folder that MONAI (a bundle) or Hugging Face keeps a model in; or "package:NAME".

    Raises:
        ModelError: There is none.
    """
    if value.startswith(PACKAGE):
        return package_weights(value.removeprefix(PACKAGE))
    path = Path(value)
    inside = next((path / name for name in IN_FOLDERS if (path / name).is_file()), path)
    if not inside.is_file():
        what = "a folder without weights" if path.is_dir() else "nothing"
        fix = f"in a folder it is {' or '.join(IN_FOLDERS)}" if path.is_dir() else "check the path"
        raise ModelError("a file with weights", f"{what} at '{value}'", fix)
    return inside


def source_digest(factory: str | None) -> str:
    """sha256 over the source of "module:function": its package or file, and what that imports.

    What is installed counts where the factory itself is in it; else its version does.

    Raises:
        ModelError: The source was changed after this process had imported it.
    """
    if factory is None:
        return ""
    top = factory.partition(":")[0].partition(".")[0]
    hashes: dict[str, dict[str, str]] = {}
    waiting = [top]
    while waiting:
        name = waiting.pop()
        spec = _spec(name)
        if name in hashes or spec is None or (name != top and _is_installed(spec)):
            continue
        files = list(_files(spec))
        hashes[name] = {path.as_posix(): sha256_of(path) for path in files}
        if not _is_installed(spec):
            waiting += sorted({n for path in files for n in _imports(path)})
    # by name and content: a folder that was moved holds the same source
    digest = digest_of({name: sorted(files.values()) for name, files in hashes.items()})
    if top not in sys.modules:
        _FIRST[factory] = digest
    elif _FIRST.setdefault(factory, digest) != digest:
        raise ModelError(
            f"the source of '{factory}' as this process imported it",
            "files that were changed since",
            "start a new process (in a notebook: restart the kernel)",
        )
    return digest


def _networks(part: Any) -> Iterator[ModelRecipe | OnnxRecipe]:
    if isinstance(part, ModelRecipe | OnnxRecipe):
        yield part
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from _networks(getattr(part, name))
    elif isinstance(part, list | tuple):
        for member in part:
            yield from _networks(member)


def _spec(name: str) -> ModuleSpec | None:
    """Where a module would be imported from: the current folder first, as factories are."""
    if name in sys.stdlib_module_names or name == "clinipress":
        return None
    try:
        return PathFinder.find_spec(name, [str(Path.cwd()), *sys.path])
    except (ImportError, ValueError):
        return None


def _is_installed(spec: ModuleSpec) -> bool:
    homes = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    where = next(iter(spec.submodule_search_locations or ()), spec.origin)
    return where is not None and any(home in Path(where).resolve().parents for home in homes)


def _files(spec: ModuleSpec) -> Iterator[Path]:
    for folder in spec.submodule_search_locations or ():
        yield from sorted(path for path in Path(folder).rglob("*.py") if path.is_file())
    if not spec.submodule_search_locations and spec.origin and Path(spec.origin).is_file():
        yield Path(spec.origin)


def _imports(path: Path) -> Iterator[str]:
    """Top-level names that a source file imports; none of what is no Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
