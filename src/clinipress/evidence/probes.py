"""How sure classifiers are of pictures that they should not be sure of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from clinipress.kinds.image.probes import as_seen
from clinipress.kinds.image.refuse import colour_refusal, contrast_refusal
from clinipress.records.candidate import Candidate, Card
from clinipress.records.judgement import OutOfScopeProbe
from clinipress.stats.metrics import softmax

__all__ = ["probe_logits", "probe_records"]

Logits = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def probe_logits(
    candidates: Mapping[str, Candidate], pictures: Mapping[str, Pixels]
) -> dict[str, dict[str, Logits]]:
    """Answers to out-of-scope pictures, asked one by one as a bundle asks.

    Args:
        candidates: Name -> classifier.
        pictures: Probe -> uint8 ``[m, 3, h, w]`` (`clinipress.kinds.image.probes.probe_pictures`).

    Returns:
        Name of the classifier -> probe -> float32 ``[m, k]``.
    """
    answers: dict[str, dict[str, Logits]] = {}
    for name, candidate in candidates.items():
        channels = candidate.card.input.channels
        answers[name] = {
            probe: np.concatenate(
                [candidate.predict(picture[None]) for picture in as_seen(many, channels)]
            )
            for probe, many in pictures.items()
        }
    return answers


def probe_records(
    pictures: Mapping[str, Pixels],
    reference: tuple[Card, Mapping[str, NDArray[np.floating]]],
    candidate: tuple[Card, Mapping[str, NDArray[np.floating]]],
    *,
    colourful: bool,
) -> tuple[OutOfScopeProbe, ...]:
    """How sure both are of pictures they should not be sure of.

    Args:
        pictures: Probe -> uint8 ``[m, 3, h, w]``.
        reference: Its card (temperature, `uncertain_below`) and its answers by probe.
        candidate: Likewise.
        colourful: True where the set is of colour images, as in a bundle's manifest.

    Returns:
        One record per probe. The confidence is of the network alone, also where a bundle would
        refuse the picture before asking it (`clinipress.kinds.image.refuse`).
    """
    records = []
    for name, many in pictures.items():
        (sure, sent_back), (sure_too, sent_back_too) = (
            _confidence(many, card, answers[name], colourful)
            for card, answers in (reference, candidate)
        )
        records.append(
            OutOfScopeProbe(
                name=name,
                images=len(many),
                reference_confidence=sure,
                candidate_confidence=sure_too,
                reference_refused=sent_back,
                candidate_refused=sent_back_too,
            )
        )
    return tuple(records)


def _confidence(
    pictures: Pixels, card: Card, logits: NDArray[np.floating], colourful: bool
) -> tuple[float, float]:
    """Mean calibrated top probability, and the share refused or called uncertain."""
    top = softmax(logits, card.temperature).max(axis=1)
    seen = as_seen(pictures, card.input.channels)
    refused = np.array(
        [
            _is_refused(colours, pixels, colourful)
            for colours, pixels in zip(pictures, seen, strict=True)
        ]
    )
    if card.uncertain_below is not None:
        refused = refused | (top < card.uncertain_below)
    return float(top.mean()), float(refused.mean())


def _is_refused(colours: Pixels, pixels: Pixels, colourful: bool) -> bool:
    """The checks of `clinipress.kinds.image.accept` on a picture that has been decoded already."""
    refusal = contrast_refusal(pixels)
    if refusal is None and (len(pixels) == 1 or colourful):
        refusal = colour_refusal(colours, model_sees_colour=len(pixels) == 3)
    return refusal is not None
