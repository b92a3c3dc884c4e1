"""How far probabilities are from frequencies."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, check_consistent_length, column_or_1d


def expected_calibration_error(
    y_true: ArrayLike, y_proba: ArrayLike, *, classes: ArrayLike | None = None, n_bins: int = 15
) -> float:
    r"""Return how far a classifier's confidence is from its accuracy [1]_.

    The predictions are put into bins of like confidence (the probability of the predicted class):

    .. math:: \sum_{b} \frac{n_b}{n} \, | \text{accuracy}_b - \text{confidence}_b |

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        The classes.
    y_proba : array-like of shape (n_samples, n_classes)
        What ``predict_proba`` returned.
    classes : array-like of shape (n_classes,), default=None
        The classes of the columns, such as a classifier's ``classes_``. None takes the sorted
        values of ``y_true``.
    n_bins : int, default=15
        Bins of equal width between 0 and 1.

    Returns
    -------
    error : float
        Between 0, the best, and 1.

    Raises
    ------
    ValueError
        When the shapes do not belong together, or ``y_proba`` has no probabilities.

    Notes
    -----
    The error of few predictions is biased upwards: pool the query rows of many tasks rather than
    averaging over tasks of few rows.

    References
    ----------
    .. [1] Guo, Pleiss, Sun, Weinberger (2017). "On calibration of modern neural networks." ICML.

    Examples
    --------
    >>> from fewshot_sklearn.metrics import expected_calibration_error
    >>> y_proba = [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]
    >>> round(expected_calibration_error([0, 1, 1, 1], y_proba), 3)
    0.35
    """
    y: NDArray[Any] = column_or_1d(y_true)
    p: NDArray[np.float64] = check_array(y_proba, dtype=np.float64)
    check_consistent_length(y, p)
    labels: NDArray[Any] = np.unique(y) if classes is None else column_or_1d(classes)
    if p.shape[1] != len(labels):
        raise ValueError(
            f"y_proba needs a column for each class: got {p.shape[1]} columns for "
            f"{len(labels)} classes; pass classes=clf.classes_."
        )
    unknown = np.setdiff1d(y, labels)
    if len(unknown) or len(np.unique(labels)) < len(labels):
        problem = f"lack {unknown.tolist()} of y_true" if len(unknown) else "name a class twice"
        raise ValueError(
            "classes must be the classes of the columns, each once, but "
            f"{labels.tolist()} {problem}."
        )
    if p.min() < 0 or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError(
            "y_proba must hold probabilities between 0 and 1 that sum to 1 in each row, as "
            "predict_proba does."
        )
    if not isinstance(n_bins, Integral) or n_bins < 1:
        raise ValueError(f"n_bins must be an integer of at least 1, got {n_bins!r}.")
    confidence = p.max(axis=1)
    right = labels[p.argmax(axis=1)] == y
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(y))
