"""A paper's table with the least that it must say, for the tests of what is drawn of it."""

from clinipress.papers.records import Table

LEAST = {"source": "s1", "title": "T", "citation": "C", "read": "R", "scale": "small"}


def table_of(**fields) -> Table:
    return Table(**LEAST | fields)
