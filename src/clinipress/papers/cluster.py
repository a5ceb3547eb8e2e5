"""Where a table's studies run: one after the other here, or on a Ray cluster.

The only module that names Ray, and only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from clinipress.errors import ClinipressError, InputError
from clinipress.extras import require

__all__ = ["LOCAL", "run_jobs"]

T = TypeVar("T")
LOCAL = "local"


def run_jobs(
    jobs: Mapping[str, Callable[[], T]], ray: str | None = None
) -> Iterator[tuple[str, T | ClinipressError]]:
    """Run every job; one that fails on purpose gives its error instead, and the others go on.

    Args:
        jobs: Name -> what to do; with `ray` it must be picklable, and the files it names must be
            the same on every machine.
        ray: Address of a cluster, or "local"; None: here, in order.

    Yields:
        Name and result, as they are finished.

    Raises:
        MissingExtraError: Ray is asked for and not installed.
        InputError: There is no cluster at that address.
    """
    if ray is None:
        for name, job in jobs.items():
            yield name, _outcome(job)
        return
    yield from _on_ray(jobs, ray)


def _outcome(job: Callable[[], T]) -> T | ClinipressError:
    try:
        return job()
    except ClinipressError as problem:
        return problem


def _on_ray(
    jobs: Mapping[str, Callable[[], T]], address: str
) -> Iterator[tuple[str, T | ClinipressError]]:
    ray = require("ray", extra="ray")
    ours = not ray.is_initialized()
    try:
        if ours:
            where = {} if address == LOCAL else {"address": address}
            ray.init(**where, include_dashboard=False, log_to_driver=False)
        # one try each: a study that was cut off goes on when the table is run again
        remote = ray.remote(max_retries=0)(_outcome)
        waiting = {remote.remote(job): name for name, job in jobs.items()}
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(ready), ray.get(ready)
    except ConnectionError as problem:
        raise InputError(
            f"a Ray cluster at '{address}'", str(problem), "start one with 'ray start --head'"
        ) from None
    finally:
        if ours:
            ray.shutdown()
