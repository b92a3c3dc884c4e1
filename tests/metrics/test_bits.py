"""Bits per sequence against a loop."""

import numpy as np
import pytest

from fewshot_sklearn.metrics import (
    bits_per_sequence,
    neg_bits_per_sequence,
    wrong_bits_per_sequence,
)


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    lengths = (3, 5, 2)
    y = [rng.integers(0, 2, size=(n, 4)).astype(float) for n in lengths]
    y[1][:2] = np.nan
    return y, [rng.uniform(0.01, 0.99, size=(n, 4)) for n in lengths]


def test_bits_are_those_of_a_loop(sequences):
    y, p = sequences
    costs = []
    for targets, probabilities in zip(y, p, strict=True):
        cost = 0
        for i in np.ndindex(targets.shape):
            if not np.isnan(targets[i]):
                cost -= np.log2(probabilities[i] if targets[i] else 1 - probabilities[i])
        costs.append(cost)
    assert bits_per_sequence(y, p) == pytest.approx(np.mean(costs))


def test_a_coin_costs_a_bit_a_bit(sequences):
    y, p = sequences
    n_bits = np.mean([(~np.isnan(t)).sum() for t in y])
    assert bits_per_sequence(y, [np.full_like(t, 0.5) for t in p]) == pytest.approx(n_bits)


def test_a_certain_error_costs_much_and_not_infinitely():
    assert 50 < bits_per_sequence([[1.0]], [[0.0]]) < 60
    assert bits_per_sequence([[1.0]], [[1.0]]) == 0


def test_wrong_bits_are_counted(sequences):
    y, p = sequences
    bits = [(probabilities > 0.5).astype(int) for probabilities in p]
    expected = np.mean([(b != t)[~np.isnan(t)].sum() for b, t in zip(bits, y, strict=True)])
    assert wrong_bits_per_sequence(y, bits) == pytest.approx(expected)


def test_the_scorer_is_minus_the_cost(sequences):
    y, p = sequences

    class Fixed:
        def predict_proba(self, X):
            return p

    assert neg_bits_per_sequence(Fixed(), None, y) == -bits_per_sequence(y, p)


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([[1.0]], [[0.5], [0.5]], "same number of sequences"),
        ([[1.0, 0.0]], [[0.5]], "same shape"),
        ([[2.0]], [[0.5]], "0, 1 or NaN"),
        ([[1.0]], [[1.5]], "between 0 and 1"),
    ],
)
def test_what_does_not_belong_together_is_refused(y, p, message):
    with pytest.raises(ValueError, match=message):
        bits_per_sequence(y, p)
