"""The commonest scores of one task without the validation that makes up most of their cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.pipeline import Pipeline

FastScore = Callable[[NDArray[Any], NDArray[Any]], float | None]
SCORE = "score"  # what the score of a single scorer is called
# The score methods that do nothing but compare what predict returns.
COMMON_SCORES = {ClassifierMixin.score: "accuracy", RegressorMixin.score: "r2"}


def fast_scores(estimator: Any, scoring: Any) -> dict[str, FastScore] | None:
    """Return a function of (y_query, predictions) by scorer name, None unless all have one.

    It gives the very number of scikit-learn's scorer, or None where that must be asked itself.
    """
    if scoring is None:
        scoring = COMMON_SCORES.get(score_method(estimator))
    if isinstance(scoring, list | tuple):
        scoring = {name: name for name in scoring}
    elif not isinstance(scoring, Mapping):
        scoring = {SCORE: scoring}
    if not all(isinstance(name, str) and name in _FAST_SCORES for name in scoring.values()):
        return None
    return {name: _FAST_SCORES[scorer] for name, scorer in scoring.items()}


def score_method(estimator: Any) -> Any:
    """Return the function behind an estimator's ``score``; behind a pipeline's its last step's."""
    if isinstance(estimator, Pipeline):
        return score_method(estimator[-1])
    return getattr(type(estimator), "score", None)


def accuracy(y: NDArray[Any], predicted: NDArray[Any]) -> float | None:
    """Return the share of labels predicted, if both are whole numbers, bools or strings."""
    if y.ndim > 1 or y.shape != predicted.shape or y.dtype.kind != predicted.dtype.kind:
        return None
    if not (_are_classes(y) and _are_classes(predicted)):
        return None
    return float(np.count_nonzero(y == predicted) / len(y))


def r2(y: NDArray[Any], predicted: NDArray[Any]) -> float | None:
    """Return the coefficient of determination, averaged over outputs, if no output is constant."""
    columns = _as_columns(y, predicted)
    if columns is None:
        return None
    real, guess = columns
    spread = np.square(real - real.mean(axis=0)).sum(axis=0)
    if not spread.all():
        return None
    return float(np.mean(1 - np.square(real - guess).sum(axis=0) / spread))


def neg_mean_squared_error(y: NDArray[Any], predicted: NDArray[Any]) -> float | None:
    """Return minus the mean squared error, averaged over outputs."""
    errors = _errors(y, predicted)
    return None if errors is None else -float(np.square(errors).mean(axis=0).mean())


def neg_root_mean_squared_error(y: NDArray[Any], predicted: NDArray[Any]) -> float | None:
    """Return minus the root of the mean squared error, averaged over outputs."""
    errors = _errors(y, predicted)
    return None if errors is None else -float(np.sqrt(np.square(errors).mean(axis=0)).mean())


def neg_mean_absolute_error(y: NDArray[Any], predicted: NDArray[Any]) -> float | None:
    """Return minus the mean absolute error, averaged over outputs."""
    errors = _errors(y, predicted)
    return None if errors is None else -float(np.abs(errors).mean(axis=0).mean())


def _are_classes(y: NDArray[Any]) -> bool:
    if y.dtype.kind == "f":
        return bool(np.isfinite(y).all() and (y == np.floor(y)).all())
    if y.dtype.kind == "O":  # strings, as pandas has them
        return set(map(type, y.tolist())) == {str}
    return y.dtype.kind in "biuU"


def _errors(y: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.float64] | None:
    columns = _as_columns(y, predicted)
    return None if columns is None else columns[1] - columns[0]


def _as_columns(
    y: NDArray[Any], predicted: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return finite targets and predictions as doubles [N, outputs], None for any other.

    scikit-learn sums column by column too, so that the numbers are the same to the last bit.
    """
    numbers = y.dtype.kind in "iuf" and y.dtype.itemsize <= 8 and predicted.dtype == np.float64
    if not numbers or y.ndim > 2 or y.shape != predicted.shape:
        return None
    if not (np.isfinite(y).all() and np.isfinite(predicted).all()):
        return None
    return y.astype(np.float64).reshape(len(y), -1), predicted.reshape(len(y), -1)


_FAST_SCORES: dict[str, FastScore] = {
    score.__name__: score
    for score in (
        accuracy,
        r2,
        neg_mean_squared_error,
        neg_root_mean_squared_error,
        neg_mean_absolute_error,
    )
}
