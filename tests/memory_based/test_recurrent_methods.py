"""NTM, DNC and LSTM estimators against their cells in NumPy, row after row."""

import copy

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from fewshot_sklearn import (
    DNCClassifier,
    EpisodicTasks,
    LSTMClassifier,
    LSTMRegressor,
    MANNClassifier,
    MANNRegressor,
    NTMClassifier,
    NTMRegressor,
)
from fewshot_sklearn.datasets import make_sinusoid_tasks
from tests.nn._numpy_cells import NumPyLSTM, weights_of
from tests.nn.test_dnc import M as DNC_SLOTS
from tests.nn.test_dnc import NumPyDNC
from tests.nn.test_ntm import M, NumPyNTM, R, W

MEMORY = {"n_hidden": 5, "n_slots": M, "slot_size": W, "n_read_heads": 2}
COMMON = {"max_iter": 3, "random_state": 0, "precision": "float64"}
C = 3


def numpy_lstm(cell):
    return NumPyLSTM(weights_of(cell), len(cell.initial_state(cell.inputs.weight)["hidden"][0]))


CASES = {
    "ntm": (NTMClassifier(**MEMORY, shift_range=R, **COMMON), NumPyNTM),
    "ntm, feed-forward": (
        NTMClassifier(**MEMORY, shift_range=R, controller="feedforward", **COMMON),
        NumPyNTM,
    ),
    "dnc": (DNCClassifier(**MEMORY | {"n_slots": DNC_SLOTS}, **COMMON), NumPyDNC),
    "lstm": (LSTMClassifier(n_hidden=5, n_layers=2, **COMMON), numpy_lstm),
}


@pytest.fixture(scope="module")
def rows():
    """Return rows around twelve centres, and their numbers."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 10)
    return rng.normal(size=(12, 4))[y] * 2 + rng.normal(size=(120, 4)) / 2, y


@pytest.fixture(scope="module")
def tasks(rows):
    return EpisodicTasks(*rows, n_way=C, n_shot=2, n_query=2, n_tasks=20, random_state=0)


def run(learner, reference, x, y, x_query):
    """Return the logits before each label was shown, and those of queries after the last."""
    one = reference(learner.cell)
    weight, bias = (p.detach().numpy() for p in learner.output.parameters())
    shown = np.concatenate([np.zeros((1, C)), np.eye(C)[y]])
    before = [one.step(np.concatenate([row, s])) for row, s in zip(x, shown[:-1], strict=True)]
    after = [copy.deepcopy(one).step(np.concatenate([row, shown[-1]])) for row in x_query]
    return (np.array(hidden) @ weight.T + bias for hidden in (before, after))


@pytest.mark.parametrize("case", CASES)
def test_a_fitted_classifier_is_its_cell_in_numpy(case, rows, tasks):
    clf, reference = CASES[case]
    clf = clone(clf).meta_fit(tasks)
    X, y = rows
    order = np.random.default_rng(1).permutation(30)[:12]
    before, after = run(clf._meta.learner, reference, X[order], y[order], X[:30])
    got = clf.fit(X[order], y[order]).predict_proba(X[:30])
    np.testing.assert_allclose(got, softmax(after, axis=1), rtol=1e-7, atol=1e-10)
    predicted = clf.predict_sequence(X[order], y[order])
    np.testing.assert_array_equal(predicted, before.argmax(axis=1))


def test_a_sequence_is_predicted_with_the_labels_of_the_user(rows, tasks):
    X, y = rows
    names = np.array(["b", "a", "c"])
    clf = LSTMClassifier(n_hidden=8, **COMMON).meta_fit(tasks).fit(X[:20], y[:20])
    before = clf.predict(X)
    predicted = clf.predict_sequence(X[:30:3], names[y[:30:3]])
    assert set(predicted) <= set(names)
    np.testing.assert_array_equal(clf.predict(X), before)


def test_a_sequence_needs_meta_fit(rows):
    with pytest.raises(NotFittedError, match=r"predict_sequence needs a meta-fitted"):
        LSTMClassifier().predict_sequence(*rows)


def test_a_sequence_of_other_features_is_refused(rows, tasks):
    X, y = rows
    clf = LSTMClassifier(n_hidden=8, **COMMON).meta_fit(tasks)
    with pytest.raises(ValueError, match="features"):
        clf.predict_sequence(X[:30, :2], y[:30])


@pytest.mark.parametrize(
    "reg",
    [
        NTMRegressor(**MEMORY, max_iter=3, random_state=0),
        MANNRegressor(**MEMORY, max_iter=3, random_state=0),
        LSTMRegressor(n_hidden=8, max_iter=3, random_state=0),
    ],
)
def test_regressors_average_over_orders(reg):
    """With one support row there is one order, whatever is asked for."""
    tasks = make_sinusoid_tasks(20, random_state=0)
    task = tasks[0]
    reg = reg.meta_fit(tasks)
    one = reg.fit(task.X_support[:1], task.y_support[:1]).predict(task.X_query)
    many = clone(reg).set_params(n_orders=4)
    got = many.fit(task.X_support[:1], task.y_support[:1]).predict(task.X_query)
    np.testing.assert_allclose(got, one, rtol=1e-4, atol=1e-5)
    spread = many.fit(task.X_support, task.y_support).predict(task.X_query)
    assert not np.allclose(spread, reg.fit(task.X_support, task.y_support).predict(task.X_query))


def test_the_spread_of_several_orders_is_that_of_their_mixture():
    tasks = make_sinusoid_tasks(20, random_state=0)
    reg = MANNRegressor(**MEMORY, max_iter=3, random_state=0, n_orders=3).meta_fit(tasks)
    task = tasks[0]
    mean, std = reg.fit(task.X_support, task.y_support).predict(task.X_query, return_std=True)
    one = clone(reg).set_params(n_orders=1)
    _, least = one.fit(task.X_support, task.y_support).predict(task.X_query, return_std=True)
    assert mean.shape == std.shape == (10,)
    assert np.isfinite(std).all()
    assert (std > 0.5 * least).all()


def test_learning_within_the_sequence_is_meta_learned(rows):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(60), 10)
    X = rng.normal(size=(60, 4))[y] * 3 + rng.normal(size=(600, 4)) / 3
    tasks = EpisodicTasks(X, y, n_way=2, n_shot=3, n_query=3, n_tasks=500, random_state=0)
    clf = MANNClassifier(
        n_hidden=32, n_slots=16, slot_size=8, max_iter=150, meta_batch_size=16,
        meta_learning_rate=0.01, random_state=0,
    ).meta_fit(tasks)  # fmt: skip
    first, later = [], []
    for task in tasks[:60]:
        x = np.concatenate([task.X_support, task.X_query])
        labels = np.concatenate([task.y_support, task.y_query])
        order = rng.permutation(len(labels))
        right = clf.predict_sequence(x[order], labels[order]) == labels[order]
        first.append(right[:1])
        later.append(right[-6:])
    assert np.mean(later) > np.mean(first) + 0.15
