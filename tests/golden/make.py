"""Make the golden studies' kept files anew.

    python tests/golden/make.py            the expected pages, by the kept weights and times
    python tests/golden/make.py --train    the weights and times too: only where a study changes
    ... NAME                               of one study alone

It prints what changed against the pages that were there. Look at it before committing: a line
that nobody meant to change is a fault.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
EXPECTED = HERE / "expected"
# OpenVINO's 8-bit kernels saturate on x86 processors without VNNI and not on others: a file's
# logits differ by half a unit. Held to AVX2, all processors compute alike. Read by the library when
# it is loaded, hence a process for the golden studies alone.
PINNED = {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}


def run(name: str, folder: Path, *, threads: int = 1, train: bool = False) -> Path:
    """Run a golden study below `folder`; its run folder."""
    import drawing
    import injection
    import studies
    from kit.quick import remember_libraries

    remember_libraries()
    tree = studies.TREES[name]() | {"threads": threads}
    data = drawing.draw(folder / f"{name}-images", tree["data"]["input"]["height"])
    out = folder / name
    with injection.injected(name, train=train), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the toolchains' own
        injection.run_study(injection.parsed(tree), data, out)
    return out


def changes(name: str, pages: dict[str, Any]) -> list[str]:
    """What differs from the pages that are kept, beyond the tolerances."""
    import comparing

    folder = EXPECTED / name
    kept = comparing.read(folder) if folder.is_dir() else {}
    return list(comparing.differences(kept, pages, name))


def main() -> None:
    import comparing
    import studies

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*studies.TREES, []])
    parser.add_argument("--train", action="store_true", help="train and time anew, too")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a change")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    changed = False
    for name in asked.names or studies.TREES:
        with tempfile.TemporaryDirectory(prefix="golden-") as folder:
            out = run(name, Path(folder), threads=asked.threads, train=asked.train)
            pages = comparing.pages(out)
        lines = changes(name, pages)
        changed |= bool(lines)
        sys.stdout.write("\n".join(lines or [f"{name}: nothing changed"]) + "\n")
        if not asked.check:
            comparing.write(pages, EXPECTED / name)
    if asked.check and changed:
        sys.exit(1)


if __name__ == "__main__":
    os.environ.update(PINNED)
    main()
