import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clinipress.stats.logistic import fit_logistic, standardised
from clinipress.stats.metrics import log_softmax
from kit.tolerances import OPTIMUM


def cloud(n, classes, seed=0, spread=1.0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    centres = generator.normal(0, 1, (classes, 4))
    return centres[labels] + generator.normal(0, spread, (n, 4)), labels


@pytest.mark.parametrize(("classes", "spread"), [(2, 1.0), (4, 1.0), (3, 0.05)])
def test_same_probabilities_as_scikit_learn(classes, spread):
    features, labels = cloud(300, classes, spread=spread)
    x = standardised(features, np.ones(300, dtype=bool))
    ours = np.exp(log_softmax(x @ fit_logistic(x, labels, classes)))
    if classes == 2:
        # two columns under one penalty are one column under half of it
        referee = LogisticRegression(C=2.0, tol=1e-10, max_iter=5000).fit(x[:, :-1], labels)
    else:
        referee = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(x[:, :-1], labels)
    np.testing.assert_allclose(ours, referee.predict_proba(x[:, :-1]), atol=OPTIMUM)


def test_a_class_without_an_example_gets_next_to_nothing():
    features, labels = cloud(100, 2)
    x = standardised(features, np.ones(100, dtype=bool))
    chance = np.exp(log_softmax(x @ fit_logistic(x, labels, 3)))
    assert chance[:, 2].max() < 1e-3
    assert np.isfinite(chance).all()


def test_separable_classes_converge():
    labels = np.repeat([0, 1], 20)
    x = standardised(labels[:, None] * 1000.0, np.ones(40, dtype=bool))
    assert ((x @ fit_logistic(x, labels, 2)).argmax(axis=1) == labels).all()


def test_columns_are_scaled_by_the_training_rows_alone():
    features = np.array([[0.0, 5.0], [2.0, 5.0], [100.0, 7.0]])
    x = standardised(features, np.array([True, True, False]))
    assert x.tolist() == [[-1, 0, 1], [1, 0, 1], [99, 0, 1]]


def test_log_softmax_of_large_logits():
    found = log_softmax(np.array([[1000.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [[0, -1000], [-np.log(2), -np.log(2)]])
