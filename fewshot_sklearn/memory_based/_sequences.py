"""Lists of sequences: what they must be like, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._supervised_base import hold_out
from ..nn import SequenceBatch
from ..tasks._tensors import TensorMaker

Arrays = list[NDArray[Any]]

# Batches whose sequences are sorted by length together.
_BUCKETS = 16


def check_inputs(X: Any, dtype: Any, n_features: int | None = None) -> Arrays:
    """Return sequences as arrays (length, n_features).

    Parameters
    ----------
    X : sequence of array-likes
    dtype : dtype
    n_features : int or None
        How many there must be; None takes those of the first sequence.

    Raises
    ------
    TypeError, ValueError
        When X is no such thing; the message names the first sequence that is wrong.
    """
    X = [_as_array(x, f"X[{i}]", dtype) for i, x in enumerate(_as_list(X, "X"))]
    for i, x in enumerate(X):
        if x.ndim != 2 or not len(x):
            raise ValueError(
                f"X[{i}] must have the shape (length, n_features) with a length of at least 1, got "
                f"{x.shape}; one sequence alone goes into a list, as [X], and a sequence of "
                "numbers needs a column, as x[:, None]."
            )
        if n_features is not None and x.shape[1] != n_features:
            known = "X[0]" if i and n_features == X[0].shape[1] else "fit"
            raise ValueError(
                f"every sequence must have the {n_features} features of {known}, but X[{i}] has "
                f"{x.shape[1]} features."
            )
        n_features = x.shape[1]
        if not np.isfinite(x).all():
            raise ValueError(
                f"X must be finite, but X[{i}] has NaN or infinite values; fill them in. Only "
                "targets may be NaN, where they do not count."
            )
    return X


def check_targets(y: Any, X: Arrays, dtype: Any, n_outputs: int | None = None) -> Arrays:
    """Return the targets of checked sequences as arrays (length, n_outputs).

    Parameters
    ----------
    y : sequence of array-likes
        NaN where a target does not count; one-dimensional for a single output.
    X : list of ndarray
    dtype : dtype
    n_outputs : int or None
        How many there must be; None takes those of the first sequence.

    Raises
    ------
    TypeError, ValueError
        When y is no such thing; the message names the first sequence that is wrong.
    """
    if y is None:
        raise ValueError("y must hold the targets of every sequence, but it is None.")
    y = [_as_array(targets, f"y[{i}]", dtype) for i, targets in enumerate(_as_list(y, "y"))]
    if len(y) != len(X):
        raise ValueError(
            f"X and y must have the same number of sequences, got {len(X)} and {len(y)}."
        )
    y = [targets[:, None] if targets.ndim == 1 else targets for targets in y]
    for i, (x, targets) in enumerate(zip(X, y, strict=True)):
        if targets.ndim != 2 or len(targets) != len(x) or not targets.shape[1]:
            raise ValueError(
                f"y[{i}] must have a row of targets for each of the {len(x)} steps of X[{i}], got "
                f"the shape {targets.shape}; make the targets of steps that do not count NaN."
            )
        n_outputs = targets.shape[1] if n_outputs is None else n_outputs
        if targets.shape[1] != n_outputs:
            raise ValueError(
                f"every sequence must have {n_outputs} targets a step, but y[{i}] has "
                f"{targets.shape[1]}."
            )
        if np.isinf(targets).any():
            raise ValueError(f"y must be finite or NaN, but y[{i}] has infinite values.")
    if all(np.isnan(targets).all() for targets in y):
        raise ValueError("y is NaN everywhere, so that no step counts; give some targets.")
    return y


def _as_list(sequences: Any, name: str) -> list[Any]:
    listed = isinstance(sequences, Sequence | np.ndarray) and not isinstance(sequences, str | bytes)
    if not listed or np.ndim(sequences[:0]) == 0:
        raise TypeError(
            f"{name} must be a list of arrays, one a sequence, or an array of shape (n_sequences, "
            f"length, n_columns), got {type(sequences).__name__}."
        )
    if not len(sequences):
        raise ValueError(f"{name} has no sequences (n_samples=0); at least 1 is needed.")
    return list(sequences)


def _as_array(values: Any, name: str, dtype: Any) -> NDArray[Any]:
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from error


def make_batch(X: Arrays, y: Arrays, make: TensorMaker) -> SequenceBatch:
    """Return sequences and targets as one padded batch."""
    targets = pad(y, fill=np.nan)
    counts = ~np.isnan(targets)
    return SequenceBatch(
        make.features(pad(X)),
        make.features(np.where(counts, targets, 0)),
        torch.from_numpy(counts).to(make.device),
    )


def pad(sequences: Arrays, fill: float = 0.0) -> NDArray[Any]:
    """Stack arrays (length_i, n) to (N, longest, n)."""
    shape = (len(sequences), max(map(len, sequences)), sequences[0].shape[1])
    padded = np.full(shape, fill, dtype=sequences[0].dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


def endless_batches(
    X: Arrays, y: Arrays, size: int, make: TensorMaker, rng: np.random.Generator
) -> Iterator[SequenceBatch]:
    """Yield random batches of sequences of like length; each pass sees every sequence once."""
    lengths = np.array([len(x) for x in X])
    size = min(size, len(X))
    left = np.empty(0, dtype=np.int64)
    while True:
        left = np.concatenate([left, rng.permutation(len(X))])
        while len(left) >= size:
            n_now = min(_BUCKETS, len(left) // size) * size
            now, left = left[:n_now], left[n_now:]
            batches = now[lengths[now].argsort(kind="stable")].reshape(-1, size)
            for numbers in rng.permutation(batches):
                yield make_batch([X[i] for i in numbers], [y[i] for i in numbers], make)


def map_sequences(
    compute: Callable[[Tensor], Tensor], X: Arrays, make: TensorMaker, most_steps: int
) -> Arrays:
    """Return what is computed of each sequence, for sequences of like length together.

    Parameters
    ----------
    compute : callable
        [N, L, I] -> [N, L, C].
    X : list of ndarray
    make : TensorMaker
    most_steps : int
        Of all sequences that are computed together, padding included.
    """
    order = sorted(range(len(X)), key=lambda i: len(X[i]))
    results: dict[int, NDArray[Any]] = {}
    while order:
        size = max(1, most_steps // len(X[order[-1]]))
        numbers, order = order[-size:], order[:-size]
        outputs = compute(make.features(pad([X[i] for i in numbers]))).double().cpu().numpy()
        for i, output in zip(numbers, outputs, strict=True):
            results[i] = output[: len(X[i])]
    return [results[i] for i in range(len(X))]


def hold_out_sequences(
    X: Arrays, y: Arrays, make: TensorMaker, random_state: Any
) -> tuple[Arrays, Arrays, SequenceBatch]:
    """Split a tenth of the sequences off, as one batch."""
    kept, held_out = hold_out(len(X), random_state)
    if not len(kept):
        raise ValueError(
            "early_stopping=True holds out a tenth of the sequences, which needs at least two; "
            "pass more, or early_stopping=False."
        )
    return (
        [X[i] for i in kept],
        [y[i] for i in kept],
        make_batch([X[i] for i in held_out], [y[i] for i in held_out], make),
    )
