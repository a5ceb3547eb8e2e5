"""The steps of a risk level, shortened to the time there is: what `compress` does within minutes.

Times are estimates from a few training steps measured on this machine, on the safe side; a study
that takes longer says so at its end. What does not fit is left out and named, the costliest first:
further distillation, then pruning, then quantization-aware training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clinipress.recipe.techniques import technique_of
from clinipress.records.result import RiskLevel
from clinipress.study.policy import POLICIES
from clinipress.text import joined

__all__ = ["Pace", "Timetable", "in_time", "schedule", "student_schedule"]

MARGIN = 0.8  # of the time that is planned for: machines are busy, and the last part is not known
# Of a plain training step: fake quantization; a network whose half is cut, on the way there
QUANTIZATION_AWARE, HALF_CUT, CUT = 1.6, 0.8, 0.6
VIEWS = 8  # of the teacher's answers
# Seconds of a study besides training: start, report; a decoded image; a file; a judged candidate
START, DECODING, FILE, CANDIDATE = 40.0, 0.01, 25.0, 15.0
LEVELS = 10 * 5  # each image under stress is disturbed so often
STRESSED, FEWEST_STRESSED = 200, 40  # images under stress as a rule, and below which there are none
MASKED = 3000  # images under saliency's masks
FILES_TIME = 0.5  # of a framework's, in a runtime, or less
TRIALS = 8 * 200  # images of the trials of a calibrated file
# Epochs of a step -> the fewest that are worth it
USUAL: Mapping[str, tuple[int, int]] = {"prune": (15, 6), "distill": (30, 8), "qat": (15, 3)}
STUDENT = (60, 20)  # the same of one that learns from random weights
LEAVE_FIRST = ("distill", "prune", "qat")
PRUNED: Mapping[str, Any] = {"step": "prune", "ratio": 0.5, "rounds": 5}
FURTHER: Mapping[str, Any] = {"step": "distill"}
AWARE: Mapping[str, Any] = {"step": "qat"}


@dataclass(frozen=True)
class Pace:
    """What a network takes on this machine, and how much of it there is to do.

    Attributes:
        learning: Seconds of an image in training, forward and backward.
        answering: Seconds of an image that is answered.
        train: Images to train on.
        others: Images of validation and test together.
        files: Files to make.
    """

    learning: float
    answering: float
    train: int
    others: int
    files: int

    @property
    def besides(self) -> float:
        """Seconds of everything but training."""
        images = self.train + self.others
        disturbed = LEVELS * STRESSED + MASKED
        answered = self.others * (2 + self.files) + 2 * disturbed + self.files * TRIALS
        judged = CANDIDATE * (2 + self.files)
        answers = FILES_TIME * answered * self.answering
        return START + DECODING * images + FILE * self.files + judged + answers

    @property
    def stressed(self) -> float:
        """Seconds of an image under stress, original and file, at every level."""
        return FILES_TIME * 2 * LEVELS * self.answering

    def epoch(self, step: str) -> float:
        """Seconds of one epoch of a step, with the validation that belongs to it."""
        factor = {"prune": HALF_CUT, "distill": CUT, "qat": QUANTIZATION_AWARE}[step]
        return factor * self.learning * self.train + 0.5 * self.answering * self.others

    @property
    def teaching(self) -> float:
        """Seconds of the teacher's answers, computed once."""
        return VIEWS * self.train * self.answering


@dataclass(frozen=True)
class Timetable:
    """What is done, and what is not.

    Attributes:
        steps: Of the study, as a recipe writes them.
        seconds: What all of it is expected to take.
        notes: What was shortened or left out and why, one sentence each.
        stress: Images under stress.
    """

    steps: tuple[dict[str, Any], ...]
    seconds: float
    notes: tuple[str, ...] = ()
    stress: int = STRESSED


