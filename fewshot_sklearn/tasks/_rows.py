"""Rows of whatever holds features: arrays, memory maps, DataFrames, sparse matrices."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_rows(X: Any) -> Any:
    """Return X if it can be indexed by rows as it is, otherwise an array or CSR matrix of it.

    Parameters
    ----------
    X : array-like, DataFrame or sparse matrix
        Anything with a ``shape`` is kept, never copied; only sparse formats without row indexing
        become CSR. Lists become arrays, lists of strings arrays of objects.

    Returns
    -------
    ndarray, DataFrame or sparse matrix
        With a ``shape`` and rows on its first axis.
    """
    if hasattr(X, "shape"):
        return X.tocsr() if hasattr(X, "tocsr") else X
    array = np.asarray(X)
    return array.astype(object) if array.dtype.kind == "U" else array


def n_rows(X: Any) -> int:
    """Return the number of rows of an array, DataFrame or sparse matrix."""
    return int(X.shape[0])


def take_rows(X: Any, rows: NDArray[np.int64]) -> Any:
    """Return the given rows as a new object of X's kind, in the given order."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def is_memory_mapped(X: Any) -> bool:
    """Return whether an array lies in a file rather than in memory."""
    while X is not None:
        if isinstance(X, np.memmap):
            return True
        X = getattr(X, "base", None)
    return False
