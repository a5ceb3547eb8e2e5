"""Jobs in order here, or on a local Ray where it is installed."""

import sys
from functools import partial

import pytest

from clinipress.errors import InputError, MissingExtraError
from clinipress.papers.cluster import LOCAL, run_jobs


def give(number: int) -> int:
    return number


def refuse() -> int:
    raise InputError("a number", "nothing")


def wrong() -> int:
    raise ZeroDivisionError


def test_jobs_run_in_order_and_a_refusal_stops_none():
    found = list(run_jobs({"a": partial(give, 1), "b": refuse, "c": partial(give, 3)}))
    assert [name for name, _ in found] == ["a", "b", "c"]
    assert found[0][1] == 1
    assert isinstance(found[1][1], InputError)
    assert found[2][1] == 3


def test_a_mistake_of_the_program_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        list(run_jobs({"a": wrong}))


def test_each_result_is_there_before_the_next_job_begins():
    begun = []

    def job(name):
        begun.append(name)
        return name

    results = run_jobs({"a": partial(job, "a"), "b": partial(job, "b")})
    next(results)
    assert begun == ["a"]


def test_without_ray_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"clinipress\[ray\]"):
        list(run_jobs({"a": partial(give, 1)}, LOCAL))
