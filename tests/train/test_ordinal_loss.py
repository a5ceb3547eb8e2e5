"""The loss of grades: a probability costs the more, the more grades it is off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import energy_distance, ttest_rel
from torch import nn

from clinipress.errors import RecipeError
from clinipress.recipe.steps import TrainOptions
from clinipress.steps.distill.loss import DistillationLoss
from clinipress.steps.fitting import plan_fit
from clinipress.study.read import parse_study
from clinipress.train.losses import HardLoss, cross_entropy, ranked_probability_score
from kit.candidates import wrapped
from kit.each import each_seed
from kit.steps import Data, context
from kit.studies import tree

GRADES = 5


def drawn(seed, count=40):
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(0, 2, (count, GRADES)))
    return logits, torch.from_numpy(random.integers(0, GRADES, count)), random


@each_seed(range(3))
def test_the_score_is_half_the_square_of_the_energy_distance(seed):
    logits, labels, random = drawn(seed)
    order = random.permutation(GRADES)  # columns, from the least grade
    place = np.argsort(order)  # grade of each column
    shares = logits.softmax(1).numpy()
    right = [energy_distance(place, [place[y]], row) ** 2 / 2
             for row, y in zip(shares, labels, strict=True)]  # fmt: skip
    assert float(ranked_probability_score(logits, labels, order)) == pytest.approx(np.mean(right))
    teacher = random.dirichlet(np.ones(GRADES), len(labels))
    right = [energy_distance(place, place, a, b) ** 2 / 2
             for a, b in zip(shares, teacher, strict=True)]  # fmt: skip
    found = ranked_probability_score(logits, torch.from_numpy(teacher), order)
    assert float(found) == pytest.approx(np.mean(right))


def test_what_is_further_off_costs_more():
    sure = 20 * torch.eye(GRADES, dtype=torch.float64)
    costs = [float(ranked_probability_score(row[None], torch.tensor([0]), range(GRADES)))
             for row in sure]  # fmt: skip
    assert costs == pytest.approx([0, 1, 2, 3, 4], abs=1e-6)
    # the same answers cost the cross-entropy the same
    equal = {round(float(cross_entropy(row[None], torch.tensor([0]))), 6) for row in sure[1:]}
    assert len(equal) == 1


def test_labels_and_teacher_have_their_shares():
    logits, labels, random = drawn(0)
    rows, order = np.arange(len(labels)), (4, 3, 2, 1, 0)
    plain = HardLoss(0.1)(logits, labels, rows, 0)
    both = HardLoss(0.1, ordinal=3.0, order=order)(logits, labels, rows, 0)
    apart = ranked_probability_score(logits, labels, order)
    assert float(both - plain) == pytest.approx(3 * float(apart))
    table = random.normal(0, 2, (1, len(labels), GRADES)).astype(np.float32)
    told = {"temperature": 4.0, "alpha": 0.7}
    without = DistillationLoss(table, rows, **told)(logits, labels, rows, 0)
    taught = DistillationLoss(table, rows, **told, ordinal=3.0, order=order)
    theirs = ranked_probability_score(logits, torch.from_numpy(table[0]).softmax(1), order)
    wanted = 3 * (0.3 * float(apart) + 0.7 * float(theirs))
    assert float(taught(logits, labels, rows, 0) - without) == pytest.approx(wanted, rel=1e-5)


def far_off(seed, weight):
    """Share of 1,000 SYNTHETIC cases two grades off or more, after a training on 60."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)

    def cases(count):
        grades = random.integers(0, GRADES, count)
        facts = random.normal(size=(count, 24))
        facts[:, 0] += 0.8 * (grades - 2)
        facts[:, 1] += 0.4 * (grades - 2) ** 2
        return torch.from_numpy(facts), torch.from_numpy(grades)

    (facts, grades), (others, right) = cases(60), cases(1000)
    net = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, GRADES)).double()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.05)
    loss = HardLoss(0.1, ordinal=weight, order=range(GRADES))
    for _ in range(150):
        optimizer.zero_grad()
        loss(net(facts), grades, np.arange(60), 0).backward()
        optimizer.step()
    return float(((net(others).argmax(1) - right).abs() >= 2).double().mean())


def test_fewer_answers_are_two_grades_off():
    """Over pairs of trainings from the same weights on the same cases: 1 in 200 by chance."""
    before, after = np.array([[far_off(seed, weight) for seed in range(24)] for weight in (0, 10)])
    assert ttest_rel(before, after, alternative="greater").pvalue < 0.005
    assert after.mean() < 0.97 * before.mean()


def test_the_order_is_the_datas_and_asked_for(tmp_path):
    data = Data()
    data.order = ("bright", "dark")
    net = wrapped(lambda _: nn.Sequential(nn.Flatten(), nn.Linear(256, 2)), classes=data.order)
    net = net.module
    asked = TrainOptions(epochs=1, order_weight=10, numerics="float32-contiguous")
    where = context(tmp_path, data)
    assert plan_fit(net, asked, where, "train")["order"] == [1, 0]
    plain = TrainOptions(epochs=1, numerics="float32-contiguous")
    params = plan_fit(net, plain, where, "train")
    assert "order" not in params
    assert "order_weight" not in params["options"]  # digests of other trainings stay
    assert TrainOptions.model_validate(asked.model_dump()) == asked
    steps = [{"step": "train", "train": {"order_weight": 10}}]
    with pytest.raises(RecipeError, match=r"name them in 'data\.order'"):
        parse_study(tree(steps=steps))
    parse_study(tree(steps=steps, data={"order": ["0", "1", "2"]}))
