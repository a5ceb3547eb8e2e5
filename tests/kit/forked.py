"""Processes that begin with their imports done: forked from one that waits for orders.

What is killed, or must share nothing with others, needs a process; to import PyTorch for each anew
takes longer than most of what they prove.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SECONDS = 600
WAITING = """
import gc, json, os, runpy, sys

exec(sys.argv[1])
gc.freeze()
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child:
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, order["out"]), (2, order["errors"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.chdir(order["cwd"])
    sys.argv = ["", *order["arguments"]]
    if order["program"].endswith(".py"):
        runpy.run_path(order["program"], run_name="__main__")
    else:
        runpy.run_module(order["program"], run_name="__main__", alter_sys=True)
    sys.exit(0)
"""


class Forked:
    """Starts one process after the other; a context, at whose end none is left."""

    def __init__(
        self,
        folder: Path,
        imports: str,
        python: Path | str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.count = folder, 0
        known = {**(environment or os.environ), "OMP_NUM_THREADS": "1"}  # no threads to fork beside
        self.process = subprocess.Popen(
            [python, "-c", WAITING, imports], env=known, cwd=folder, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def start(self, program: str, *arguments: object, cwd: Path | None = None) -> Started:
        """Start a module or the path of a script, when the one before has ended."""
        self.count += 1
        out, errors = (self.folder / f"{self.count}.{kind}" for kind in ("out", "errors"))
        order = {
            "program": program, "arguments": list(map(str, arguments)), "out": str(out),
            "errors": str(errors), "cwd": str(cwd or self.folder),
        }  # fmt: skip
        self.process.stdin.write(f"{json.dumps(order)}\n".encode())
        return Started(int(self.line()), self, out, errors)

    def run(self, program: str, *arguments: object, cwd: Path | None = None):
        """Run it to its end, as `subprocess.run` would."""
        started = self.start(program, *arguments, cwd=cwd)
        return subprocess.CompletedProcess(
            [program, *arguments],
            started.wait(),
            started.out.read_text(),
            started.errors.read_text(),
        )

    def line(self, seconds: float = SECONDS) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                raise TimeoutError(f"no end in {seconds} s")
            letter = os.read(self.process.stdout.fileno(), 1)
            if not letter:
                raise ChildProcessError(f"the waiting process ended: {self.process.wait()}")
            line += letter
        return line


@dataclass
class Started:
    """A process: to be waited for, or killed."""

    pid: int
    by: Forked
    out: Path
    errors: Path
    code: int | None = None

    def poll(self) -> int | None:
        """The exit code, minus the signal that ended it; None while it runs."""
        if self.code is None and select.select([self.by.process.stdout], [], [], 0)[0]:
            self.code = int(self.by.line())
        return self.code

    def wait(self) -> int:
        if self.code is None:
            self.code = int(self.by.line())
        return self.code

    def kill(self) -> int:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()
