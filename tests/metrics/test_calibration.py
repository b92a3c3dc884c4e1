"""The expected calibration error is the gap between confidence and accuracy."""

import numpy as np
import pytest

from fewshot_sklearn.metrics import expected_calibration_error


def error_by_loop(y, p, n_bins):
    """Guo et al. (2017), eq. 3, bin by bin."""
    confidence, predicted = p.max(axis=1), p.argmax(axis=1)
    total = 0.0
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        inside = (confidence >= low) & ((confidence < high) | (b == n_bins - 1))
        if inside.any():
            gap = np.mean(predicted[inside] == y[inside]) - confidence[inside].mean()
            total += inside.mean() * abs(gap)
    return total


@pytest.mark.parametrize("n_bins", [1, 7, 15])
def test_it_is_the_sum_over_bins_of_the_paper(n_bins):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4) / 2, size=500)
    y = np.array([rng.choice(4, p=row) for row in p])
    expected = error_by_loop(y, p, n_bins)
    assert expected_calibration_error(y, p, n_bins=n_bins) == pytest.approx(expected, abs=1e-12)


def test_probabilities_that_the_labels_were_drawn_from_are_calibrated_and_sharper_ones_are_not():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=20_000)
    y = np.array([rng.choice(3, p=row) for row in p])
    sharp = p**4 / (p**4).sum(axis=1, keepdims=True)
    assert expected_calibration_error(y, p) < 0.015
    assert expected_calibration_error(y, sharp) > 0.1


def test_columns_belong_to_the_classes_that_are_named():
    y, p = np.array(["b", "b"]), np.array([[0.2, 0.8], [0.2, 0.8]])
    assert expected_calibration_error(y, p, classes=["a", "b"]) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="2 columns for 1 classes; pass classes"):
        expected_calibration_error(y, p)
    with pytest.raises(ValueError, match="lack \\['b'\\] of y_true"):
        expected_calibration_error(y, p, classes=["a", "c"])
    with pytest.raises(ValueError, match="name a class twice"):
        expected_calibration_error(y, p, classes=["b", "b"])


def test_certain_and_right_is_no_error_and_certain_and_wrong_the_largest():
    p = np.eye(2)
    assert expected_calibration_error([0, 1], p) == 0.0
    assert expected_calibration_error([1, 0], p) == 1.0


@pytest.mark.parametrize(
    ("y", "p", "n_bins", "sentence"),
    [
        ([0, 1], [[2.0, -1.0], [0.5, 0.5]], 15, "between 0 and 1"),
        ([0, 1], [[0.5, 0.5]], 15, "inconsistent"),
        ([0, 1], [[0.5, 0.5]] * 2, 0, "n_bins must be an integer of at least 1"),
        ([0, 1], [[0.5, 0.5]] * 2, 2.5, "n_bins must be an integer"),
        ([0, 1], [[0.9, 0.9], [0.8, 0.2]], 15, "sum to 1"),
    ],
)
def test_what_has_no_error_is_refused(y, p, n_bins, sentence):
    with pytest.raises(ValueError, match=sentence):
        expected_calibration_error(y, p, n_bins=n_bins)
