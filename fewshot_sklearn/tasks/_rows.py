"""Rows of whatever holds features: arrays, memory maps, DataFrames, sparse matrices."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

# How much of a memory map is read at a time.
_CHUNK_BYTES = 2**25


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


def join_rows(parts: Sequence[Any]) -> Any:
    """Return the rows of several arrays, DataFrames or sparse matrices of one kind as one.

    Parameters
    ----------
    parts : sequence of array, DataFrame or sparse matrix
        With the same columns.

    Returns
    -------
    ndarray, DataFrame or CSR matrix
        The same object if there is one part.

    Raises
    ------
    TypeError
        If they are of several kinds, or of a kind that cannot be joined.
    """
    if len(parts) == 1:
        return parts[0]
    kinds = [_joined_by(part) for part in parts]
    if any(kind is not kinds[0] for kind in kinds):
        names = sorted({type(part).__name__ for part in parts})
        raise TypeError(f"all rows must be of one kind, got {' and '.join(names)}.")
    return kinds[0](parts)


def _joined_by(part: Any) -> Callable[[Sequence[Any]], Any]:
    """Return the function that joins arrays, frames or matrices of this kind."""
    if hasattr(part, "iloc"):
        return _join_frames
    if sparse.issparse(part):
        return _join_sparse
    return np.concatenate


def _join_frames(parts: Sequence[Any]) -> Any:
    import pandas as pd  # the caller has it: these are its objects

    return pd.concat(parts, ignore_index=True)


def _join_sparse(parts: Sequence[Any]) -> Any:
    return sparse.vstack(parts, format="csr")


def map_in_chunks(function: Callable[[Any], Any], X: Any, rows: NDArray[np.int64]) -> Any:
    """Apply a function to rows of a memory map, 32 MiB of them at a time.

    Parameters
    ----------
    function : callable
        Takes an array of rows and returns as many.
    X : ndarray of shape (n_all, ...)
        In a file.
    rows : ndarray of shape (n_rows,), dtype int64
        In ascending order, so that the file is read from the front.

    Returns
    -------
    ndarray of shape (n_rows, ...), or whatever else the function returns
        Arrays are written to a memory map in the folder of temporary files, which is deleted with
        the array; anything else, such as sparse matrices, is joined in memory.
    """
    size = max(1, _CHUNK_BYTES // max(1, X[:1].nbytes))
    starts = range(0, len(rows), size)
    chunks = (function(X[rows[start : start + size]]) for start in starts)
    first = next(chunks)
    if not isinstance(first, np.ndarray) or first.dtype.kind == "O":
        return join_rows([first, *chunks])
    mapped = _temporary_map((len(rows), *first.shape[1:]), first.dtype)
    mapped[: len(first)] = first
    for start, chunk in zip(starts[1:], chunks, strict=True):
        mapped[start : start + size] = chunk
    return mapped


def _temporary_map(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a new memory map whose file is deleted with it."""
    folder = tempfile.mkdtemp(prefix="fewshot_sklearn")
    mapped = np.memmap(Path(folder) / "rows", dtype=dtype, mode="w+", shape=shape)
    weakref.finalize(mapped, shutil.rmtree, folder, ignore_errors=True)
    return mapped


def check_flat(X: Any) -> None:
    """Refuse rows that are not lists of features."""
    if X.ndim != 2:
        raise ValueError(
            f"a row of X must be a list of features, got rows of the shape {tuple(X.shape[1:])}; "
            "flatten them by X.reshape(len(X), -1)."
        )
