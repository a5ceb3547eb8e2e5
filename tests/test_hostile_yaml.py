"""A study file as an enemy, or a slip of the hand, would write it: one line, in no time."""

from __future__ import annotations

import time

import pytest

from clinipress.errors import RecipeError
from clinipress.study.read import load_study

GOOD = "name: x\nreference: {model: resnet18}\n"
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)
ARGUMENTS = "name: x\nreference: {model: {name: resnet18, arguments: {%s}}}\n"
FILES = {
    "nested deeply": "name: " + "[" * 5000 + "]" * 5000,
    "nested too deeply": ARGUMENTS % ("x: " + "[" * 40 + "]" * 40),
    "a list that holds itself": ARGUMENTS % "x: &a [*a]",
    "a mapping that holds itself": ARGUMENTS % "x: &a {b: *a}",
    "anchors that multiply": f"{BOMB}\n{ARGUMENTS % 'x: *a11'}",
    "half a letter": GOOD + 'intended_use: "\\ud800"\n',
    "half a letter in a key": ARGUMENTS % '"\\ud800": 1',
    "10^32": GOOD + f"seed: 1{'0' * 32}\n",
    "minus 10^32": GOOD + f"seed: -1{'0' * 32}\n",
    "5,000 digits": GOOD + f"seed: {'7' * 5000}\n",
    "an object": GOOD + "seed: !!python/object/apply:os.system [true]\n",
    "an impossible date": GOOD + "intended_use: 2026-99-99\n",
    "a list as a key": GOOD + "? [a]\n: 1\n",
    "not UTF-8": GOOD.encode() + b"intended_use: \xff\n",
    "control letters": GOOD + "intended_use: '\x00'\n",
}


@pytest.mark.parametrize("name", FILES)
def test_attack_hostile_yaml_is_one_line(tmp_path, name):
    text, path = FILES[name], tmp_path / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    began = time.process_time()
    with pytest.raises(RecipeError) as refused:
        load_study(path)
    assert time.process_time() - began < 5
    assert len(str(refused.value)) < 1000


def test_attack_a_file_of_200_mb_is_not_read(tmp_path):
    path = tmp_path / "study.yaml"
    with path.open("wb") as file:
        file.truncate(200 * 10**6)
    with pytest.raises(RecipeError, match="under 1 MB"):
        load_study(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (GOOD + "risk: low\nseed: 1\nrisk: critical\n", 5),
        (GOOD + "data:\n  positive: a\n  positive: b\n", 5),
        (GOOD + "steps:\n- {step: prune, ratio: 0.3, ratio: 0.5}\n", 4),
        (GOOD + "data: {class_map: {a: b, a: c}}\n", 3),
        (GOOD + "risk: low\n'risk': high\n", 4),
    ],
)
def test_f11_a_key_given_twice_is_refused(tmp_path, text, line):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=f"is given twice in line {line}"):
        load_study(path)


def test_f11_a_key_may_stand_in_two_places_and_over_what_is_merged(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        GOOD + "seed: 3\ndata:\n  input: &size {height: 32, width: 32, channels: 1}\n"
        "exports:\n- {precision: float16}\n- {precision: int8}\n"
    )
    assert [export.precision for export in load_study(path).exports] == ["float16", "int8"]
    path.write_text(
        GOOD + "data:\n  input:\n    <<: {height: 32, width: 32, channels: 1}\n    width: 64\n"
    )
    assert load_study(path).data.input.width == 64


@pytest.mark.parametrize(
    "value", ["[" * 5000, "{a: 1, a: 2}", "9" * 5000, "&a [*a]", "1" + "0" * 32]
)
def test_attack_the_same_on_the_command_line(tmp_path, value):
    path = tmp_path / "study.yaml"
    path.write_text(GOOD)
    with pytest.raises(RecipeError):
        load_study(path, (f"seed={value}",))
