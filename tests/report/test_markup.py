from __future__ import annotations

from clinipress.reporting.drawing.markup import Markup, join, tag


def test_text_and_attributes_are_escaped_and_markup_is_not() -> None:
    made = tag("td", "<b>", Markup("<i></i>"), title='"><script>')
    assert made == '<td title="&quot;&gt;&lt;script&gt;">&lt;b&gt;<i></i></td>'


def test_none_is_left_out_and_lists_are_flattened() -> None:
    assert join("a", None, ["b", [Markup("<br>"), None]], Markup("")) == "ab<br>"
    assert tag("p", None, class_=None) == "<p></p>"


def test_names_of_attributes() -> None:
    made = tag("td", "x", attributes={"data-label": "a & b"}, http_equiv="c", name_="d")
    assert made == '<td http-equiv="c" name="d" data-label="a &amp; b">x</td>'


def test_elements_without_content_are_not_closed() -> None:
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'
