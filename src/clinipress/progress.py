"""How long work reports itself: one small protocol, silent unless the command line listens."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SILENT", "Progress", "Silent"]


class Progress(Protocol):
    """A listener to one task at a time; a task may start while another runs (nested bars)."""

    def start(self, what: str, total: int) -> None:
        """A task of `total` units begins."""

    def advance(self, what: str, units: int = 1, note: str = "") -> None:
        """`units` of the task `what` are done; `note` is a short text such as the current loss."""

    def finish(self, what: str, note: str = "") -> None:
        """The task `what` is over."""

    def say(self, text: str) -> None:
        """A line worth keeping, such as a verdict."""


class Silent:
    """Listens and says nothing."""

    def start(self, what: str, total: int) -> None:
        """Ignore."""

    def advance(self, what: str, units: int = 1, note: str = "") -> None:
        """Ignore."""

    def finish(self, what: str, note: str = "") -> None:
        """Ignore."""

    def say(self, text: str) -> None:
        """Ignore."""


SILENT: Progress = Silent()
