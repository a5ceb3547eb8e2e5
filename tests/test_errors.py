import inspect
import pickle

import pytest

from clinipress import errors

ALL = [getattr(errors, name) for name in errors.__all__]


def test_the_drawn_tree_names_every_error():
    drawn = errors.__doc__ or ""
    assert [name for name in errors.__all__ if name not in drawn] == []
    defined = {
        n for n, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("kind", ALL)
def test_one_line_and_picklable(kind):
    made = (
        kind("reading\nDICOM", "dicom")
        if kind is errors.MissingExtraError
        else kind("a\nb", "c", "d")
    )
    assert "\n" not in str(made)
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), str(again)) == (type(made), str(made))


def test_grammar():
    text = str(errors.InputError("a folder", "a file", "pass the folder"))
    assert text == "expected a folder, got a file: pass the folder"
    assert str(errors.MissingExtraError("reading DICOM", "dicom")).endswith(
        "pip install 'clinipress[dicom]'"
    )


def test_no_control_character_reaches_the_terminal():
    said = str(errors.InputError("a name", "'\x1b[31mred\x07\u202e'"))
    assert said == "expected a name, got '?[31mred??'"
