"""The product of many rows with one learned weight, fast where most entries are zero."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# From what width of rows, and below what share of entries, skipping zeros pays for finding them.
_MIN_WIDTH = 512
_MAX_DENSITY = 0.1


def row_product(x: Tensor, weight: Tensor) -> Tensor:
    """Return :math:`X W^T`, to be differentiated once with respect to the weight.

    On a CPU wide rows with few entries, such as molecular fingerprints, are multiplied entry by
    entry.

    Parameters
    ----------
    x : Tensor of shape (N, I)
        Not differentiated.
    weight : Tensor of shape (O, I)

    Returns
    -------
    product : Tensor of shape (N, O)
    """
    return _RowProduct.apply(x, weight)


class _RowProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.x = SparseRows.of(x) or x
        with without_autocast(x):
            return ctx.x @ weight.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        with without_autocast(delta):
            return None, (ctx.x.T @ delta).T.contiguous()


class SparseRows:
    """Rows of which only the entries that are not zero are kept.

    A product is a weighted sum of rows of a table for each row, as an embedding of bags of
    words is.

    Parameters
    ----------
    values, columns : Tensor of shape (n_entries,)
        Row after row.
    starts : Tensor of shape (N,)
        Where the entries of each row begin.
    rows : Tensor of shape (n_entries,)
        The row of each entry.
    width : int
    """

    def __init__(
        self, values: Tensor, columns: Tensor, starts: Tensor, rows: Tensor, width: int
    ) -> None:
        self.values, self.columns, self.starts, self.rows = values, columns, starts, rows
        self.width = width

    @classmethod
    def of(cls, x: Tensor) -> SparseRows | None:
        """Return rows [N, I] without their zeros, or None where that would not pay."""
        if x.device.type != "cpu" or x.shape[1] < _MIN_WIDTH:
            return None
        filled = x.detach().numpy() != 0  # several times faster than torch's nonzero
        if filled.sum() > _MAX_DENSITY * x.numel():
            return None
        places = torch.from_numpy(filled.ravel().nonzero()[0])
        rows = places // x.shape[1]
        columns = places - rows * x.shape[1]
        values = x.flatten().index_select(0, places)
        return cls(values, columns, _starts(rows, len(x)), rows, x.shape[1])

    def __matmul__(self, table: Tensor) -> Tensor:
        """Return the product with a table [I, O]."""
        return F.embedding_bag(
            self.columns,
            table.contiguous(),
            self.starts,
            mode="sum",
            per_sample_weights=self.values.to(table.dtype),
        )

    @property
    def T(self) -> SparseRows:
        """The transpose."""
        narrow = torch.int16 if self.width < 2**15 else torch.int32
        order = torch.argsort(self.columns.to(narrow), stable=True)
        columns = self.columns.index_select(0, order)
        starts = _starts(columns, self.width)
        values, rows = self.values.index_select(0, order), self.rows.index_select(0, order)
        return SparseRows(values, rows, starts, columns, len(self.starts))


def _starts(sorted_numbers: Tensor, n_numbers: int) -> Tensor:
    counts = torch.bincount(sorted_numbers, minlength=n_numbers)
    return counts.cumsum(0) - counts


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Return the context in which autocast does not round products."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
