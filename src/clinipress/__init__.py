"""clinipress: make a medical-image classifier small and fast, and prove what was lost.

    >>> import clinipress
    >>> bundle = clinipress.load_bundle("bundle")            # doctest: +SKIP
    >>> bundle.classify("image.png").label                   # doctest: +SKIP
    'no_tumor'

Nothing heavy is imported before a name is used: the device needs no torch. Nothing reports to
anybody: what engines ask for that is answered here, before one can be imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clinipress.extras import refuse_reports
from clinipress.version import __version__

refuse_reports()

if TYPE_CHECKING:
    from clinipress.edge.bundle import load_bundle
    from clinipress.study.compress import compress
    from clinipress.study.external import compare, evaluate
    from clinipress.study.flow import run_study
    from clinipress.study.read import load_study

__all__ = [
    "__version__",
    "compare",
    "compress",
    "evaluate",
    "load_bundle",
    "load_study",
    "run_study",
]


_HOME = {
    "compare": "clinipress.study.external",
    "compress": "clinipress.study.compress",
    "evaluate": "clinipress.study.external",
    "load_bundle": "clinipress.edge.bundle",
    "load_study": "clinipress.study.read",
    "run_study": "clinipress.study.flow",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'clinipress' has no attribute '{name}'")
    import importlib

    try:
        return getattr(importlib.import_module(_HOME[name]), name)
    except ModuleNotFoundError as problem:  # studies need torch, which the device has not
        from clinipress.extras import missing_extra

        raise missing_extra(problem) or problem from None


def __dir__() -> list[str]:
    """The public names."""
    return __all__
