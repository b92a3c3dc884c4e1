"""Labels as users have them: any type, some missing, class names or real numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Whole numbers are encoded by a table where it needs at most so many entries for each label.
_DENSE = 4


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
        labels = _as_vector(labels)
    if len(labels.shape) != 1:
        raise ValueError(f"{what} must have one dimension, got shape {tuple(labels.shape)}.")
    try:
        return _encode_pandas(labels) if hasattr(labels, "factorize") else _encode_array(labels)
    except TypeError as error:
        raise ValueError(
            f"{what} must be of one type so that it can be sorted, got a mixture ({error}); "
            "convert it, for instance to str."
        ) from error


def as_name(value: Any) -> Any:
    """Return a label as plain Python where it is a number, a bool or text, otherwise as it is."""
    return value.item() if isinstance(value, np.number | np.bool_ | np.str_) else value


def _encode_pandas(labels: Any) -> Coded:
    """Encode a Series, an Index, a Categorical or another array of pandas, which know their NA."""
    codes, values = labels.factorize()
    order = values.argsort()
    ranks = np.full(len(values) + 1, -1, dtype=np.int64)  # code -1 finds the last one
    ranks[order] = np.arange(len(values))
    return Coded(ranks[codes], np.asarray(values.take(order)))


def _encode_array(labels: Any) -> Coded:
    labels = np.asarray(labels)
    missing = is_missing(labels)
    if not missing.any():
        return _encode_present(labels)
    present = np.logical_not(missing, out=missing)
    codes = np.full(len(labels), -1, dtype=np.int64)
    coded = _encode_present(labels[present])
    codes[present] = coded.codes
    return Coded(codes, coded.values)


def _encode_present(labels: NDArray[Any]) -> Coded:
    """Encode labels of which none is missing, at the least cost in time and memory."""
    if labels.dtype.kind == "O":
        items = labels.tolist()
        distinct = sorted(set(items))
        code_of = {value: code for code, value in enumerate(distinct)}
        codes = np.fromiter(map(code_of.__getitem__, items), dtype=np.int64, count=len(items))
        return Coded(codes, _as_objects(distinct))
    if labels.dtype.kind in "biuf" and labels.size:
        with np.errstate(invalid="ignore"):
            whole = labels.astype(np.int64, copy=False)
        low = whole.min()
        n_between = int(whole.max()) - int(low) + 1
        if n_between <= _DENSE * len(labels) and np.array_equal(whole, labels):
            whole = whole - low
            seen = np.zeros(n_between, dtype=bool)
            seen[whole] = True
            values = (np.flatnonzero(seen) + low).astype(labels.dtype)
            return Coded((np.cumsum(seen) - 1)[whole], values)
    values, codes = np.unique(labels, return_inverse=True)
    return Coded(codes, values)


def _as_vector(labels: Any) -> NDArray[Any]:
    """Return a list as an array, of objects where NumPy would make text or a matrix of it."""
    labels = list(labels)
    types = {type(label) for label in labels}
    return _as_objects(labels) if len(types) > 1 or tuple in types else np.asarray(labels)


def _as_objects(items: list[Any]) -> NDArray[Any]:
    """Return items, which may be tuples, as a one-dimensional array."""
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array
