import numpy as np
import pandas as pd
import pytest

from clinipress.evidence.columns import divide
from kit.each import each_seed


def one(values, index=None, name="column"):
    index = np.arange(len(values)) if index is None else np.asarray(index)
    found, left_out = divide({name: values}, index)
    return found[0] if found else left_out[name]


def named(column):
    return [column.values[code] if code >= 0 else None for code in column.codes]


@each_seed(range(20))
def test_ages_against_pandas(seed):
    random = np.random.default_rng(seed)
    ages = random.uniform(0, 99, 60).round(seed % 3)
    values = [f"{age:g}" for age in ages]
    expected = pd.cut(
        ages, [0, 40, 60, 80, np.inf], right=False, labels=["0-39", "40-59", "60-79", "80+"]
    )
    assert named(one(values, name="Patient_Age")) == list(expected)


@each_seed(range(20))
def test_quartiles_against_pandas(seed):
    random = np.random.default_rng(seed)
    numbers = random.gamma(2, 2, int(random.integers(20, 200))).round(6)
    column = one([str(number) for number in numbers])
    expected = pd.qcut(numbers, 4, labels=False)
    assert column.codes.tolist() == expected.tolist()
    assert column.values[0].startswith("up to ")
    assert column.values[-1].startswith("above ")


def test_edges_of_age_bands():
    found = one(["39", "40", "59.9", "60", "80", "0"], name="age")
    assert named(found) == ["0-39", "40-59", "40-59", "60-79", "80+", "0-39"]
    assert named(one(["045Y", "008M", "020D"], name="PatientAge: age")) == ["40-59"] + 2 * ["0-39"]


def test_a_word_with_age_inside_is_no_age():
    stages = [str(x) for x in np.linspace(0.5, 30, 40)]
    assert len(one(stages, name="stage").values) == 4
    assert one(stages, name="image").values[0].startswith("up to")


def test_missing_values_are_counted_and_are_no_group():
    column = one(["f", "", "m", "unknown", "NaN", "f"])
    assert (column.values, column.unknown) == (("f", "m"), 3)
    assert named(column) == ["f", None, "m", None, None, "f"]
    ages = one(["50", "", "70"], name="age")
    assert (named(ages), ages.unknown) == (["40-59", None, "60-79"], 1)


def test_few_numbers_are_codes_and_sorted_as_numbers():
    assert one(["10", "9", "2", "10"]).values == ("2", "9", "10")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([""] * 30, "no image has a value"),
        ([str(i) for i in range(30)], "whole numbers that name each image or patient"),
        ([f"patient {i}" for i in range(30)], "30 different values, more than 20"),
    ],
)
def test_what_divides_nothing_is_left_out_with_the_reason(values, why):
    assert one(values) == why


def test_numbers_of_patients_are_names():
    units = np.repeat(np.arange(30), 2)
    assert one([str(900 + u) for u in units], units).startswith("whole numbers that name")
    # a year is none: patients share it
    assert len(one([str(1990 + u % 25) for u in units], units).values) == 4


@pytest.mark.parametrize(
    "values", [["x"] * 20, ["7"] * 20, ["1.5"] * 11 + [str(x / 7) for x in range(11, 20)]]
)
def test_ties_and_constants_make_no_empty_group(values):
    column = one(values)
    assert set(column.codes.tolist()) == set(range(len(column.values)))


def test_no_column_and_no_image():
    assert divide({}, np.arange(3)) == ((), {})
    assert divide({"sex": ()}, np.arange(0)) == ((), {"sex": "no image has a value"})
