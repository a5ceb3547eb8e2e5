"""What of a golden study is kept, and when two such pages say the same.

Facts that differ between two right runs are replaced (`normalised`, `normalised_text`). Of the
rest, keys, order, words, verdicts and counts must be equal; figures agree within these tolerances:
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A figure between 0 and 1, or of the order of 1. Float32 sums in another order move logits by some
# 1e-6 and what is counted not at all; one of 150 answers that is another moves a share by 6.7e-3.
FIGURE = 1e-3
# Of what is large (a loss, a signal-to-noise ratio), as a share of it.
RELATIVE = 1e-3
# Of the sizes of files, as a share: a toolchain's next version writes other names into a file.
SIZE = 0.03
# A rounded number in a text: its last digit may be one more or less.
LAST_DIGIT = 1.001
FINE = 4  # decimals from which on a number in a text is a figure like those of the records
DIGITS = 5  # significant, of the figures that are kept

TIMES = {
    *("created", "when", "seconds", "train_seconds", "wait_seconds", "seconds_per_image"),
    "data_wait_share",
}
SIZES = {"file_bytes", "arena_bytes", "bytes"}
FILES = {"path"}  # where a file lies in the store is the store's own affair
VERSION = re.compile(
    r"\b(clinipress|onnxruntime|onnx|openvino|nncf|executorch|ai-edge-litert|litert|tensorrt"
    r"|ai-edge-quantizer|litert-torch|tflite-micro|torch|torchao|torch-pruning|numpy)"
    r"([ =]+)[0-9][\w.+-]*"
)
DIGEST = re.compile(r"\b[0-9a-f]{12,64}\b")
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
DAY = re.compile(
    r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\+00:00|Z| UTC)?)?"
    rf"|\b\d{{1,2}} (?:{MONTHS}) \d{{4}}(?:, \d\d:\d\d UTC)?"
)
RUN_FACTS = (  # as the report writes them
    (re.compile(r"(sha256 )[0-9a-f]{8}…"), r"\1<digest>…"),
    (re.compile(r"^(threads: )\d+$", re.MULTILINE), r"\1<threads>"),
    (re.compile(r"(\*\*seconds:?\*\* )[\d.]+"), r"\1<time>"),
    (re.compile(r"(<version> in )[\d.]+\s(?:s|min|h)\b"), r"\1<time>"),
    (re.compile(r"^(- Durations: ).*", re.MULTILINE), r"\1<time>"),
)
NUMBER = re.compile(r"(?<![\w.])[-\u2212+]?\d+(?:\.\d+)?(?:e[-+]\d+)?")
UNIT = re.compile(r"\s?(?:[kKMG]i?B|bytes?)\b")
PERCENT = re.compile(r"\s?(?:%|points?\b)")


def normalised(node: Any, key: str = "", above: str = "") -> Any:
    """Plain data without what differs between two right runs; figures shortened."""
    if key in TIMES:
        return "<time>"
    if key == "threads" and above == "recipe":
        return "<threads>"
    if isinstance(node, dict):
        return {k: normalised(v, k, key) for k, v in node.items()}
    if isinstance(node, list):
        return [normalised(v, "", key) for v in node]
    if isinstance(node, float):
        return float(f"{node:.{DIGITS}g}")
    if isinstance(node, str):
        return normalised_text(node.rpartition("/")[2] if key in FILES else node)
    return node


def normalised_text(text: str) -> str:
    """A text without days, digests and versions."""
    text = VERSION.sub(r"\1\2<version>", DAY.sub("<day>", text))
    for pattern, instead in RUN_FACTS:
        text = pattern.sub(instead, text)
    return DIGEST.sub("<digest>", text)


def differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """Where two normalised trees disagree, one line each.

    Args:
        expected: Plain data or a text.
        found: Likewise.
        where: Path of both, for the lines.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        if list(expected) != list(found):
            gone = [k for k in expected if k not in found]
            new = [k for k in found if k not in expected]
            other = "" if gone or new else ", in another order"
            yield f"{where}: keys gone {gone}, new {new}{other}"
        for key in (k for k in expected if k in found):
            yield from differences(expected[key], found[key], f"{where}/{key}")
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{where}: {len(expected)} items, found {len(found)}"
        for number, (a, b) in enumerate(zip(expected, found, strict=False)):
            yield from differences(a, b, f"{where}/{number}")
    elif isinstance(expected, str) and isinstance(found, str):
        yield from _text_differences(expected, found, where)
    elif not _equal(expected, found, where.rpartition("/")[2]):
        yield f"{where}: {expected!r}, found {found!r}"


def _equal(expected: Any, found: Any, key: str) -> bool:
    """Two leaves: a count, a figure, a switch, or nothing."""
    numbers = (int, float)
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if not isinstance(expected, numbers) or not isinstance(found, numbers):
        return bool(expected == found)
    if key in SIZES:
        return abs(expected - found) <= SIZE * abs(expected)
    if isinstance(expected, int) and isinstance(found, int):
        return expected == found
    return abs(expected - found) <= FIGURE + RELATIVE * abs(expected)


