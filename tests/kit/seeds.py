"""Many drawn cases in one test: the proof of each, without an id for each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def each_seed(seeds: Iterable[int]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test once per seed, passed as `seed`; a failure names the seed that it came from.

    Fixtures are made once for all seeds. What a seed must have for itself belongs into
    ``pytest.mark.parametrize`` instead.
    """
    every = tuple(seeds)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**arguments: Any) -> None:
            for seed in every:
                try:
                    test(seed=seed, **arguments)
                except Exception as error:
                    error.add_note(f"with seed {seed}")
                    raise

        signature = inspect.signature(test)
        kept = [p for name, p in signature.parameters.items() if name != "seed"]
        del run.__wrapped__  # type: ignore[attr-defined]
        run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return run

    return decorate
