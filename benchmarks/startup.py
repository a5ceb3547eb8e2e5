"""How long `clinipress --help` takes from start to end, against an empty Python process.

    python benchmarks/startup.py [--runs 15]

Interleaved, so that a machine that drifts slows both; the floor is the interpreter itself.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "clinipress --help": [sys.executable, "-m", "clinipress", "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Print minimum, median and maximum of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(runs + 1):
        for name, command in COMMANDS.items():
            spent = seconds(command)
            if number:  # the first round fills the disk cache
                times[name].append(spent)
    for name, values in times.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name:20s} {low:.2f} {middle:.2f} {high:.2f} s (min, median, max of {runs})")


if __name__ == "__main__":
    main()
