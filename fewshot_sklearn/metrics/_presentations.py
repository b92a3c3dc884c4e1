"""How well labels are known the first, second and later times that their class comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length, column_or_1d


def presentation_accuracy_score(y_true: ArrayLike, y_pred: ArrayLike) -> NDArray[np.float64]:
    """Return the accuracy at each presentation of the classes of a sequence [1]_.

    The first entry is the accuracy over the rows that are the first of their class in the
    sequence, where nobody can know better than chance; the second over those that are the second of
    their class, and so on.

    Parameters
    ----------
    y_true : array-like of shape (n_rows,)
        The classes of the rows, in the order in which they came.
    y_pred : array-like of shape (n_rows,)
        What was predicted of each row before its class was shown, as ``predict_sequence`` of
        :class:`~fewshot_sklearn.MANNClassifier` returns it.

    Returns
    -------
    accuracies : ndarray of shape (n_presentations,)
        As many as the most frequent class has rows.

    Raises
    ------
    ValueError
        When there is no row, or the two are not of one length.

    References
    ----------
    .. [1] Santoro et al. (2016). "Meta-learning with memory-augmented neural networks." ICML.

    Examples
    --------
    >>> from fewshot_sklearn.metrics import presentation_accuracy_score
    >>> presentation_accuracy_score(["a", "b", "a", "b", "a"], ["b", "b", "a", "a", "a"])
    array([0.5, 0.5, 1. ])
    """
    y: NDArray[Any] = column_or_1d(y_true)
    predicted: NDArray[Any] = column_or_1d(y_pred)
    check_consistent_length(y, predicted)
    if not len(y):
        raise ValueError("y_true must have at least one row, got none.")
    number = pd.Series(y).groupby(y, sort=False).cumcount()
    return pd.Series(y == predicted).groupby(number).mean().to_numpy(dtype=np.float64)
