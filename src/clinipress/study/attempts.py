"""What to try next when no low-precision file may be shipped: the policy's ladder, rung by rung.

int8 after training -> the worst layers in float -> quantization-aware training -> float16. Each
rung is an attempt that is measured and judged like anything the study names, with the reason it was
tried; what was made before stays, and the best of all is shipped.
"""

from __future__ import annotations

from dataclasses import dataclass

from clinipress.recipe.study import PRECISIONS, ExportRecipe
from clinipress.records.result import RiskLevel
from clinipress.study.choice import blocked
from clinipress.study.policy import next_steps
from clinipress.study.scorecard import Row, Scorecard

__all__ = ["Attempt", "next_attempt"]


@dataclass(frozen=True)
class Attempt:
    """One more thing to make.

    Attributes:
        train: Train for quantization first; the export is then of that network.
        export: The file to make.
        of: The row whose network it is made of.
        because: The rest of a sentence that begins with "Tried because".
    """

    train: bool
    export: ExportRecipe
    of: Row
    because: str

    @property
    def rung(self) -> str:
        """What is tried, in words."""
        return "quantization-aware training" if self.train else self.export.precision


def next_attempt(card: Scorecard, exports: tuple[ExportRecipe, ...]) -> Attempt | None:
    """The next rung, or None: a low-precision file may be shipped, or nothing is left to try.

    Nothing is tried where the network fails in float32 already: no precision mends that.

    Args:
        card: With costs measured.
        exports: Of the study; their calibration is kept.
    """
    made = [row for row in card.rows if row.of == "export"]
    low = [row for row in made if next_steps(_risk(card), (), row.file.card.precision)]
    if not low or any(blocked(card, row) is None for row in low):
        return None
    last = low[-1]
    whole = card.network(last)
    if whole.verdicts.get("validation") and whole.verdicts["validation"].status == "fail":
        return None
    calibration = next((e for e in exports if e.precision == "int8"), ExportRecipe())
    because = f"'{last.name}' may not be shipped: {blocked(card, last)}"
    for rung in next_steps(_risk(card), last.file.card.history, last.file.card.precision):
        train = rung == "qat"
        precision = "int8" if train else rung
        if precision not in PRECISIONS[calibration.format]:
            continue  # other toolchains have no "mixed", a microcontroller no float16
        plain = {"equalize": False, "smooth": None} if train else {}
        export = calibration.model_copy(update={"precision": precision} | plain)
        same = [row for row in made if row.file.card.precision == precision]
        # one float16 file is enough: training for 8 bits does not make a better one
        done = any(rung == "float16" or card.network(row) is whole for row in same)
        if train or not done:
            return Attempt(train, export, whole, because)
    return None


def _risk(card: Scorecard) -> RiskLevel:
    return card.runner.study.risk
