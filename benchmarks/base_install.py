"""The base package alone: its size, its cold start and its memory, in an environment of its own.

    python benchmarks/base_install.py                         # a bundle of random weights, by torch
    python benchmarks/base_install.py --bundle B --image I    # one that is there
    python benchmarks/base_install.py --environment DIR ...   # kept, and used again the next time

Makes a new virtual environment, installs this checkout without extras, and measures what a device
would see: bytes on disk, whether torch is there, the time and peak memory of ``clinipress predict``
for one image, and its memory after 100 and 1,000 images read from standard input. Exit code 1 when
an aim is missed; --detail says where the bytes and the milliseconds go.

The peak is VmHWM, which a new process starts at zero; ``ru_maxrss`` would start at its parent's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from predict import build

ROOT = Path(__file__).resolve().parents[1]
MODEL, SIDE = "mobilenetv3_small_075", 224  # 4 MB in float32
FEW, MANY = 100, 1000
MEGABYTE = 1e6
# what is measured -> (unit, the most it may be)
AIMS = {
    "size on disk": ("MB", 250.0),
    "torch": ("modules", 0.0),
    "cold predict": ("s", 1.0),
    "peak memory": ("MB", 150.0),
    "memory added": ("MB", 2.0),
}
# runs the command line and says the largest memory of the process at its end, to a file
DRIVER = """
import atexit, sys
from pathlib import Path
target = sys.argv.pop(1)

@atexit.register
def say():
    status = Path("/proc/self/status").read_text()
    loaded = sum(name.split(".")[0] == "torch" for name in sys.modules)
    Path(target).write_text(f"{int(status.split('VmHWM:')[1].split()[0]) * 1024} {loaded}")

from clinipress.cli.commands import main
main()
"""


class Environment:
    """A virtual environment with nothing but the base package.

    Args:
        folder: Where; what is there is used as it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder, folder / "bin" / "python"
        if not self.python.exists():
            say(f"installing the base package of {ROOT.name}")
            # without pip inside, so that what is there is the package and what it needs
            run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
            pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install"]
            run([*pip, "--quiet", "--disable-pip-version-check", str(ROOT)])
        self.packages = next((folder / "lib").glob("python3.*/site-packages"))

    def sizes(self) -> Counter[str]:
        """Bytes on disk by the folder or file directly in site-packages, the largest first."""
        found: Counter[str] = Counter()
        for path in self.packages.rglob("*"):
            if path.is_file() and not path.is_symlink():
                found[path.relative_to(self.packages).parts[0]] += path.stat().st_blocks * 512
        return found

    def has_torch(self) -> bool:
        """True when torch can be imported there."""
        code = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is not None)"
        return bool(subprocess.run([self.python, "-I", "-c", code], check=False).returncode)


def say(line: str) -> None:
    """Progress, to standard error."""
    sys.stderr.write(line + "\n")


def run(command: list[str]) -> None:
    """Run a program to its end.

    Raises:
        SystemExit: It failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(command)}\n{done.stderr.strip()}")


def cold(environment: Environment, bundle: Path, image: Path, repeats: int) -> dict[str, float]:
    """One image in a new process, several times.

    Returns:
        Seconds: median, best, of processor time; largest peak in bytes; modules of torch loaded.
    """
    walls, processors, peaks, loaded = [], [], [], 0
    command = [str(environment.folder / "bin" / "clinipress"), "predict", str(bundle), str(image)]
    with tempfile.TemporaryDirectory() as work:
        target = Path(work) / "peak"
        driver = [str(environment.python), "-c", DRIVER, str(target), *command[1:]]
        for number in range(repeats + 1):
            began = time.perf_counter()
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=clean())
            _, status, usage = os.wait4(child.pid, 0)
            spent = time.perf_counter() - began
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                raise SystemExit(f"failed: {' '.join(command)}")
            if number:  # the first round fills the disk cache
                walls.append(spent)
                processors.append(usage.ru_utime + usage.ru_stime)
            subprocess.run(driver, stdout=subprocess.DEVNULL, check=True, env=clean())
            peak, modules = map(int, target.read_text().split())
            peaks.append(peak)
            loaded = max(loaded, modules)
    return {
        "wall": statistics.median(walls),
        "best": min(walls),
        "processor": statistics.median(processors),
        "peak": float(max(peaks)),
        "torch": float(loaded),
    }


def clean() -> dict[str, str]:
    """This process's variables without those that would lead Python to other packages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"PYTHONUNBUFFERED": "1"}


