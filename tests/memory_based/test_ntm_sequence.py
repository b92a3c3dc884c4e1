"""Estimators from sequences to sequences against their definitions."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import log_loss, r2_score

from fewshot_sklearn import NTMSequenceClassifier, NTMSequenceRegressor
from fewshot_sklearn.datasets import make_copy_sequences
from fewshot_sklearn.memory_based._sequences import endless_batches, make_batch, map_sequences, pad
from fewshot_sklearn.tasks._tensors import TensorMaker

SMALL = {
    "n_hidden": 8,
    "n_slots": 5,
    "slot_size": 4,
    "max_iter": 3,
    "batch_size": 4,
    "precision": "float64",
    "random_state": 0,
}
MAKE = TensorMaker(torch.device("cpu"), torch.float64)


@pytest.fixture
def bits():
    return make_copy_sequences(12, lengths=(1, 4), n_bits=2, random_state=0)


@pytest.fixture
def numbers():
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(length, 3)) for length in (2, 5, 3, 7, 4, 6)]
    y = [5 + 3 * np.cumsum(x[:, :2], axis=0) for x in X]
    y[0][0, 0] = y[3][:4, 1] = np.nan
    return X, y


@pytest.mark.parametrize("memory", ["ntm", "dnc", "lstm"])
def test_probabilities_are_read_off_the_cell_after_each_step(bits, memory):
    clf = NTMSequenceClassifier(memory=memory, **SMALL).fit(*bits)
    cell, output = clf._learner.cell, clf._learner.output
    for x, p, predicted in zip(
        bits[0], clf.predict_proba(bits[0]), clf.predict(bits[0]), strict=True
    ):
        rows = torch.from_numpy(x)[None]
        state = cell.initial_state(rows[:, 0])
        with torch.no_grad():
            for t in range(len(x)):
                said, state = cell.step(cell.project(rows[:, t]), state)
                np.testing.assert_allclose(p[t], expit(output(said)[0].numpy()), rtol=1e-6)
        np.testing.assert_array_equal(predicted, p > 0.5)


def test_the_loss_is_the_mean_cross_entropy_of_the_bits_that_count(bits):
    clf = NTMSequenceClassifier(**SMALL).fit(*bits)
    truth, p = np.concatenate(bits[1]), np.concatenate(clf.predict_proba(bits[0]))
    counts = ~np.isnan(truth)
    with torch.no_grad():
        loss = float(clf._learner.meta_loss(make_batch(*bits, MAKE)))
    assert loss == pytest.approx(log_loss(truth[counts], p[counts]), rel=1e-6)


def test_the_loss_of_numbers_is_their_mean_squared_error(numbers):
    reg = NTMSequenceRegressor(normalize_y=False, **SMALL).fit(*numbers)
    errors = np.concatenate(numbers[1]) - np.concatenate(reg.predict(numbers[0]))
    with torch.no_grad():
        loss = float(reg._learner.meta_loss(make_batch(*numbers, MAKE)))
    assert loss == pytest.approx(np.nanmean(errors**2), rel=1e-6)


def test_the_classifiers_score_is_the_share_of_bits_that_are_right(bits):
    clf = NTMSequenceClassifier(**SMALL).fit(*bits)
    truth, predicted = np.concatenate(bits[1]), np.concatenate(clf.predict(bits[0]))
    expected = (truth == predicted)[~np.isnan(truth)].mean()
    assert clf.score(*bits) == pytest.approx(expected)


def test_the_regressors_score_is_the_mean_r2_of_its_outputs(numbers):
    X, y = numbers
    reg = NTMSequenceRegressor(**SMALL).fit(X, y)
    truth, predicted = np.concatenate(y), np.concatenate(reg.predict(X))
    known = ~np.isnan(truth)
    each = [r2_score(truth[k, i], predicted[k, i]) for i, k in enumerate(known.T)]
    assert reg.score(X, y) == pytest.approx(np.mean(each))
    y = [np.column_stack([targets[:, 0], np.full(len(targets), np.nan)]) for targets in y]
    assert reg.score(X, y) == pytest.approx(each[0])


def test_normalised_targets_may_be_of_any_scale_and_offset(numbers):
    X, y = numbers
    plain = NTMSequenceRegressor(**SMALL).fit(X, y).predict(X)
    scaled = NTMSequenceRegressor(**SMALL).fit(X, [100 * t - 7 for t in y]).predict(X)
    np.testing.assert_allclose(np.concatenate(scaled), 100 * np.concatenate(plain) - 7, rtol=1e-4)


def test_partial_fit_keeps_the_scale_of_the_first_targets(numbers):
    X, y = numbers
    reg = NTMSequenceRegressor(**SMALL).fit(X, y)
    mean, scale = reg._mean, reg._scale
    reg.partial_fit(X, [100 * t for t in y])
    np.testing.assert_array_equal(reg._mean, mean)
    np.testing.assert_array_equal(reg._scale, scale)
    np.testing.assert_allclose(mean, np.nanmean(np.concatenate(y), axis=0))


def test_constant_targets_are_learned_about_as_they_are(numbers):
    X, _ = numbers
    reg = NTMSequenceRegressor(**SMALL).fit(X, [np.full(len(x), 1000.0) for x in X])
    np.testing.assert_allclose(np.concatenate(reg.predict(X)), 1000, atol=5)


def test_a_trace_is_of_every_step_head_and_slot(bits):
    clf = NTMSequenceClassifier(n_read_heads=2, n_write_heads=3, **SMALL).fit(*bits)
    x = bits[0][0]
    trace = clf.memory_trace(x)
    assert trace.read_weights.shape == (len(x), 2, 5)
    assert trace.write_weights.shape == (len(x), 3, 5)
    np.testing.assert_allclose(trace.read_weights.sum(axis=2), 1, rtol=1e-6)
    np.testing.assert_allclose(trace.write_weights.sum(axis=2), 1, rtol=1e-6)
    np.testing.assert_allclose(trace.outputs, clf.predict_proba([x])[0], rtol=1e-6)


def test_a_pass_sees_every_sequence_once_and_like_lengths_together():
    rng = np.random.default_rng(0)
    X = [np.full((length, 1), i, dtype=float) for i, length in enumerate(rng.integers(1, 30, 64))]
    batches = endless_batches(X, X, 4, MAKE, np.random.default_rng(1))
    seen, padding = [], 0
    for _ in range(16):
        batch = next(batches)
        seen += batch.x[:, 0, 0].tolist()
        padding += int((~batch.mask).sum())
    assert sorted(seen) == list(range(64))
    assert padding < 0.1 * sum(map(len, X))


def test_as_many_sequences_are_computed_together_as_fit():
    X = [np.full((length, 1), length, dtype=float) for length in (3, 9, 1, 4, 20, 2)]
    shapes = []

    def compute(rows):
        shapes.append(tuple(rows.shape[:2]))
        return rows

    for x, result in zip(X, map_sequences(compute, X, MAKE, 10), strict=True):
        np.testing.assert_array_equal(result, x)
    assert shapes == [(1, 20), (1, 9), (2, 4), (2, 2)]


def test_padding_stands_behind_the_sequences():
    padded = pad([np.ones((1, 2)), 2 * np.ones((3, 2))], fill=-1)
    np.testing.assert_array_equal(padded[0], [[1, 1], [-1, -1], [-1, -1]])
    np.testing.assert_array_equal(padded[1], 2 * np.ones((3, 2)))


def test_holding_out_needs_two_sequences(bits):
    X, y = bits
    with pytest.raises(ValueError, match="needs at least two"):
        NTMSequenceClassifier(early_stopping=True, **SMALL).fit(X[:1], y[:1])


def test_a_short_sequence_is_copied_once_it_was_learned():
    X, y = make_copy_sequences(1600, lengths=(1, 2), n_bits=2, random_state=0)
    clf = NTMSequenceClassifier(
        controller="feedforward",
        n_slots=6,
        slot_size=6,
        n_hidden=20,
        learning_rate=0.01,
        max_iter=200,
        batch_size=8,
        random_state=0,
    ).fit(X, y)
    new_X, new_y = make_copy_sequences(100, lengths=(1, 2), n_bits=2, random_state=1)
    assert clf.score(new_X, new_y) > 0.95
