"""Intervals and corrected p-values against scipy and the definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_sklearn.model_selection._intervals import holm, mean_interval

SKEWED = np.random.default_rng(0).exponential(size=40)


def test_a_bootstrap_interval_holds_the_middle_of_resampled_means():
    """95 % of the means of resamples, drawn here by hand, lie between its ends."""
    low, high, half = mean_interval(SKEWED, "bootstrap", random_state=0)
    rng = np.random.default_rng(1)
    means = rng.choice(SKEWED, (20_000, len(SKEWED))).mean(axis=1)
    assert np.mean(means < low) == pytest.approx(0.025, abs=0.006)
    assert np.mean(means > high) == pytest.approx(0.025, abs=0.006)
    assert half == (high - low) / 2


def test_the_two_kinds_agree_on_many_scores():
    scores = np.random.default_rng(0).normal(size=800)
    by_t, by_bootstrap = (mean_interval(scores, kind, 0) for kind in ("t", "bootstrap"))
    np.testing.assert_allclose(by_t, by_bootstrap, atol=0.004)


def test_a_seed_fixes_the_resamples_and_leaves_the_global_generator():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (mean_interval(SKEWED, "bootstrap", seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert one == same != other


@pytest.mark.parametrize("kind", ["t", "bootstrap"])
@pytest.mark.parametrize("scores", [[0.5], [0.5, np.nan, 0.7]], ids=["one", "NaN"])
def test_one_score_or_an_undefined_one_has_no_interval(kind, scores):
    assert np.isnan(mean_interval(np.array(scores), kind)).all()


@pytest.mark.parametrize("kind", ["t", "bootstrap"])
def test_equal_scores_have_an_interval_without_width(kind):
    assert mean_interval(np.full(5, 0.25), kind) == (0.25, 0.25, 0.0)


def test_holm_is_the_example_of_its_definition():
    """0.01 x 4, 0.02 x 3, 0.03 x 2; 0.04 x 1 is raised to the 0.06 before it."""
    p_values = np.array([0.04, 0.01, 0.03, 0.02])
    np.testing.assert_allclose(holm(p_values), [0.06, 0.04, 0.06, 0.06])


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_its_steps_reject(p_values, level):
    """Going up the sorted p-values, reject while p_(k) <= level / (M - k + 1), then stop."""
    p_values = np.array(p_values)
    rejected = np.zeros(len(p_values), dtype=bool)
    for k, i in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[i] * (len(p_values) - k) > level:
            break
        rejected[i] = True
    np.testing.assert_array_equal(holm(p_values) <= level, rejected)


def test_what_is_undefined_is_no_comparison_to_correct_for():
    np.testing.assert_array_equal(holm(np.array([np.nan, 0.01, np.nan, 0.04])), [
        np.nan, 0.02, np.nan, 0.04,
    ])  # fmt: skip
