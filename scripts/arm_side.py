"""One side of `arm_check`: classify files with the base package, here or under an emulator.

    python arm_side.py answer BUNDLE TARGET LIST        TARGET: JSON of versions and answers
    python arm_side.py trace BUNDLE TARGET LIST MODEL   TARGET: .npz of MODEL's outputs

LIST names one image per line. Progress goes to standard output.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Recorder:
    """Hands images on to a candidate and keeps what went in and came out."""

    def __init__(self, candidate: Any) -> None:
        self.candidate = candidate
        self.pixels: Any = None
        self.logits: Any = None

    @property
    def card(self) -> Any:
        """The candidate's card."""
        return self.candidate.card

    @property
    def digest(self) -> str:
        """The candidate's digest."""
        return str(self.candidate.digest)

    def save(self, folder: Path) -> None:
        """As `Candidate.save`."""
        self.candidate.save(folder)

    def predict(self, images: Any) -> Any:
        """As `Candidate.predict`."""
        self.pixels, self.logits = images, self.candidate.predict(images)
        return self.logits


def answer_all(folder: str, target: str, images: Sequence[str]) -> None:
    """Classify files one by one; writes JSON, and a line to standard output now and then."""
    import numpy
    import PIL

    from clinipress.edge.answers import answer
    from clinipress.edge.bundle import open_bundle
    from clinipress.errors import BundleError

    began = time.perf_counter()
    bundle = open_bundle(folder, threads=1)
    try:
        tested: float | str = bundle.self_test()
    except BundleError as problem:
        tested = str(problem)
    answers = []
    for number, image in enumerate(images, 1):
        recorder = Recorder(bundle.candidate)
        colourful = bundle.manifest.self_test.colourful
        found = answer(recorder, bundle.card, Path(image), colourful=colourful)
        seen = recorder.pixels is not None
        answers.append(
            {
                "file": image,
                "label": found.label,
                "refused": found.refused,
                "pixels": hashlib.sha256(recorder.pixels.tobytes()).hexdigest() if seen else None,
                # a float32 is written with all its digits
                "logits": [float(value) for value in recorder.logits[0]] if seen else None,
            }
        )
        if number % 25 == 0 or number == len(images):
            print(f"{number} of {len(images)} images", flush=True)
    side = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
        "runtime": bundle.candidate.runtime,
        "self_test": tested,
        "seconds": round(time.perf_counter() - began, 2),
    }
    card = {"name": bundle.card.name, "format": bundle.card.format}
    card |= {"precision": bundle.card.precision, "sha256": bundle.digest}
    Path(target).write_text(json.dumps({"side": side, "bundle": card, "answers": answers}))


def trace_all(model: str, folder: str, target: str, images: Sequence[str]) -> None:
    """Run a model that gives out its inner tensors; writes them as ``IMAGE|TENSOR`` to an .npz."""
    import numpy

    from clinipress.edge.bundle import open_bundle
    from clinipress.formats.onnx.run import INPUT_NAME, session
    from clinipress.kinds.image.read import decode

    opened = session(Path(model), 1)
    names = [output.name for output in opened.get_outputs()]
    spec = open_bundle(folder, threads=1).card.input
    tensors: dict[str, Any] = {}
    for number, image in enumerate(images):
        values = opened.run(names, {INPUT_NAME: decode(Path(image), spec)[None]})
        tensors |= {f"{number}|{name}": value for name, value in zip(names, values, strict=True)}
    with Path(target).open("wb") as stream:
        numpy.savez(stream, **tensors)


def main(words: Sequence[str]) -> None:
    """Run one of the two commands."""
    command, bundle, target, listed, *model = words
    images = Path(listed).read_text(encoding="utf-8").splitlines()
    if command == "answer":
        answer_all(bundle, target, images)
    else:
        trace_all(model[0], bundle, target, images)


if __name__ == "__main__":
    main(sys.argv[1:])
