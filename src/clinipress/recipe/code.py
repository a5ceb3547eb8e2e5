"""Whose code a study runs: the functions that files name, and who permitted them.

A network may be built by a user's own "module:function". Named in a file, a study or the card of a
candidate folder, it runs only where somebody at the keyboard said so: a file that came by mail is
read, not run. What is no network's function, Python's own library and torch's, is never run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from clinipress.errors import ModelError
from clinipress.recipe.steps import DistillStep, ModelRecipe

__all__ = [
    "Permission",
    "check_arguments",
    "check_code",
    "check_function",
    "code_behind",
    "code_in",
    "code_of",
    "what_runs",
]

Part = TypeVar("Part", bound=BaseModel)
# True: whatever a file names; False: nothing; or the functions that may run.
Permission = bool | Collection[str]

OURS = frozenset(
    (
        *("clinipress.models.ofa:ofa_595", "clinipress.models.ofa:ofa_mobilenetv3"),
        *("clinipress.models.ofa:ofa_supernet", "clinipress.models.nets.nasnet:nasnet_a_mobile"),
    )
)
# Packages that hold no function to make a classifier, but some that run what they are given
# (``torch.hub:load``, ``os:system``, ``builtins:exec``).
NEVER = frozenset(("torch", "clinipress", *sys.stdlib_module_names, *sys.builtin_module_names))
# Its functions build networks and do nothing else, but fetch weights where one of these asks
BUILDERS, FETCHING = "torchvision.models", ("weights", "weights_backbone", "pretrained")


def code_of(recipe: BaseModel) -> tuple[str, ...]:
    """The users' functions that a study, or a part of one, names itself."""
    return _users(model.factory for model in _parts(recipe, ModelRecipe))


def code_behind(recipe: BaseModel) -> tuple[str, ...]:
    """Those, and the ones that the candidate folders name whose networks it learns from."""
    teachers = [path for step in _parts(recipe, DistillStep) for path in step.teachers or ()]
    folders = [Path(path) for path in teachers if isinstance(path, str)]
    return _users((*code_of(recipe), *(name for path in folders for name in code_in(path))))


def code_in(folder: Path) -> tuple[str, ...]:
    """The user's function that a candidate folder's card names, if any; nothing for other files."""
    if not (folder / "weights.safetensors").is_file():
        return ()
    try:
        model = json.loads((folder / "card.json").read_bytes())["model"]
        return _users([str(model["factory"])] if model["factory"] else ())
    except (OSError, ValueError, KeyError, TypeError):  # told when it is opened
        return ()


def check_code(names: Iterable[str | None], where: str, allowed: Permission) -> None:
    """Refuse users' functions that nobody permitted, and those that are never run.

    Args:
        names: "module:function", ours among them; None is passed over.
        where: What names them, for the message.
        allowed: Who may run.

    Raises:
        ModelError: One may not.
    """
    for name in _users(names):
        if name.partition(":")[0].partition(".")[0] in NEVER:
            raise _never(name)
        if allowed is True or (allowed is not False and name in allowed):
            continue
        raise ModelError(
            f"{where} that runs no code of yours unasked",
            f"the factory '{name}'",
            "look at that function, then add --allow-code (in Python: allow_code=True)",
        )


def check_function(name: str, function: Callable[..., Any]) -> None:
    """Refuse a function that is another's under a name of its own (``from torch.hub import load``).

    Raises:
        ModelError: It is one that is never run.
    """
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    home = getattr(function, "__module__", None) or ""
    # an instance says where its class is from; its call is the user's to write
    written = isinstance(function, type) or hasattr(function, "__name__")
    if name not in OURS and written and home.partition(".")[0] in NEVER:
        raise _never(f"{home}:{getattr(function, '__qualname__', '')}")


def check_arguments(name: str, arguments: Collection[str]) -> None:
    """Refuse arguments by which a builder of torchvision's fetches weights.

    Raises:
        ModelError: There is one.
    """
    fetching = [key for key in FETCHING if key in arguments]
    if name.partition(":")[0] == BUILDERS and fetching:
        raise ModelError(
            f"arguments of the network '{name}' itself",
            f"'{fetching[0]}', by which torchvision fetches weights",
            "give a local file as model.pretrained or model.checkpoint",
        )


def what_runs(names: Collection[str]) -> str:
    """One sentence on code that is about to run; "" for none."""
    if not names:
        return ""
    functions = ", ".join(map(repr, names))  # names from files: no control character gets through
    return (
        f"running code of yours: {functions}, looked for in the current folder "
        f"({str(Path.cwd())!r}) and among the installed packages"
    )


def _never(name: str) -> ModelError:
    return ModelError(
        "a factory that makes a network",
        f"'{name}', which is never run",
        "write a module with a function of your own, for example my_nets:make",
    )


def _users(names: Iterable[str | None]) -> tuple[str, ...]:
    """Those that are code of somebody's own; torchvision's builders, a package's, are not."""
    ours = (name for name in names if name and name not in OURS)
    return tuple(dict.fromkeys(n for n in ours if n.partition(":")[0] != BUILDERS))


def _parts(value: Any, kind: type[Part]) -> Iterator[Part]:
    """Every part of a recipe that is of one kind, at any depth."""
    if isinstance(value, kind):
        yield value
    if isinstance(value, BaseModel):
        value = tuple(getattr(value, name) for name in type(value).model_fields)
    for entry in value if isinstance(value, tuple | list) else ():
        yield from _parts(entry, kind)
