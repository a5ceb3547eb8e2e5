import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clinipress.data.audit import shortcuts
from clinipress.data.audit.shortcuts import (
    FeatureTable,
    cross_validated,
    feature_shortcuts,
    statistics_baseline,
)
from kit.tolerances import ROUNDING


def facts(n=300, strength=0.0, *, classes=3, copies=1, seed=0):
    """`n` units of `copies` images with two features; "width" tells class 0 by `strength`."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    features = generator.normal(0, 1, (n, 2))
    features[:, 0] += strength * (labels == 0)
    features[:, 0] = np.exp(features[:, 0] / 4 + 5)
    names = tuple(f"class {c}" for c in range(classes))
    return FeatureTable(
        keys=[f"{i:04d}" for i in range(n * copies)],
        features=np.repeat(features, copies, axis=0),
        names=("width", "mean intensity"),
        labels=np.repeat(labels, copies),
        classes=names,
        units=np.repeat(np.arange(n), copies),
    )


def test_single_features_as_scikit_learn_either_way_round():
    given = facts(strength=1.0)
    found = {(one.feature, one.target): one.auroc.value for one in feature_shortcuts(given)}
    assert len(found) == 6
    for (feature, target), value in found.items():
        column = given.features[:, given.names.index(feature)]
        referee = roc_auc_score(given.labels == given.classes.index(target), column)
        assert value == pytest.approx(max(referee, 1 - referee), abs=ROUNDING)


def test_strongest_first_and_only_it_warns():
    found = feature_shortcuts(facts(strength=2.0))
    assert (found[0].feature, found[0].target, found[0].warning) == ("width", "class 0", True)
    assert not any(one.warning for one in found[1:])


def test_no_warning_without_a_shortcut():
    baseline = statistics_baseline(facts())
    assert not any(one.warning for one in (*baseline.shortcuts, *feature_shortcuts(facts())))
    assert baseline.accuracy.low < 1 / 3 < baseline.accuracy.high
    assert baseline.majority == pytest.approx(1 / 3)


def test_copies_do_not_narrow_the_interval():
    single, five = facts(strength=1.0), facts(strength=1.0, copies=5)
    one, other = feature_shortcuts(single)[0].auroc, feature_shortcuts(five)[0].auroc
    assert other.value == pytest.approx(one.value)
    assert (other.low, other.high) == pytest.approx((one.low, one.high))
    assert (one.n, other.n) == (300, 1500)


def test_baseline_near_scikit_learns_cross_validation():
    given = facts(strength=1.5)
    referee = make_pipeline(StandardScaler(), LogisticRegression())
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    logarithm = given.features.copy()
    logarithm[:, 0] = np.log(logarithm[:, 0])
    expected = cross_val_score(referee, logarithm, given.labels, groups=given.units, cv=folds)
    # different folds: the two differ by chance only
    assert statistics_baseline(given).accuracy.value == pytest.approx(expected.mean(), abs=0.04)


def test_units_are_held_out_whole():
    # labels are noise, each of 40 facts is the same within a unit: only a leak would find them
    generator = np.random.default_rng(0)
    units = np.repeat(np.arange(60), 6)
    given = FeatureTable(
        keys=[f"{i:04d}" for i in range(360)],
        features=np.repeat(generator.normal(0, 1, (60, 40)), 6, axis=0),
        names=tuple(f"fact {i}" for i in range(40)),
        labels=np.repeat(generator.integers(0, 2, 60), 6),
        classes=("a", "b"),
        units=units,
    )
    honest = (cross_validated(given, 0).argmax(axis=1) == given.labels).mean()
    torn = FeatureTable(**{**vars(given), "units": np.arange(360)})
    leaking = (cross_validated(torn, 0).argmax(axis=1) == given.labels).mean()
    assert honest < 0.7 < 0.8 < leaking


def test_folds_do_not_depend_on_the_order_of_listing():
    given = facts(strength=1.0, copies=2)
    order = np.random.default_rng(1).permutation(600)
    shuffled = FeatureTable(
        keys=[given.keys[i] for i in order],
        features=given.features[order],
        names=given.names,
        labels=given.labels[order],
        classes=given.classes,
        units=(given.units[order] + 7) % 300,
    )
    found = cross_validated(shuffled, 3)
    np.testing.assert_allclose(found, cross_validated(given, 3)[order], atol=1e-8)


def test_nothing_to_hold_out_is_no_baseline():
    given = facts(3)
    assert statistics_baseline(given) is None


def test_large_sets_are_sampled(monkeypatch):
    monkeypatch.setattr(shortcuts, "LARGEST_SAMPLE", 100)
    assert statistics_baseline(facts(strength=1.0)).accuracy.n == 100


def test_constant_features_and_mirrored_classes_are_not_listed():
    given = facts(classes=2)
    constant = FeatureTable(**{**vars(given), "features": given.features * [1, 0]})
    assert [(s.feature, s.target) for s in feature_shortcuts(constant)] == [("width", "class 0")]


@pytest.mark.parametrize(("classes", "listed"), [(2, 1), (3, 4)])
def test_two_classes_are_one_shortcut_not_three(classes, listed):
    found = statistics_baseline(facts(strength=1.0, classes=classes)).shortcuts
    assert found[0].target == "macro"
    assert len({one.target for one in found}) == len(found) == listed


def test_a13_right_answers_beyond_the_largest_class_are_a_warning_however_low_the_area():
    given = facts(strength=0.9, classes=2, n=400)
    baseline = statistics_baseline(given)
    [overall] = baseline.shortcuts
    assert overall.auroc.low < shortcuts.WARNING_FROM
    assert baseline.accuracy.low > baseline.majority
    assert overall.warning
    uneven = statistics_baseline(facts(classes=2, n=400))
    assert uneven.accuracy.low <= uneven.majority
    assert not uneven.shortcuts[0].warning