def schedule(
    risk: RiskLevel,
    costs: Pace,
    minutes: float,
    *,
    int8: bool = True,
    barred: Mapping[str, str] | None = None,
) -> Timetable:
    """The steps of a risk level within a time.

    Args:
        risk: Its policy says which steps are allowed.
        costs: Of the network.
        minutes: For the whole study.
        int8: Whether a device of the study runs 8-bit files.
        barred: Step -> why this network cannot have it.
    """
    allowed = POLICIES[risk].allowed
    barred = barred or {}
    wanted = [
        step
        for step, name in (("prune", "prune-iterative"), ("distill", "distill"), ("qat", "qat"))
        if name in allowed and step not in barred and (step != "qat" or int8)
    ]
    if "prune" not in wanted:  # the same network again has nothing to learn back
        wanted = [step for step in wanted if step != "distill"]
    notes = [f"no {technique_of(step).title}: {why}" for step, why in barred.items()]
    available = MARGIN * 60 * minutes - costs.besides
    left_out = []
    while wanted and _training(wanted, costs, 0) > available:
        first = next(step for step in LEAVE_FIRST if step in wanted)
        wanted.remove(first)
        left_out.append(first)
    if left_out:
        least = (costs.besides + _training([*wanted, *left_out], costs, 0)) / MARGIN / 60
        titles = joined([technique_of(step).title for step in left_out])
        notes.append(f"no {titles}: {minutes:g} minutes are too few, {least:.0f} would do")
    share = 1.0
    if wanted:
        least, whole = _training(wanted, costs, 0), _training(wanted, costs, 1)
        share = min(1.0, (available - least) / max(whole - least, 1e-9))
    if wanted and share < 1:
        full = (costs.besides + _training(wanted, costs, 1)) / MARGIN / 60
        notes.append(
            f"fewer epochs than usual, to end in time; all of them take {full:.0f} minutes"
        )
    steps = tuple(_step(step, _epochs(step, share)) for step in wanted)
    seconds = costs.besides + _training(wanted, costs, share)
    return in_time(Timetable(steps, seconds, tuple(notes)), costs, minutes)


def in_time(planned: Timetable, costs: Pace, minutes: float) -> Timetable:
    """The same with fewer images under stress where the whole would take longer than there is.

    Of a large network they are what takes longest; what is left out is said.
    """
    over = planned.seconds - MARGIN * 60 * minutes
    if over <= 0:
        return planned
    fewer = min(STRESSED, math.ceil(over / costs.stressed))
    left = STRESSED - fewer
    if left < FEWEST_STRESSED:
        fewer, left = STRESSED, 0
    what = f"{left} images under stress instead of {STRESSED}" if left else "no images under stress"
    return replace(
        planned,
        seconds=planned.seconds - fewer * costs.stressed,
        notes=(*planned.notes, f"{what}, to end in time"),
        stress=left,
    )


def student_schedule(name: str, costs: Pace, minutes: float) -> Timetable:
    """A student of a file of which there is no network, within a time; `costs` are the student's.

    It learns from random weights, prunes no further, and is trained for quantization.
    """
    available = MARGIN * 60 * minutes - costs.besides - costs.teaching
    epoch = costs.learning * costs.train + 0.5 * costs.answering * costs.others
    aware = USUAL["qat"][1]
    left = available - aware * costs.epoch("qat")
    epochs = min(STUDENT[0], int(left / epoch))
    if epochs < STUDENT[1]:
        least = costs.besides + costs.teaching + STUDENT[1] * epoch + aware * costs.epoch("qat")
        needed = least / MARGIN / 60
        note = f"no distillation: {minutes:g} minutes are too few, {needed:.0f} would do"
        return in_time(Timetable((), costs.besides, (note,)), costs, minutes)
    student = {"step": "distill", "student": name, "train": {"epochs": epochs, "batch_size": 16}}
    spent = costs.besides + costs.teaching + epochs * epoch + aware * costs.epoch("qat")
    return Timetable((student, _step("qat", aware)), spent)


def _epochs(step: str, share: float) -> int:
    usual, fewest = USUAL[step]
    return fewest + int(share * (usual - fewest))


def _training(steps: Sequence[str], costs: Pace, share: float) -> float:
    taught = costs.teaching if steps else 0.0
    return taught + sum(_epochs(step, share) * costs.epoch(step) for step in steps)


def _step(step: str, epochs: int) -> dict[str, Any]:
    warm_up = min(1.0, epochs / 8)
    train: dict[str, Any] = {"epochs": epochs, "warmup_epochs": warm_up}
    if step == "prune":
        rounds = max(2, min(int(PRUNED["rounds"]), epochs // 3))
        return {**PRUNED, "rounds": rounds, "train": train}
    if step == "distill":
        return {**FURTHER, "train": {**train, "learning_rate": 5e-4}}
    return {**AWARE, "train": train}
