from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as referee

from clinipress.errors import DataError
from clinipress.stats import metrics
from kit.each import each_seed
from kit.tolerances import LOG_ODDS_STEP, ROUNDING, check_close

CLASSES = tuple("abcdefg")


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """A random task: 2 to 7 classes, unbalanced, better or worse, every third with many ties."""
    random = np.random.default_rng(seed)
    k, n = int(random.integers(2, 8)), int(random.integers(60, 400))
    labels = np.concatenate([np.arange(k), random.choice(k, n - k, p=random.dirichlet([2] * k))])
    logits = random.normal(size=(n, k))
    logits[np.arange(n), labels] += random.uniform(0, 3)
    return (np.round(logits) if seed % 3 == 0 else logits), labels, CLASSES[:k]


def degenerate() -> dict[str, tuple[np.ndarray, np.ndarray, tuple[str, ...]]]:
    random = np.random.default_rng(7)
    labels = np.repeat([0, 1, 2], 10)
    right = np.eye(3)[labels] * 4
    never = random.normal(size=(30, 3)) - [0, 0, 15]
    return {
        "all right": (right, labels, CLASSES[:3]),
        "all wrong": (np.roll(right, 1, axis=1), labels, CLASSES[:3]),
        "a class never predicted": (never, labels, CLASSES[:3]),
        "a class without a case": (random.normal(size=(30, 4)), labels, CLASSES[:4]),
        "one case": (np.array([[0.5, 0.2]]), np.array([1]), CLASSES[:2]),
        "one class only": (random.normal(size=(9, 3)), np.full(9, 2), CLASSES[:3]),
        "all logits equal": (np.zeros((30, 3)), labels, CLASSES[:3]),
        "one class predicted, the other true": (
            np.array([[3.0, 0.0]] * 4),
            np.ones(4, np.int64),
            CLASSES[:2],
        ),
    }


def expected_metrics(logits, labels, classes, positive=None) -> dict[str, float]:
    """All figures by scikit-learn, leaving out what is undefined."""
    k, called = len(classes), logits.argmax(axis=1)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    # equal cases must stay equal, and sums in another order do not leave them so
    ranked = np.round(chances, 13)
    numbers = range(k)
    precision, recall, f1, _ = referee.precision_recall_fscore_support(
        labels, called, labels=numbers, zero_division=0
    )
    true, said = set(labels.tolist()), set(called.tolist())
    found = {"accuracy": referee.accuracy_score(labels, called)}
    found["balanced_accuracy"] = np.mean([recall[c] for c in true])
    found["f1_macro"] = np.mean([f1[c] for c in true | said])
    if len(true | said) > 1:
        found["kappa"] = referee.cohen_kappa_score(labels, called)
    found["log_loss"] = referee.log_loss(labels, chances, labels=list(numbers))
    found["brier"] = referee.brier_score_loss(
        labels if k > 2 else labels == 1, chances if k > 2 else chances[:, 1], **brier_options(k)
    )
    areas = {}
    for c, name in enumerate(classes):
        if c in true:
            found[f"sensitivity[{name}]"] = recall[c]
        if c in said:
            found[f"precision[{name}]"] = precision[c]
        if c in true | said:
            found[f"f1[{name}]"] = f1[c]
        if c in true and len(true) > 1:
            areas[f"auroc[{name}]"] = referee.roc_auc_score(labels == c, ranked[:, c])
    if areas:
        found |= areas
        found["auroc_macro"] = np.mean(list(areas.values()))
    if positive is not None:
        found |= {
            new: found[old]
            for new, old in (("sensitivity", "sensitivity[b]"), ("specificity", "sensitivity[a]"))
            if old in found
        }
    return {name: float(value) for name, value in found.items()}


def brier_options(k: int) -> dict[str, object]:
    return {"labels": list(range(k)), "scale_by_half": False} if k > 2 else {"pos_label": True}