def streamed(environment: Environment, bundle: Path, images: list[Path]) -> dict[str, float]:
    """Resident bytes of one ``predict`` after `FEW` and after `MANY` images, and its rate.

    Paths are given one at a time on standard input, each after the answer to the one before.
    """
    command = [str(environment.folder / "bin" / "clinipress"), "predict", str(bundle), "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    found: dict[str, float] = {}
    began = 0.0
    with subprocess.Popen([*command, "--json"], env=clean(), **pipes) as child:  # type: ignore[call-overload]
        for number in range(MANY):
            child.stdin.write(f"{images[number % len(images)]}\n".encode())
            child.stdin.flush()
            if not child.stdout.readline():
                raise SystemExit(f"no answer to image {number + 1}")
            if number + 1 in (FEW, MANY):
                found[str(number + 1)] = float(resident(child.pid))
            if number + 1 == FEW:
                began = time.perf_counter()
        found["per second"] = (MANY - FEW) / (time.perf_counter() - began)
        child.stdin.close()
    return found


def resident(process: int) -> int:
    """Resident bytes of a process."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def slowest_imports(environment: Environment, bundle: Path, image: Path) -> Iterator[str]:
    """The modules whose own import takes longest in a ``predict``, as lines."""
    code = "from clinipress.cli.commands import main; main()"
    command = [environment.python, "-X", "importtime", "-c", code, "predict", bundle, image]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=clean(), check=False
    )
    rows = [line.split(":", 1)[1].split("|") for line in done.stderr.splitlines() if "|" in line]
    own: Counter[str] = Counter()
    for spent, _, name in rows:
        if spent.strip().isdigit():
            own[".".join(name.strip().split(".")[:2])] += int(spent)
    yield f"imports, {sum(own.values()) / 1000:.0f} ms in all (measuring them included)"
    for name, total in own.most_common(12):
        yield f"  {name:34s} {total / 1000:7.1f} ms"


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Everything; a dict that JSON can hold."""
    environment = Environment(options.environment or work / "environment")
    bundle = options.bundle or build(MODEL, work, SIDE)
    images = options.image or [bundle / "sample.png"]
    sizes = environment.sizes()
    once = cold(environment, bundle, images[0], options.repeats)
    stream = streamed(environment, bundle, images)
    values = {
        "size on disk": sizes.total() / MEGABYTE,
        "torch": once["torch"] + environment.has_torch(),
        "cold predict": once["wall"],
        "peak memory": once["peak"] / MEGABYTE,
        "memory added": (stream[str(MANY)] - stream[str(FEW)]) / MEGABYTE,
    }
    return {
        "kind": "clinipress base install",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "bundle": bundle.name,
        "model_mb": next(bundle.glob("model.*")).stat().st_size / MEGABYTE,
        "rows": {
            name: {"value": value, "unit": AIMS[name][0], "aim": AIMS[name][1]}
            for name, value in values.items()
        },
        "cold": once,
        "stream": stream,
        "sizes_mb": {name: size / MEGABYTE for name, size in sizes.most_common(12)},
        "imports": list(slowest_imports(environment, bundle, images[0])) if options.detail else [],
        "passed": all(value <= AIMS[name][1] for name, value in values.items()),
    }


def show(found: dict[str, Any], *, detail: bool) -> None:
    """Print the table."""
    print(f"base package, Python {found['python']}, a model of {found['model_mb']:.1f} MB")
    for name, row in found["rows"].items():
        mark = "met" if row["value"] <= row["aim"] else "MISSED"
        print(f"  {name:14s} {row['value']:8.2f} {row['unit']:8s} at most {row['aim']:g}: {mark}")
    once, stream = found["cold"], found["stream"]
    print(f"  cold predict: best {once['best']:.2f} s, processor time {once['processor']:.2f} s")
    print(
        f"  resident after {FEW} and {MANY} images: {stream[str(FEW)] / MEGABYTE:.1f} and "
        f"{stream[str(MANY)] / MEGABYTE:.1f} MB, {stream['per second']:.0f} images/s"
    )
    if detail:
        for name, size in found["sizes_mb"].items():
            print(f"  {name:34s} {size:7.1f} MB")
        print("  " + "\n  ".join(found["imports"]))


def main() -> int:
    """Measure and print; exit code 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--image", type=Path, nargs="+", help="one or several, read in turn")
    parser.add_argument("--environment", type=Path, help="where to keep the environment")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--detail", action="store_true", help="where bytes and milliseconds go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clinipress-base-") as work:
        found = measure(options, Path(work))
    show(found, detail=options.detail)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
