"""Print the package's tree, each file with the first line of its docstring: the README's own.

python scripts/tree.py --write puts it into README.md; a test fails when the two differ.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "clinipress"
BEGIN, END = "## The tree\n\n```\n", "```\n"


def caption(path: Path) -> str:
    """First line of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].rstrip(".") if text else ""


def tree() -> str:
    """The captioned tree, files of the package before its folders."""
    lines = ["src/clinipress/"]
    for path in sorted(SOURCE.glob("*.py")):
        if not path.name.startswith("__"):
            lines.append(f"  {path.name:<20}{caption(path)}")
    for folder in sorted(p for p in SOURCE.iterdir() if (p / "__init__.py").is_file()):
        lines.append(f"  {folder.name + '/':<20}{caption(folder / '__init__.py')}")
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith("__"):
                lines.append(f"    {path.name:<18}{caption(path)}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tree, or write it into the README."""
    if "--write" not in sys.argv:
        print(tree(), end="")
        return
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN, 1)
    _, after = rest.split(END, 1)
    readme.write_text(before + BEGIN + tree() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
