"""Batches of tables of unequal size, cut to batches of like size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


def alike_tables(batch: TaskBatch, size: int) -> Iterator[TaskBatch]:
    """Yield tasks of like size together, without padding that none of them needs.

    Parameters
    ----------
    batch : TaskBatch
        Of rows [T, N, F], in which a task with fewer features has zeros behind them.
    size : int
        Tasks at once, at most.

    Yields
    ------
    part : TaskBatch
        Every task is in one of them.
    """
    n_support = _last(batch.support_mask, batch.x_support)
    n_query = _last(batch.query_mask, batch.x_query)
    used = batch.x_support.any(dim=1) | batch.x_query.any(dim=1)
    n_features = _last(used, used).clamp_min(1)
    order = (n_features * (n_support + n_query)).argsort()
    for tasks in order.split(size):
        s, q, f = (int(n[tasks].max()) for n in (n_support, n_query, n_features))
        yield replace(
            batch,
            x_support=batch.x_support[tasks, :s, :f],
            y_support=batch.y_support[tasks, :s],
            x_query=batch.x_query[tasks, :q, :f],
            y_query=batch.y_query[tasks, :q],
            support_mask=_mask(batch.support_mask, tasks, s),
            query_mask=_mask(batch.query_mask, tasks, q),
            class_mask=None if batch.class_mask is None else batch.class_mask[tasks],
            concepts=None if batch.concepts is None else batch.concepts[tasks],
        )


def _last(real: Tensor | None, like: Tensor) -> Tensor:
    """Return how many entries each task has up to the last real one [T]."""
    n_all = like.shape[1]
    if real is None:
        return torch.full(like.shape[:1], n_all, device=like.device)
    return (real * torch.arange(1, n_all + 1, device=like.device)).amax(dim=1)


def _mask(mask: Tensor | None, tasks: Tensor, n_rows: int) -> Tensor | None:
    """Return the mask of some tasks, None where it leaves nothing out."""
    if mask is None:
        return None
    part = mask[tasks, :n_rows]
    return None if bool(part.all()) else part
