"""The written pages: links that lead somewhere, names that are there, and the map of the house."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "clinipress"
PAGES = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md", "benchmarks/README.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
LARGEST_README = 15_000
TREE = re.compile(r"[├└│]")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without its blocks of code, where `#` and brackets mean something else."""
    return "".join(text.split("```")[::2])


def anchors(text: str) -> set[str]:
    """What a heading can be linked by, as GitHub writes it."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def broken(text: str, folder: Path) -> list[str]:
    """Relative links of a page in `folder` that lead nowhere."""
    bad = []
    for target in LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = folder / name
        if not path.exists() or (
            anchor and anchor not in anchors(path.read_text(encoding="utf-8") if name else text)
        ):
            bad.append(target)
    return bad


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    assert broken(read(page), (ROOT / page).parent) == []


def test_the_check_of_links_can_fail(tmp_path):
    (tmp_path / "there.md").write_text("# A page, here\n\n```sh\n# no heading\n```\n")
    text = (
        "[a](there.md) [b](there.md#a-page-here) ![c](https://example.org/c.png) "
        "[d](gone.md) [e](there.md#no-heading) [f](#nothing)\n```\n[g](gone.md)\n```\n"
    )
    assert broken(text, tmp_path) == ["gone.md", "there.md#no-heading", "#nothing"]


def test_the_readme_stays_short_and_has_no_tree():
    assert len((ROOT / "README.md").read_bytes()) < LARGEST_README
    assert TREE.search(read("README.md")) is None
    assert set(re.findall(r"\]\((docs/\w+\.md)\)", read("README.md"))) == {
        page for page in PAGES if page.startswith("docs/")
    }


def missing_modules(text: str) -> list[str]:
    """Dotted names of modules in code that are not in the source."""
    bad = []
    for name in re.findall(r"`(clinipress(?:\.[a-z_0-9]+)+)", text):
        path = SOURCE.parent.joinpath(*name.split("."))
        if not path.is_dir() and not path.with_suffix(".py").is_file():
            bad.append(name)
    return bad


@pytest.mark.parametrize("page", [page for page in PAGES if page != "LOG.md"])
def test_modules_that_are_named_are_there(page):
    assert missing_modules(read(page)) == []


def test_the_check_of_modules_can_fail():
    assert missing_modules("`clinipress.gone.x` `clinipress.records.store`") == [
        "clinipress.gone.x"
    ]


def public_names() -> set[str]:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return set(ast.literal_eval(value)) - {"__version__"}


@pytest.mark.parametrize(
    ("page", "start"), [("README.md", "The public names are"), ("CHANGELOG.md", "The public ones")]
)
def test_the_public_names_are_told(page, start):
    (paragraph,) = re.findall(rf"{start}[^.]*\.", read(page))
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", paragraph))))
    assert told - {"clinipress", "from", "import"} == public_names()


def section(heading: str) -> str:
    """A part of CONTRIBUTING.md, up to the next heading of its rank."""
    return read("CONTRIBUTING.md").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def mapped() -> list[tuple[int, str]]:
    """Floor and name of every room on the map, in the map's order."""
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \|", section("The map of the house"), re.MULTILINE)
    return [(int(floor), room) for floor, room in rows]


def rooms() -> set[str]:
    """Folders and modules of the source, without what starts with two underscores."""
    names = {path.parent.name + "/" for path in SOURCE.glob("*/__init__.py")}
    return names | {path.name for path in SOURCE.glob("[!_]*.py")}


def floors() -> dict[str, int]:
    """The order that `test_layers.py` enforces: room -> number of its floor, from 1."""
    tree = ast.parse((ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS"
    )
    return {room: n for n, group in enumerate(ast.literal_eval(value), 1) for room in group}


def test_the_map_names_every_room_and_no_other():
    names = [room for _, room in mapped()]
    assert len(names) == len(set(names))
    assert set(names) == rooms()


def test_the_map_has_the_order_that_is_enforced():
    order = floors()
    assert mapped() == sorted(
        ((order[re.sub(r"/|\.py", "", room)], room) for _, room in mapped()), key=lambda row: row[0]
    )


def test_files_of_the_five_changes_are_there():
    text = section("Five changes, and the files each touches")
    rows = re.findall(r"^\| a .+ \| \d \| .+$", text, re.MULTILINE)
    assert len(rows) == 5
    named = set(re.findall(r"`([a-z_]+/[\w/]+\.py)`", "\n".join(rows)))
    assert len(named) > 8
    patterns = {name for name in named if "NAME" in name}
    gone = {name for name in named - patterns if not (SOURCE / name).is_file()}
    assert gone == set()
    for name in patterns:  # the room that the new file goes to, and a file of that name in it
        assert list(SOURCE.glob(name.replace("NAME", "*"))), name
