"""The algorithmic sequences against their definitions."""

import numpy as np
import pytest

from fewshot_sklearn.datasets import (
    make_associative_recall_sequences,
    make_copy_sequences,
    make_ngram_sequences,
    make_priority_sort_sequences,
    make_repeat_copy_sequences,
    ngram_optimal_proba,
)
from fewshot_sklearn.metrics import bits_per_sequence

MAKERS = [
    make_copy_sequences,
    make_repeat_copy_sequences,
    make_associative_recall_sequences,
    make_ngram_sequences,
    make_priority_sort_sequences,
]


@pytest.mark.parametrize("make", MAKERS)
def test_sequences_are_a_function_of_their_number_and_the_random_state(make):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    X, y = make(6, random_state=3)
    more_X, more_y = make(9, random_state=3)
    for one, other in zip(X + y, more_X[:6] + more_y[:6], strict=True):
        np.testing.assert_array_equal(one, other)
    other_X, _ = make(6, random_state=4)
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(X, other_X, strict=True))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("make", MAKERS)
def test_targets_have_a_row_a_step_and_are_bits_where_they_count(make):
    X, y = make(20, random_state=0)
    for x, targets in zip(X, y, strict=True):
        assert len(x) == len(targets)
        assert np.isfinite(x).all()
        known = targets[~np.isnan(targets)]
        assert len(known)
        assert np.isin(known, (0, 1)).all()


@pytest.mark.parametrize("make", MAKERS)
def test_no_sequences_are_an_error(make):
    with pytest.raises(ValueError, match="n_sequences"):
        make(0)


def test_a_copy_repeats_what_stood_before_the_delimiter():
    X, y = make_copy_sequences(200, lengths=(1, 20), random_state=0)
    lengths = set()
    for x, targets in zip(X, y, strict=True):
        (delimiter,) = np.flatnonzero(x[:, -1])
        lengths.add(delimiter)
        np.testing.assert_array_equal(targets[delimiter + 1 :], x[:delimiter, :-1])
        assert np.isnan(targets[: delimiter + 1]).all()
        assert not x[delimiter + 1 :].any()
    assert lengths == set(range(1, 21))
    assert np.mean(np.concatenate([x[: len(x) // 2, :-1] for x in X])) == pytest.approx(
        0.5, abs=0.02
    )


def test_repeats_are_as_many_as_their_channel_says():
    X, y = make_repeat_copy_sequences(50, random_state=0)
    shown = {}
    for x, targets in zip(X, y, strict=True):
        known = np.flatnonzero(~np.isnan(targets).any(axis=1))
        (told,) = np.flatnonzero(x[:, -1])
        vectors = x[:told, : targets.shape[1] - 1]
        answer = targets[known]
        n_repeats = (len(answer) - 1) // told
        np.testing.assert_array_equal(answer[:-1, :-1], np.tile(vectors, (n_repeats, 1)))
        np.testing.assert_array_equal(answer[:, -1], np.arange(len(answer)) == len(answer) - 1)
        shown.setdefault(n_repeats, set()).add(float(x[told, -1]))
    # One number for each number of repeats, and it grows with it.
    numbers = [shown[n] for n in sorted(shown)]
    assert all(len(number) == 1 for number in numbers)
    assert np.all(np.diff([number.pop() for number in numbers]) > 0)


def test_recall_answers_with_the_item_after_the_one_asked_for():
    X, y = make_associative_recall_sequences(50, n_items=(2, 5), n_bits=6, random_state=0)
    for x, targets in zip(X, y, strict=True):
        starts, queries = np.flatnonzero(x[:, -2]), np.flatnonzero(x[:, -1])
        item = (len(x) and starts[1] - starts[0] - 1) if len(starts) > 1 else None
        items = [x[s + 1 : s + 1 + item, :-2] for s in starts]
        asked = x[queries[0] + 1 : queries[0] + 1 + item, :-2]
        known = targets[~np.isnan(targets).any(axis=1)]
        answers = [items[i + 1] for i in range(len(items) - 1) if np.array_equal(items[i], asked)]
        assert any(np.array_equal(known, answer) for answer in answers)


def test_sorted_vectors_are_those_of_the_highest_priorities():
    X, y = make_priority_sort_sequences(50, random_state=0)
    for x, targets in zip(X, y, strict=True):
        known = targets[~np.isnan(targets).any(axis=1)]
        n_bits = targets.shape[1]
        n_shown = np.flatnonzero(np.isnan(targets).any(axis=1))
        shown = x[n_shown]
        shown = shown[shown[:, n_bits] != 0]
        order = np.argsort(-shown[:, n_bits], kind="stable")[: len(known)]
        np.testing.assert_array_equal(known, shown[order, :n_bits])


def test_the_next_bit_follows_its_context():
    X, y = make_ngram_sequences(30, length=40, n_context=3, random_state=0)
    for x, targets in zip(X, y, strict=True):
        assert x.shape == targets.shape == (39, 1)
        np.testing.assert_array_equal(targets[2:-1], x[3:])
        assert np.isnan(targets[:2]).all()


def test_the_best_prediction_is_the_share_that_was_counted():
    X, y = make_ngram_sequences(5, length=60, n_context=2, random_state=0)
    for x, targets, p in zip(X, y, ngram_optimal_proba(X, n_context=2), strict=True):
        bits = x[:, 0].astype(int)
        for t in range(1, len(bits)):
            follows = [
                bits[s + 1]
                for s in range(1, t)
                if (bits[s - 1 : s + 1] == bits[t - 1 : t + 1]).all()
            ]
            assert p[t, 0] == pytest.approx((sum(follows) + 0.5) / (len(follows) + 1))
        assert len(targets) == len(p)
    optimal = bits_per_sequence(y, ngram_optimal_proba(X, n_context=2))
    assert optimal < bits_per_sequence(y, [np.full_like(t, 0.5) for t in y])
