"""Processes that begin with their imports done: forked from one that waits for orders.

What is killed, or must share nothing with others, needs a process; importing PyTorch anew for each
takes longer than most of what they prove.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SERVER = """
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
    for number, path in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.chdir(order["cwd"])
    sys.argv = ["", *order["arguments"]]
    kind = runpy.run_path if order["program"].endswith(".py") else runpy.run_module
    kind(order["program"], run_name="__main__", **({"alter_sys": True} if kind is runpy.run_module else {}))
    sys.exit(0)
"""


@dataclass
class Process:
    """One of them: to be waited for, or killed."""

    pid: int
    server: subprocess.Popen[str]
    out: Path
    err: Path
    code: int | None = None

    def wait(self) -> int:
        """Its exit code; minus the signal where one ended it."""
        if self.code is None:
            self.code = int(self.server.stdout.readline())
        return self.code

    def kill(self) -> int:
        """Kill it, if it lives; its exit code."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()
