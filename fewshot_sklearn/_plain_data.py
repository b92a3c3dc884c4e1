"""A quick look at rows and labels, so that one small task costs little.

Whatever is not plainly good is left to scikit-learn's checks, which convert it or say what is
wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def plain_rows(owner: Any, X: Any, dtype: DTypeLike) -> NDArray[Any] | None:
    """Return rows as scikit-learn's ``validate_data`` would, or None where a look is not enough.

    Parameters
    ----------
    owner : estimator
        Knows how many features rows have.
    X : object
    dtype : dtype
        Of the result.

    Returns
    -------
    X : ndarray or None
        Only for finite numbers in a plain array of as many features as the owner knows, and these
        without names.
    """
    if type(X) is not np.ndarray or X.dtype.kind not in "fiub" or X.ndim < 2 or not len(X):
        return None
    known = vars(owner)
    if "feature_names_in_" in known or X.shape[1] != known.get("n_features_in_"):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        X = X.astype(dtype, copy=False)
        # The sum of numbers of which one is not finite is not finite, and takes no memory.
        return X if np.isfinite(X.sum()) else None


def are_plain_labels(y: Any) -> bool:
    """Return whether labels are whole numbers or words, one a row, so that they are classes."""
    return type(y) is np.ndarray and y.ndim == 1 and y.dtype.kind in "biuU"
