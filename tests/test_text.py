"""One word for one verdict, one style of numbers, whoever reads them."""

import re
from pathlib import Path

import pytest

from clinipress import text

SOURCE = Path(text.__file__).parent


def test_a_verdict_has_one_word_and_one_module_that_spells_it():
    assert list(text.STATUS_WORDS) == ["pass", "fail", "inconclusive"]
    spelt = re.compile(r"""["'](INCONCLUSIVE|NOT PROVEN)["']""")
    named = {path.name for path in SOURCE.rglob("*.py") if spelt.search(path.read_text())}
    assert named == {"text.py"}
    # read on the terminal, on the page, in the cards
    for name in ("terminal.py", "report/formats.py"):
        assert "from clinipress.text import" in (SOURCE / name).read_text()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("tests", "tests."),
        ("Not for any clinical use.", "Not for any clinical use."),
        ("For whom?\n", "For whom?"),
        ("the class \u201cother.\u201d", "the class \u201cother.\u201d"),
        ("glioma (grade 4)", "glioma (grade 4)."),
    ],
)
def test_a_users_own_full_stop_is_not_doubled(said, shown):
    assert text.sentence(said) == shown
