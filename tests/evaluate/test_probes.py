from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import softmax

from clinipress.edge.answers import answer
from clinipress.evidence.probes import probe_logits, probe_records
from clinipress.kinds.image.probes import SCENE, probe_pictures
from clinipress.records.candidate import Card, InputSpec


@dataclass
class Mean:
    """Surer the brighter the picture."""

    channels: int
    temperature: float = 1.0
    uncertain_below: float | None = None

    @property
    def card(self):
        return Card(
            name="mean",
            classes=("a", "b"),
            input=InputSpec(channels=self.channels, height=24, width=24),
            temperature=self.temperature,
            uncertain_below=self.uncertain_below,
        )

    def predict(self, images):
        assert images.shape[1] == self.channels
        mean = images.mean(axis=(1, 2, 3)) / 64
        return np.stack([mean, -mean], axis=1).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("colourful", [False, True])
@pytest.mark.parametrize("uncertain_below", [None, 0.9])
def test_records_say_what_a_bundle_would_answer(channels, colourful, uncertain_below):
    random = np.random.default_rng(1)
    images = random.integers(0, 200, (4, channels, 24, 24), dtype=np.uint8)
    pictures = probe_pictures(images, list("abcd"))
    pair = {"reference": Mean(channels), "candidate": Mean(channels, 2.0, uncertain_below)}
    logits = probe_logits(pair, pictures)
    cards = [pair[name].card for name in pair]
    found = probe_records(
        pictures,
        (cards[0], logits["reference"]),
        (cards[1], logits["candidate"]),
        colourful=colourful,
    )
    assert [one.name for one in found] == list(pictures)
    for record in found:
        candidate = pair["candidate"]
        many = pictures[record.name]
        asked = [
            answer(candidate, candidate.card, one.transpose(1, 2, 0), colourful=colourful)
            for one in many
        ]
        sent_back = [one.refused is not None or bool(one.uncertain) for one in asked]
        assert record.candidate_refused == np.mean(sent_back)
        assert record.images == len(many)
        sure = softmax(logits["candidate"][record.name] / 2.0, axis=1).max(axis=1).mean()
        assert record.candidate_confidence == pytest.approx(sure, abs=1e-6)


def test_grey_models_refuse_the_photograph_and_blank_pictures():
    images = np.random.default_rng(1).integers(0, 200, (2, 1, 24, 24), dtype=np.uint8)
    pictures = probe_pictures(images, ["a", "b"])
    model = Mean(1)
    logits = probe_logits({"m": model}, pictures)["m"]
    found = probe_records(pictures, (model.card, logits), (model.card, logits), colourful=False)
    refused = {one.name: one.candidate_refused for one in found}
    assert refused == {
        "blank": 1, "white": 1, "noise": 0, SCENE: 1, "inverted": 0, "upside down": 0,
    }  # fmt: skip
