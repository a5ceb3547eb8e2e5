"""How far a file may lie from its network: a fixed tolerance, or what float32 itself costs."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from clinipress.errors import ModelError
from clinipress.formats.parity import PARITY_TOLERANCE, check_images, check_logits, compare_logits
from clinipress.models.classifier import Classifier, TorchCandidate
from clinipress.records.candidate import Card, InputSpec, ModelSpec
from clinipress.stats.metrics import same_answers

SPEC = InputSpec(channels=1, height=8, width=8)
FAR = 2.0**17  # float32 keeps 1/64 there


class Net(nn.Module):
    def __init__(self, away):
        super().__init__()
        self.away, self.head = away, nn.Linear(64, 3)

    def forward(self, x):
        return (self.head(x.flatten(1)) + self.away) - self.away


def candidate(away=0.0):
    torch.manual_seed(0)
    model = ModelSpec(name="net", num_classes=3, in_channels=1, mean=0.5, std=0.25)
    card = Card(name="net", classes=("a", "b", "c"), input=SPEC, model=model)
    return TorchCandidate(card, Classifier(Net(away), SPEC, 1, 0.5, 0.25).eval())


def exact(parent, images):
    """The logits in float64, without the network's own code for it."""
    head = copy.deepcopy(parent.module.backbone.head).double()
    pixels = (images.astype(np.float64) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        return head(torch.from_numpy(pixels).flatten(1)).numpy()


def test_what_float32_costs_a_network():
    images = check_images(candidate())
    assert candidate().rounding(images) < 1e-5
    parent = candidate(FAR)
    expected = np.abs(parent.predict(images) - exact(parent, images)).max()
    assert 1e-3 < expected < 1 / 64
    assert parent.rounding(images) == pytest.approx(expected, rel=1e-3)


def test_a_file_may_lie_as_far_as_rounding_alone_takes_it():
    parent = candidate(FAR)
    images = check_images(parent)
    right = exact(parent, images).astype(np.float32)
    assert np.abs(right - parent.predict(images)).max() > PARITY_TOLERANCE
    check_logits(parent, right, images, "a file")
    with pytest.raises(ModelError, match="a file with the logits of 'net' within"):
        check_logits(parent, right + np.float32(6 * parent.rounding(images)), images, "a file")


def test_a_network_that_is_computed_well_is_held_to_the_tolerance():
    parent = candidate()
    images = check_images(parent)
    logits = parent.predict(images)
    check_logits(parent, logits + np.float32(0.9 * PARITY_TOLERANCE), images, "a file")
    with pytest.raises(ModelError, match=r"within 0\.001, got a difference of 0\.002"):
        check_logits(parent, logits + np.float32(2 * PARITY_TOLERANCE), images, "a file")
    with pytest.raises(ModelError, match="difference of nan"):
        check_logits(parent, logits * np.float32("nan"), images, "a file")


def test_flips_are_counted():
    first = np.array([[1, 0], [0, 1], [2, 1]], np.float32)
    found = compare_logits(first, first[:, ::-1].copy())
    assert (found.images, found.label_flips, found.max_logit_difference) == (3, 3, 1)


def test_flips_of_findings_are_each_a_question_of_its_own():
    # the largest logit changes in every image, no finding's answer does; and the reverse
    first = np.array([[3, 2], [2, 1], [-1, -2]], np.float32)
    assert compare_logits(first, first[:, ::-1].copy()).label_flips == 3
    assert compare_logits(first, first[:, ::-1].copy(), several=True).label_flips == 0
    lower = first - np.float32(1.5)
    assert compare_logits(first, lower).label_flips == 0
    assert compare_logits(first, lower, several=True).label_flips == 1


def test_agreement_about_what_is_never_called_can_fail():
    # a rare finding lies below a half in all images: noise would agree with it
    random = np.random.default_rng(0)
    first = random.normal(-4, 0.5, (200, 1)).astype(np.float32)
    noise = random.permutation(first)
    assert (noise < 0).all()
    assert same_answers(first, first, several=True) == 1
    assert same_answers(first, noise, several=True) == pytest.approx(0.82, abs=0.03)
    assert same_answers(-first, -noise, several=True) == pytest.approx(0.82, abs=0.03)
