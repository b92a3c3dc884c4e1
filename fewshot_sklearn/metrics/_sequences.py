"""How far predicted bits of sequences are from the right ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_EPS = np.finfo(np.float64).eps


def bits_per_sequence(y_true: Any, y_proba: Any) -> float:
    r"""Return the mean cost of a sequence in bits [1]_.

    .. math::
        \frac1N \sum_i \sum_{t, k} -y_{itk} \log_2 p_{itk} - (1 - y_{itk}) \log_2 (1 - p_{itk})

    over sequences i, steps t and outputs k whose target is not NaN. It is the cross-entropy, what
    the curves of [1]_ show: a coin for every bit costs as much as there are bits.

    Parameters
    ----------
    y_true : list of n_sequences array-likes of shape (length_i, n_outputs) or (length_i,)
        0 and 1, and NaN where a bit does not count.
    y_proba : list of n_sequences array-likes of the same shapes
        The probability of a one, as ``predict_proba`` returns it.

    Returns
    -------
    cost : float
        At least 0, the best. Probabilities nearer to 0 or 1 than 2.2e-16 count as that.

    Raises
    ------
    ValueError
        When the shapes do not belong together, or values are out of their range.

    See Also
    --------
    wrong_bits_per_sequence : The number of wrong bits.

    References
    ----------
    .. [1] Graves, Wayne and Danihelka (2014). "Neural Turing machines." arXiv:1410.5401.

    Examples
    --------
    >>> from fewshot_sklearn.metrics import bits_per_sequence
    >>> nan = float("nan")
    >>> bits_per_sequence([[nan, 1, 0], [nan, 1]], [[0.9, 0.5, 0.5], [0.9, 0.25]])
    2.0
    """
    costs = []
    for i, (y, p) in enumerate(_pairs(y_true, y_proba, "y_proba")):
        counts = ~np.isnan(y)
        y, p = y[counts], p[counts]
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(
                f"y_proba must hold probabilities between 0 and 1, but y_proba[{i}] has others."
            )
        p = np.clip(np.where(y == 1, p, 1 - p), _EPS, 1)
        costs.append(-np.log2(p).sum())
    return float(np.mean(costs))


def wrong_bits_per_sequence(y_true: Any, y_pred: Any) -> float:
    """Return the mean number of wrong bits of a sequence.

    Parameters
    ----------
    y_true : list of n_sequences array-likes of shape (length_i, n_outputs) or (length_i,)
        0 and 1, and NaN where a bit does not count.
    y_pred : list of n_sequences array-likes of the same shapes
        0 and 1, as ``predict`` returns them.

    Returns
    -------
    n_wrong : float
        At least 0, the best.

    Raises
    ------
    ValueError
        When the shapes do not belong together, or a target is no bit.

    See Also
    --------
    bits_per_sequence : The cost of a sequence in bits, which counts how sure each bit was.

    Examples
    --------
    >>> from fewshot_sklearn.metrics import wrong_bits_per_sequence
    >>> nan = float("nan")
    >>> wrong_bits_per_sequence([[nan, 1, 0], [nan, 1]], [[1, 1, 1], [1, 1]])
    0.5
    """
    pairs = _pairs(y_true, y_pred, "y_pred")
    return float(np.mean([(y != p)[~np.isnan(y)].sum() for y, p in pairs]))


def neg_bits_per_sequence(estimator: Any, X: Any, y: Any) -> float:
    """Return minus :func:`bits_per_sequence` of an estimator: a value for ``scoring``.

    Parameters
    ----------
    estimator : classifier of sequences
        Fitted.
    X : list of n_sequences array-likes of shape (length_i, n_features)
        The inputs.
    y : list of n_sequences array-likes of shape (length_i, n_outputs) or (length_i,)
        The targets.

    Returns
    -------
    score : float
        At most 0, the best.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from fewshot_sklearn import NTMSequenceClassifier
    >>> from fewshot_sklearn.datasets import make_copy_sequences
    >>> from fewshot_sklearn.metrics import neg_bits_per_sequence
    >>> X, y = make_copy_sequences(30, lengths=2, n_bits=2, random_state=0)
    >>> clf = NTMSequenceClassifier(memory="lstm", max_iter=5, random_state=0)
    >>> cross_val_score(clf, X, y, scoring=neg_bits_per_sequence, cv=3).round()
    array([-4., -4., -4.])
    """
    return -bits_per_sequence(y, estimator.predict_proba(X))


def _pairs(
    y_true: Any, y_other: Any, name: str
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return targets and predictions of each sequence, of the same shapes."""
    if len(y_true) != len(y_other) or not len(y_true):
        raise ValueError(
            f"y_true and {name} must have the same number of sequences, at least one; got "
            f"{len(y_true)} and {len(y_other)}."
        )
    pairs = []
    for i, (y, other) in enumerate(zip(y_true, y_other, strict=True)):
        y, other = np.asarray(y, dtype=np.float64), np.asarray(other, dtype=np.float64)
        if y.shape != other.shape:
            raise ValueError(
                f"y_true[{i}] and {name}[{i}] must have the same shape, got {y.shape} and "
                f"{other.shape}."
            )
        if not np.isin(y[~np.isnan(y)], (0, 1)).all():
            raise ValueError(f"y_true must be 0, 1 or NaN, but y_true[{i}] has other values.")
        pairs.append((y, other))
    return pairs
