"""Accuracy by presentation against a loop."""

import numpy as np
import pytest

from fewshot_sklearn.metrics import presentation_accuracy_score


def test_accuracies_are_those_of_a_loop_over_rows():
    rng = np.random.default_rng(0)
    y, predicted = rng.integers(4, size=(2, 50))
    right = {}
    seen = dict.fromkeys(range(4), 0)
    for truth, guess in zip(y, predicted, strict=True):
        seen[truth] += 1
        right.setdefault(seen[truth], []).append(truth == guess)
    expected = [np.mean(right[k]) for k in range(1, max(seen.values()) + 1)]
    np.testing.assert_allclose(presentation_accuracy_score(y, predicted), expected)


def test_labels_may_be_strings():
    assert presentation_accuracy_score(["a", "b", "a"], ["a", "a", "a"]).tolist() == [0.5, 1.0]


def test_no_row_is_an_error():
    with pytest.raises(ValueError, match="at least one row"):
        presentation_accuracy_score([], [])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        presentation_accuracy_score([0, 1], [0])
