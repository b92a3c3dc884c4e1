"""Rows and labels as tensors on one device, and batches of tasks made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.tasks._rows import is_memory_mapped
from fewshot_sklearn.tasks._targets import Columns

_NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64}


def stack(arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Stack arrays [N_t, *] to [T, max N_t, *], zeros after the end, with the mask of real rows.

    The mask is None when all have the same length.
    """
    return stack_rows(np.concatenate(arrays), [len(a) for a in arrays])


def stack_rows(
    rows: NDArray[Any], lengths: Sequence[int]
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Stack arrays as :func:`stack` does that lie one after the other in one [sum of N_t, *]."""
    longest = max(lengths)
    if min(lengths) == longest:
        return rows.reshape(len(lengths), longest, *rows.shape[1:]), None
    mask = np.arange(longest) < np.array(lengths)[:, None]
    stacked = np.zeros((*mask.shape, *rows.shape[1:]), dtype=rows.dtype)
    stacked[mask] = rows
    return stacked, mask


def map_stacked(function: Callable[[Any], Any], stacked: NDArray[Any]) -> NDArray[Any]:
    """Apply a function of rows [N, *] to the rows of many tasks [T, N, *]."""
    rows = function(stacked.reshape(-1, *stacked.shape[2:]))
    return np.asarray(rows.reshape(*stacked.shape[:2], *rows.shape[1:]))


def widen(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Give arrays [N_t, F_t] columns of zeros, so that all have as many as the widest."""
    widest = max(array.shape[1] for array in arrays)
    missing = [widest - array.shape[1] for array in arrays]
    pairs = zip(arrays, missing, strict=True)
    return [np.pad(array, ((0, 0), (0, n))) if n else array for array, n in pairs]


class TensorMaker:
    """Turns numpy arrays into tensors of one device and dtype.

    Parameters
    ----------
    device : torch.device
    dtype : torch.dtype
        Of the features and targets.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype

    def features(self, X: Any) -> Tensor:
        """Return features [.., *] as a tensor; sparse rows become dense."""
        if hasattr(X, "toarray"):
            X = X.astype(_NUMPY_TYPES[self.dtype], copy=False).toarray()
        X = np.asarray(X)
        if X.dtype.kind in "u" and X.dtype.itemsize > 1:
            X = X.astype(np.int64)  # torch lacks most unsigned types
        X = np.ascontiguousarray(X)
        # torch warns of arrays that it could be made to write to.
        X = X if X.flags.writeable else X.copy()
        return torch.from_numpy(X).to(self.device, self.dtype)

    def support(self, X: Any) -> Tensor:
        """Return the features of one support set [1, S, *], which no later change of X reaches."""
        return self.features(X).clone().unsqueeze(0)

    def mask(self, mask: NDArray[np.bool_] | None) -> Tensor | None:
        """Return a mask on the device."""
        return None if mask is None else torch.from_numpy(mask).to(self.device)

    def numbers(self, numbers: NDArray[np.int64]) -> Tensor:
        """Return whole numbers on the device."""
        return torch.from_numpy(numbers).to(self.device)

    def one_hot(self, codes: NDArray[np.int64], mask: Tensor | None, n_columns: int) -> Tensor:
        """Return column numbers [T, N] as one-hot [T, N, C], zero on padding rows."""
        columns = torch.from_numpy(codes).to(self.device).unsqueeze(-1)
        y = torch.zeros(*codes.shape, n_columns, dtype=self.dtype, device=self.device)
        y.scatter_(-1, columns, 1.0)
        return y if mask is None else y * mask.unsqueeze(-1)

    def class_mask(self, columns: list[Columns], n_columns: int) -> Tensor | None:
        """Return which columns each task uses [T, C], or None when every task uses all."""
        if all(len(c.positions) == n_columns for c in columns):
            return None
        mask = np.zeros((len(columns), n_columns), dtype=bool)
        for row, c in zip(mask, columns, strict=True):
            row[c.positions] = True
        return self.mask(mask)


class RowStore:
    """Features of a whole data set, from which batches of rows are gathered.

    On a CPU rows are gathered by numpy where they lie, a memory map included; on another device
    a data set that fits is sent there once.
    """

    def __init__(self, X: Any, make: TensorMaker, *, checked: bool) -> None:
        self._make = make
        self._checked = checked
        dense = isinstance(X, np.ndarray) and not is_memory_mapped(X)
        self._resident = None
        if dense and make.device.type != "cpu" and X.nbytes <= _resident_bytes(make.device):
            X = X if X.flags.writeable else X.copy()
            self._resident = torch.as_tensor(X, device=make.device)
        self.X = X

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        """Return rows [T, N] as features [T, N, *]."""
        if self._resident is not None:
            picked = torch.from_numpy(rows).to(self._resident.device)
            return self._resident[picked].to(self._make.dtype)
        if hasattr(self.X, "toarray"):
            x = self._make.features(self.X[rows.ravel()]).unflatten(0, rows.shape)
        else:
            x = self._make.features(self.X[rows])
        if not self._checked and not bool(torch.isfinite(x).all()):
            bad = rows[~torch.isfinite(x).flatten(2).all(dim=-1).cpu().numpy()]
            raise TaskError(
                f"X must be finite, but row {bad[0]} has NaN or infinite values; impute them or "
                "leave these rows out."
            )
        return x


def _resident_bytes(device: torch.device) -> int:
    """Return how large a data set may be to be kept on the device: a quarter of what is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 4
    return 2**30


@dataclass(frozen=True)
class TaskBatch:
    """A batch of tasks as padded tensors on one device.

    Attributes
    ----------
    x_support, x_query : Tensor of shape (T, S, *) and (T, Q, *)
        The rows' features.
    y_support, y_query : Tensor of shape (T, S, C) and (T, Q, C)
        One-hot labels or real targets; zero on padding rows.
    support_mask, query_mask : bool Tensor of shape (T, S) and (T, Q), or None
        False on padding rows; None when all tasks have the same size.
    class_mask : bool Tensor of shape (T, C), or None
        False for classes that a task does not have; None when every task has all of them
        and in regression.
    concepts : int64 Tensor of shape (T, C), or None
        The number of what each column stands for over all of the training tasks, -1 for a column
        that stands for nothing. Only where an estimator pre-trains with it.
    """

    x_support: Tensor
    y_support: Tensor
    x_query: Tensor
    y_query: Tensor
    support_mask: Tensor | None = None
    query_mask: Tensor | None = None
    class_mask: Tensor | None = None
    concepts: Tensor | None = None

    def __len__(self) -> int:
        return int(self.x_support.shape[0])

    def __getitem__(self, tasks: slice) -> TaskBatch:
        """Return some of the tasks as a smaller batch."""
        parts = [getattr(self, name) for name in _PARTS]
        chosen: list[Any] = [part if part is None else part[tasks] for part in parts]
        return TaskBatch(*chosen)


_PARTS = [field.name for field in fields(TaskBatch)]


def join_batches(batches: Sequence[TaskBatch]) -> TaskBatch:
    """Return the tasks of several batches of one shape as one batch."""
    if len(batches) == 1:
        return batches[0]
    columns = zip(*([getattr(batch, name) for name in _PARTS] for batch in batches), strict=True)
    joined: list[Any] = [None if parts[0] is None else torch.cat(parts) for parts in columns]
    return TaskBatch(*joined)


def cut_batches(batches: Iterator[TaskBatch], size: int) -> Iterator[TaskBatch]:
    """Cut the tasks of batches of any size to batches of one size, in their order."""
    batch, start = next(batches), 0
    while True:
        parts: list[TaskBatch] = []
        n_missing = size
        while n_missing:
            if start == len(batch):
                batch, start = next(batches), 0
            parts.append(batch[start : start + n_missing])
            start += len(parts[-1])
            n_missing -= len(parts[-1])
        yield join_batches(parts)
