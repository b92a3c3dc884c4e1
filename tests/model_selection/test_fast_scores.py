"""A fast score is scikit-learn's own number, or none at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    root_mean_squared_error,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fewshot_sklearn.model_selection._fast_scores import fast_scores

REFERENCES = {
    "r2": r2_score,
    "neg_mean_squared_error": lambda y, p: -mean_squared_error(y, p),
    "neg_root_mean_squared_error": lambda y, p: -root_mean_squared_error(y, p),
    "neg_mean_absolute_error": lambda y, p: -mean_absolute_error(y, p),
}


def fast(name):
    return fast_scores(Ridge(), name)["score"]


def strings(codes):
    return np.array(["ant", "bee", "cicada", "dragonfly"])[codes]


KINDS = {
    "integers": lambda codes: codes,
    "unsigned": lambda codes: codes.astype(np.uint8),
    "bools": lambda codes: codes > 1,
    "strings": strings,
    "strings as pandas has them": lambda codes: strings(codes).astype(object),
    "whole floats": lambda codes: codes.astype(float) - 2,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@settings(max_examples=30)
@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_the_accuracy_of_plain_labels_is_that_of_scikit_learn(kind, pairs):
    y, predicted = map(kind, np.array(pairs).T)
    assert fast("accuracy")(y, predicted) == accuracy_score(y, predicted)


@pytest.mark.parametrize(
    ("y", "predicted"),
    [
        (np.array([0.5, 1.0]), np.array([0.5, 1.0])),  # refused by scikit-learn
        (np.array([0.0, np.inf]), np.array([0.0, 1.0])),
        (np.array(["0", "1"]), np.array([0, 1])),
        (np.array([0, 1]), np.array([False, True])),
        (np.array(["a", 1], dtype=object), np.array(["a", 1], dtype=object)),
        (np.eye(2, dtype=int), np.eye(2, dtype=int)),
        (np.array([0, 1]), np.array([0])),
    ],
)
def test_unusual_labels_are_left_to_scikit_learn(y, predicted):
    assert fast("accuracy")(y, predicted) is None


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("name", REFERENCES)
@settings(max_examples=50)
@given(data=st.data(), dtype=st.sampled_from([np.float64, np.float32, np.int16]))
def test_a_fast_score_of_numbers_is_that_of_scikit_learn(name, data, dtype):
    shape = data.draw(array_shapes(min_dims=1, max_dims=2, max_side=6))
    y = data.draw(arrays(float, shape, elements=st.sampled_from([-3.5, 0.0, 0.1, 0.3, 1e6])))
    errors = data.draw(arrays(float, shape, elements=st.sampled_from([0.0, 1e-9, -0.25, 7.0])))
    y = y.astype(dtype if dtype is not np.int16 else np.int64)
    predicted = y + errors
    score = fast(name)(y, predicted)
    if score is not None:
        assert score == REFERENCES[name](y, predicted)
    else:
        assert name == "r2"
        assert (y == y[0]).all(axis=0).any() or dtype is np.float32


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("shape", [(12,), (12, 3)])
def test_the_usual_numbers_have_a_fast_score(name, shape):
    rng = np.random.default_rng(0)
    y, predicted = rng.normal(size=shape), rng.normal(size=shape)
    assert fast(name)(y, predicted) == REFERENCES[name](y, predicted)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(
    ("y", "predicted"),
    [
        (np.array([1.0, np.nan]), np.array([1.0, 2.0])),
        (np.array([1.0, 3.0]), np.array([1.0, np.inf])),
        (np.array([1.0, 3.0]), np.array([[1.0], [2.0]])),
        (np.array([1.0, 3.0]), np.array([1.0, 2.0], dtype=np.float32)),
        (np.array(["1", "3"]), np.array([1.0, 2.0])),
    ],
)
def test_unusual_numbers_are_left_to_scikit_learn(name, y, predicted):
    assert fast(name)(y, predicted) is None


def test_a_constant_target_is_left_to_scikit_learn():
    assert fast("r2")(np.full(5, 0.1), np.arange(5.0)) is None


class Own(ClassifierMixin):
    def score(self, X, y):
        return 1.0


@pytest.mark.parametrize(
    ("estimator", "scoring", "names"),
    [
        (LogisticRegression(), None, ["score"]),
        (Ridge(), None, ["score"]),
        (Ridge(), "r2", ["score"]),
        (Ridge(), ["r2", "neg_mean_squared_error"], ["r2", "neg_mean_squared_error"]),
        (Ridge(), {"own": "r2"}, ["own"]),
        (Ridge(), ["r2", "max_error"], None),
        (Ridge(), {"own": r2_score}, None),
        (Ridge(), lambda estimator, X, y: 0.0, None),
        (Own(), None, None),
        (make_pipeline(StandardScaler(), Ridge()), None, ["score"]),
        (make_pipeline(Own()), None, None),
    ],
)
def test_scores_are_fast_where_every_scorer_is_known(estimator, scoring, names):
    found = fast_scores(estimator, scoring)
    assert (found if found is None else list(found)) == names