def _text_differences(expected: str, found: str, where: str) -> Iterator[str]:
    """Line by line: words exactly, numbers within the tolerance of how they are written."""
    if expected == found:
        return
    before, after = expected.split("\n"), found.split("\n")
    if len(before) != len(after):
        yield f"{where}: {len(before)} lines, found {len(after)}"
    for number, (a, b) in enumerate(zip(before, after, strict=False), start=1):
        if not _same_line(a, b):
            yield f"{where}, line {number}:\n  - {a}\n  + {b}"


def _same_line(expected: str, found: str) -> bool:
    if expected == found:
        return True
    if NUMBER.sub("#", expected) != NUMBER.sub("#", found):
        return False
    pairs = zip(NUMBER.finditer(expected), NUMBER.finditer(found), strict=True)
    return all(_same_number(a, b) for a, b in pairs)


def _same_number(expected: re.Match[str], found: re.Match[str]) -> bool:
    """Whole numbers are counts and equal, unless they are sizes or shares in per cent."""
    if expected[0] == found[0]:
        return True
    rest = expected.string[expected.end() :]
    a, b = (float(one[0].replace("\u2212", "-")) for one in (expected, found))
    decimals = expected[0].partition("e")[0].partition(".")[2]
    size = UNIT.match(rest)
    if not decimals and not size and not PERCENT.match(rest) and "e" not in expected[0]:
        return False
    last = 10.0 ** -len(decimals)
    if "e" in expected[0]:
        last *= 10.0 ** int(expected[0].split("e")[1])
    floor = FIGURE if len(decimals) >= FINE or "e" in expected[0] else 0.0
    return abs(a - b) <= max(LAST_DIGIT * last, floor, (SIZE if size else RELATIVE) * abs(a))


def pages(run: Path) -> dict[str, Any]:
    """Name -> what is kept of a finished run: its result, its texts, the cards of its bundles."""
    found: dict[str, Any] = {}
    for path in sorted(run.glob("*.json")):
        if path.name == "result.json":
            found[path.name] = normalised(_json(path))
        if path.name == "result.schema.json":
            found[path.name] = _json(path)
    for path in sorted(run.glob("*.md")):
        found[path.name] = normalised_text(path.read_text(encoding="utf-8"))
    for path in sorted([*run.glob("bundle/card.json"), *run.glob("bundles/*/card.json")]):
        found[path.relative_to(run).as_posix().replace("/", "--")] = normalised(_json(path))
    return dict(sorted(found.items()))


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(found: dict[str, Any], folder: Path) -> None:
    """Keep the pages of a run as files, instead of those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, page in found.items():
        if isinstance(page, str):
            (folder / name).write_text(page, encoding="utf-8")
        else:
            text = "\n".join(_laid_out(packed(page, {})))
            (folder / name).write_text(text + "\n", encoding="utf-8")


LINE = 160  # characters of a part that is written on one line


def _laid_out(node: Any, before: str = "", after: str = "", deep: int = 0) -> Iterator[str]:
    """JSON of which a person can read the difference, without a line for every bracket."""
    text = json.dumps(node, ensure_ascii=False)
    if len(text) <= LINE or not isinstance(node, dict | list):
        yield " " * deep + before + text + after
        return
    opening, closing = "{}" if isinstance(node, dict) else "[]"
    parts = (
        [(json.dumps(k, ensure_ascii=False) + ": ", v) for k, v in node.items()]
        if isinstance(node, dict)
        else [("", v) for v in node]
    )
    yield " " * deep + before + opening
    for number, (name, part) in enumerate(parts, start=1):
        yield from _laid_out(part, name, "," * (number < len(parts)), deep + 1)
    yield " " * deep + closing + after


def read(folder: Path) -> dict[str, Any]:
    """The pages that are kept."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        is_text = path.suffix == ".md"
        if is_text:
            found[path.name] = path.read_text(encoding="utf-8")
        else:
            tree = _json(path)
            found[path.name] = unpacked(tree, tree)
    return found


SAME = "<same as>"
WORTH = 300  # characters from which on a repetition is left out


def packed(node: Any, seen: dict[str, str], where: str = "") -> Any:
    """A tree in which a part that came before is named by its path: histories repeat in files."""
    if not isinstance(node, dict | list):
        return node
    text = json.dumps(node)
    if len(text) >= WORTH:
        if text in seen:
            return {SAME: seen[text]}
        seen[text] = where
    if isinstance(node, dict):
        return {k: packed(v, seen, f"{where}\n{k}") for k, v in node.items()}
    return [packed(v, seen, f"{where}\n{i}") for i, v in enumerate(node)]


def unpacked(node: Any, whole: Any) -> Any:
    """The tree that `packed` was given."""
    if isinstance(node, dict):
        if list(node) == [SAME]:
            part = whole
            for key in node[SAME].split("\n")[1:]:
                part = part[int(key)] if isinstance(part, list) else part[key]
            return unpacked(part, whole)
        return {k: unpacked(v, whole) for k, v in node.items()}
    if isinstance(node, list):
        return [unpacked(v, whole) for v in node]
    return node
