"""Labels as users have them: any type, some missing, class names or real numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Coded:
    """Labels written as positions in a list of distinct values.

    Parameters
    ----------
    codes : ndarray of shape (n,), dtype int64
        The position of each label in ``values``; -1 where it is missing.
    values : ndarray of shape (n_values,)
        The distinct values.
    """

    codes: NDArray[np.int64]
    values: NDArray[Any]


def is_missing(values: Any) -> NDArray[np.bool_]:
    """Return where an array, Series or DataFrame holds NaN, NaT, None or NA, in its shape."""
    if hasattr(values, "isna"):
        return np.asarray(values.isna(), dtype=bool)
    values = np.asarray(values)
    if values.dtype.kind in "fc":
        return np.asarray(np.isnan(values))
    if values.dtype.kind in "mM":
        return np.asarray(np.isnat(values))
    if values.dtype.kind != "O":
        return np.zeros(values.shape, dtype=bool)
    # pandas.NA answers no comparison with a bool, so it is known by its type, without pandas.
    flat = [v is None or type(v).__name__ == "NAType" or v != v for v in values.ravel()]
    return np.array(flat, dtype=bool).reshape(values.shape)


def as_labels(y: Any) -> NDArray[Any]:
    """Return labels without missing values as an array of the plainest type that holds them.

    Parameters
    ----------
    y : array-like
        Labels, one a row (or several, for regression).

    Returns
    -------
    ndarray
        Without a copy if it was an array of a plain type; an array of Python numbers becomes one
        of numbers.
    """
    labels = np.asarray(y)
    if labels.dtype.kind == "O" and labels.size and not isinstance(labels.flat[0], str):
        plain = np.array(labels.tolist())
        if plain.dtype.kind in "biuf" and plain.shape == labels.shape:
            return plain
    return labels


def is_real_valued(y: NDArray[Any]) -> bool:
    """Return whether labels are numbers to regress rather than classes.

    As in scikit-learn, floats that are all integers count as classes; several columns are always
    regression.
    """
    if y.ndim > 1:
        return True
    return y.dtype.kind == "f" and bool(np.any(y != np.floor(y)))


def label_set(*ys: Any) -> frozenset[Any]:
    """Return the distinct labels of one or several label vectors."""
    return frozenset(label for y in ys for label in np.asarray(y).ravel().tolist())


def encode(labels: Any, *, what: str) -> Coded:
    """Write labels as positions in their sorted distinct values.

    Parameters
    ----------
    labels : array-like of shape (n,) or Coded
        Strings, numbers, bools or dates; some may be missing.
    what : str
        How an error calls them.

    Returns
    -------
    Coded
        With code -1 where a label is missing.

    Raises
    ------
    ValueError
        If they are not one-dimensional, or of types that have no common order.
    """
    if isinstance(labels, Coded):
        return labels
    if not hasattr(labels, "shape"):
        labels = np.asarray(labels, dtype=_list_dtype(labels))
    if len(labels.shape) != 1:
        raise ValueError(f"{what} must have one dimension, got shape {tuple(labels.shape)}.")
    try:
        if hasattr(labels, "factorize"):  # pandas hashes instead of sorting and knows its NA
            codes, values = labels.factorize(sort=True)
            return Coded(codes.astype(np.int64, copy=False), np.asarray(values))
        labels = np.asarray(labels)
        present = ~is_missing(labels)
        codes = np.full(len(labels), -1, dtype=np.int64)
        values, codes[present] = np.unique(labels[present], return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"{what} must be of one type so that it can be sorted, got a mixture ({error}); "
            "convert it, for instance to str."
        ) from error
    return Coded(codes, values)


def _list_dtype(labels: Any) -> type | None:
    """Return object for lists with None or of several types, which NumPy would turn to text."""
    return object if len({type(label) for label in labels}) > 1 else None
