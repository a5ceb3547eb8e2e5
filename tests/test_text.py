"""One word for one verdict, one style of numbers, whoever reads them."""

import re
from pathlib import Path

import pytest

from clinipress import text
from clinipress.evidence import gate
from clinipress.records.result import Interval
from clinipress.reporting.wording.numbers import change_interval

SOURCE = Path(text.__file__).parent


def test_a_verdict_has_one_word_and_one_module_that_spells_it():
    assert list(text.STATUS_WORDS) == ["pass", "fail", "inconclusive"]
    spelt = re.compile(r"""["'](INCONCLUSIVE|NOT PROVEN)["']""")
    named = {path.name for path in SOURCE.rglob("*.py") if spelt.search(path.read_text())}
    assert named == {"text.py"}
    # read on the terminal, on the page, in the cards
    for name in ("cli/terminal.py", "reporting/wording/numbers.py"):
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


def test_one_minus_sign_and_one_dash():
    assert text.fixed(-0.74, 1) == "\u22120.7"
    assert text.fixed(-0.04, 1) == "0.0"
    assert text.fixed(1234.5, 1) == "1,234.5"
    assert [text.signed(x, 1) for x in (0.3, -0.3, -0.04, 0.0)] == [
        "+0.3",
        "\u22120.3",
        "0.0",
        "0.0",
    ]
    change = Interval(value=-0.038, low=-0.15, high=0.074)
    (reason,) = gate.judge(gate.rules_for("medium")[:1], {"accuracy": change}).texts
    assert "95% CI of the change \u221215.0 to +7.4" in reason
    # as the page's tables have it
    assert change_interval(change) == "\u22123.8 (\u221215.0 to +7.4)"
