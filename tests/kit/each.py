"""Many drawn cases in one test: the proof of each, without an id for each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

Test = Callable[..., None]


def each(names: str | tuple[str, ...], cases: Iterable[Any]) -> Callable[[Test], Test]:
    """Run a test once per case, as ``pytest.mark.parametrize`` does, but as one test.

    A failure names the case that it came from. Fixtures are made once for all cases: what a case
    must have for itself, such as a folder, belongs into ``pytest.mark.parametrize`` instead.
    """
    single = isinstance(names, str)
    names = (names,) if isinstance(names, str) else names
    every = [
        dict(zip(names, (case,) if single else case, strict=True)) for case in cases
    ]  # fmt: skip
    if not every:
        raise ValueError("no case: the test would prove nothing")

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(**arguments: Any) -> None:
            for case in every:
                try:
                    test(**case, **arguments)
                except Exception as error:
                    said = ", ".join(f"{name} = {value!r}" for name, value in case.items())
                    error.add_note(f"with {said}")
                    raise

        signature = inspect.signature(test)
        kept = [p for name, p in signature.parameters.items() if name not in names]
        del run.__wrapped__  # type: ignore[attr-defined]
        run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return run

    return decorate


def each_seed(seeds: Iterable[int]) -> Callable[[Test], Test]:
    """`each` of ``seed``."""
    return each("seed", seeds)
