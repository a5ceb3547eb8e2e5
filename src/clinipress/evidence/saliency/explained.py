"""Maps of one candidate on some images: made once, kept as a file, enough for every figure."""

from __future__ import annotations

import io
import json
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import DataError
from clinipress.evidence.saliency.faithfulness import Faithfulness, faithfulness
from clinipress.evidence.saliency.score_cam import Mode, score_cam
from clinipress.progress import SILENT, Progress
from clinipress.records.candidate import Candidate, Card, FeatureNetwork, ModelSpec
from clinipress.records.store import write_atomically

__all__ = ["Explanation", "explain", "fill_level"]


@dataclass(frozen=True)
class Explanation:
    """Where one candidate looks.

    Attributes:
        maps: float32 ``[n, h, w]`` in [0, 1].
        explained: int64 ``[n]``, the class each map explains: the reference's answer.
        answers: int64 ``[n]``, the candidate's own answer.
        faithful: How the candidate bears its own maps.
        seconds: Wall time of one map.
        mode: "exact" or "fast".
        layer: The feature map that was weighed.
    """

    maps: NDArray[np.float32]
    explained: NDArray[np.int64]
    answers: NDArray[np.int64]
    faithful: Faithfulness
    seconds: float
    mode: Mode
    layer: str

    def save(self, path: Path) -> None:
        """Write one ``.npz``.

        Raises:
            StorageError: It cannot be written.
        """
        facts = {"seconds": self.seconds, "mode": self.mode, "layer": self.layer}
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            maps=self.maps,
            explained=self.explained,
            answers=self.answers,
            faithful=np.stack(astuple(self.faithful)),
            facts=np.asarray(json.dumps(facts)),
        )
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Explanation:
        """Read what `save` wrote; pickles inside are refused.

        Raises:
            DataError: It is not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                facts = json.loads(str(file["facts"]))
                return cls(
                    maps=file["maps"],
                    explained=file["explained"],
                    answers=file["answers"],
                    faithful=Faithfulness(*file["faithful"]),
                    seconds=float(facts["seconds"]),
                    mode=facts["mode"],
                    layer=str(facts["layer"]),
                )
        except (OSError, KeyError, ValueError, TypeError) as problem:
            raise DataError(
                f"saliency maps at '{path}'", str(problem) or type(problem).__name__
            ) from None


def explain(
    candidate: Candidate,
    network: FeatureNetwork,
    images: NDArray[np.uint8],
    explained: NDArray[np.integer],
    *,
    fill: float | NDArray[np.float32],
    mode: Mode = "exact",
    seed: int = 0,
    cuts: NDArray[np.floating] | None = None,
    progress: Progress = SILENT,
) -> Explanation:
    """Score-CAM of a candidate, and how faithful its maps are.

    In both modes every mask is answered by the candidate itself, in its own precision: a reference
    whose masks its int8 file had answered would look like that file because it is it.

    Args:
        candidate: A torch network or a file.
        network: The candidate, opened so that its feature map can be read.
        images: uint8 ``[n, channels, h, w]`` as its card says.
        explained: ``[n]``, the class to explain: the reference's answer, for every candidate, so
            that maps of one image explain one thing.
        fill: Grey level of what is masked, 0..255 (`fill_level`).
        mode: "exact" or "fast".
        seed: Of the fast mode.
        cuts: Of several findings, the logits ``[k]`` at or above which each is called: the
            candidate's own answer is the finding that is explained, or -1. None: one class each.
        progress: The listener.
    """
    began = time.perf_counter()
    maps = score_cam(network, images, explained, fill=fill, mode=mode, seed=seed, progress=progress)
    seconds = (time.perf_counter() - began) / max(len(images), 1)
    logits, about = candidate.predict(images), np.asarray(explained, np.int64)
    answers = logits.argmax(1)
    if cuts is not None:
        called = logits[np.arange(len(about)), about] >= cuts[about]
        answers = np.where(called, about, -1)
    return Explanation(
        maps=maps,
        explained=about,
        answers=answers.astype(np.int64),
        faithful=faithfulness(
            network, images, maps, explained, fill=fill, several=cuts is not None
        ),
        seconds=seconds,
        mode=mode,
        layer=network.layer,
    )


class Normalised(Protocol):
    """A network whose card and normalisation are known."""

    @property
    def card(self) -> Card: ...

    @property
    def spec(self) -> ModelSpec: ...


def fill_level(candidate: Normalised) -> float | NDArray[np.float32]:
    """Grey level that a network's normalisation turns into 0: the mean of its training pixels.

    A number, or float32 ``[channels, 1, 1]``. Where grey images go into a network of colour means
    there is no such level, and the mean of the means is taken.
    """
    mean, channels = np.atleast_1d(candidate.spec.mean), candidate.card.input.channels
    if len(mean) > 1 and len(mean) == channels:
        return cast(NDArray[np.float32], (mean * 255).astype(np.float32).reshape(-1, 1, 1))
    return float(mean.mean() * 255)