def calibration_error(logits, labels) -> float:
    """The definition of the expected calibration error, bin by bin."""
    chances = metrics.softmax(logits)
    top, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    total = 0.0
    for number in range(15):
        inside = (top > number / 15) & (top <= (number + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    return total


@each_seed(range(24))
def test_agrees_with_scikit_learn(seed) -> None:
    logits, labels, classes = draw(seed)
    positive = "b" if len(classes) == 2 else None
    found = metrics.point_metrics(logits, labels, classes, positive=positive)
    check_close({"ece": found.pop("ece")}, {"ece": calibration_error(logits, labels)}, ROUNDING)
    check_close(found, expected_metrics(logits, labels, classes, positive), ROUNDING)


@pytest.mark.parametrize("name", degenerate())
def test_degenerate_tasks_agree_and_leave_out_what_is_undefined(name) -> None:
    logits, labels, classes = degenerate()[name]
    found = metrics.point_metrics(logits, labels, classes)
    assert all(math.isfinite(value) for value in found.values())
    found.pop("ece")
    expected = expected_metrics(logits, labels, classes)
    if name == "one class predicted, the other true":
        assert found["kappa"] == 0
    check_close(found, expected, ROUNDING)


@each_seed(range(20))
def test_macro_auroc_is_scikit_learns_one_vs_rest(seed) -> None:
    logits, labels, classes = draw(seed)
    chances = np.round(metrics.softmax(logits), 13)
    expected = (
        referee.roc_auc_score(labels, chances, multi_class="ovr", average="macro")
        if len(classes) > 2
        else referee.roc_auc_score(labels, chances[:, 1])
    )
    found = metrics.point_metrics(logits, labels, classes)["auroc_macro"]
    check_close({"auroc": found}, {"auroc": float(expected)}, ROUNDING)


@each_seed(range(20))
def test_weighted_auroc_is_that_of_the_repeated_cases(seed) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, [4, 1000][seed % 2], size=50).astype(np.float64)
    positive = random.random(50) < 0.4
    weights = random.integers(0, 4, size=(50, 3))
    found = metrics.weighted_auroc(metrics.rank_table(scores, positive), weights.astype(float))
    for column in range(3):
        rows = np.repeat(np.arange(50), weights[:, column])
        expected = referee.roc_auc_score(positive[rows], scores[rows])
        assert abs(found[column] - expected) <= ROUNDING


def test_auroc_without_one_side_is_undefined() -> None:
    assert math.isnan(metrics.auroc(np.arange(4.0), np.ones(4, bool)))
    assert math.isnan(metrics.auroc(np.arange(4.0), np.zeros(4, bool)))


def test_saturated_probabilities_are_not_ties() -> None:
    logits = np.array([[0.0, 60.0], [0.0, 50.0]])
    assert (metrics.softmax(logits)[:, 1] == 1).all()
    assert metrics.auroc(metrics.log_odds(logits)[:, 1], np.array([True, False])) == 1
    assert np.isfinite(metrics.log_losses(np.array([[-3e38, 3e38]]), np.array([0]))).all()


def test_log_odds_are_those_of_the_probabilities() -> None:
    logits, _, _ = draw(1)
    chances = metrics.softmax(logits)
    found, expected = metrics.log_odds(logits), np.log(chances / (1 - chances))
    assert np.abs(found - expected).max() <= LOG_ODDS_STEP


def test_equal_cases_stay_equal_whatever_the_order_of_their_logits() -> None:
    logits = np.array([[0.1, 0.2, 0.3, 0.4, 0.7], [0.1, 0.7, 0.4, 0.2, 0.3]])
    assert len(set(metrics.log_odds(logits)[:, 0])) == 1
    assert len(set(metrics.log_odds(logits + np.array([[0.0], [3.0]]))[:, 0])) == 1


def test_confusion_counts_rows_true_columns_called() -> None:
    logits, labels, classes = draw(2)
    found = metrics.confusion(logits, labels, len(classes))
    called = logits.argmax(axis=1)
    expected = referee.confusion_matrix(labels, called, labels=range(len(classes)))
    assert found.dtype == np.int64
    assert (found == expected).all()


def test_softmax_sums_to_one_and_temperature_softens() -> None:
    logits = np.array([[1000.0, 0.0, -1000.0], [1.0, 2.0, 3.0]], np.float32)
    chances = metrics.softmax(logits)
    assert np.abs(chances.sum(axis=1) - 1).max() <= ROUNDING
    assert metrics.softmax(logits, 4.0)[1].max() < chances[1].max()


def test_predictions_take_the_first_of_equal_logits() -> None:
    assert metrics.predictions(np.zeros((2, 3))).tolist() == [0, 0]


def test_positive_class_names_sensitivity_and_specificity() -> None:
    logits, labels, _ = degenerate()["one case"]
    assert "specificity" not in metrics.point_metrics(logits, labels, ("ill", "well"))
    found = metrics.point_metrics(logits, labels, ("ill", "well"), positive="ill")
    assert found["specificity"] == 0
    assert "sensitivity" not in found


@pytest.mark.parametrize(
    ("logits", "labels", "classes", "positive", "words"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "ab", None, "at least one case"),
        (np.zeros((3, 2)), np.zeros(2, int), "ab", None, "labels [2]"),
        (np.zeros((3, 2)), np.zeros(3, int), "abc", None, "logits [n, 3]"),
        (np.zeros((3, 1)), np.zeros(3, int), "a", None, "at least two classes"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), "ab", None, "from 0 to 2"),
        (np.zeros((3, 2)), np.zeros(3), "ab", None, "float64 labels"),
        (np.array([[0, np.nan], [0, 1]]), np.zeros(2, int), "ab", None, "in 1 of 2 rows"),
        (np.zeros((3, 2)), np.zeros(3, int), "ab", "c", "'c'"),
    ],
)
def test_unusable_input_is_refused_in_words(logits, labels, classes, positive, words) -> None:
    with pytest.raises(DataError) as caught:
        metrics.point_metrics(logits, labels, tuple(classes), positive=positive)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"a": 0.5 + 1e-6}, {"a": float("nan")}, {}, {"a": 0.5, "b": 0.1}]
)
def test_the_checker_of_figures_can_fail(wrong) -> None:
    check_close({"a": 0.5}, {"a": 0.5}, ROUNDING)
    with pytest.raises(AssertionError):
        check_close(wrong, {"a": 0.5}, ROUNDING)
