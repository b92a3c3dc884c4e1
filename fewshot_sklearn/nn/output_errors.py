"""The derivatives of losses with respect to the outputs of a network, written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .functional import cross_entropy, mask_absent_classes, masked_labels, squared_error
from .learner import Loss


class SoftmaxError:
    """The derivatives of every task's mean cross-entropy.

    Parameters
    ----------
    y : Tensor of shape (T, N, C)
    mask : bool Tensor of shape (T, N) or None
    present : bool Tensor of shape (T, C) or None
        The classes that each task has; None: all.
    """

    def __init__(self, y: Tensor, mask: Tensor | None, present: Tensor | None) -> None:
        y = masked_labels(y, mask)
        self._present = None if present is None or bool(present.all()) else present
        share = 1.0 / _n_rows(y, mask)
        self._weight = y.sum(dim=-1, keepdim=True) * share
        self._target = y * share

    def delta(self, outputs: Tensor) -> tuple[Tensor, Any]:
        """Return what the loss changes with the outputs [T, N, C]."""
        p = torch.softmax(mask_absent_classes(outputs, self._present), dim=-1)
        return torch.addcmul(-self._target, p, self._weight), p

    def tangent(self, kept: Any, r: Tensor) -> Tensor:
        """Return how ``delta`` changes as the outputs change by r."""
        change = kept * r
        change = torch.addcmul(change, kept, change.sum(dim=-1, keepdim=True), value=-1)
        return change * self._weight


class SquaredError:
    """The derivatives of every task's mean squared error; parameters as :class:`SoftmaxError`."""

    def __init__(self, y: Tensor, mask: Tensor | None, present: Tensor | None) -> None:
        self._y = y
        self._weight: Any = 2.0 / (_n_rows(y, mask) * y.shape[2])
        if mask is not None:
            self._weight = self._weight * mask.unsqueeze(-1)

    def delta(self, outputs: Tensor) -> tuple[Tensor, Any]:
        """Return what the loss changes with the outputs [T, N, C]."""
        return (outputs - self._y) * self._weight, None

    def tangent(self, kept: Any, r: Tensor) -> Tensor:
        """Return how ``delta`` changes as the outputs change by r."""
        return r * self._weight


ERRORS: dict[Loss, type[SoftmaxError] | type[SquaredError]] = {
    cross_entropy: SoftmaxError,
    squared_error: SquaredError,
}


def _n_rows(y: Tensor, mask: Tensor | None) -> Any:
    """Return how many rows each task has, as what divides y [T, N, C]."""
    if mask is None:
        return y.shape[1]
    return mask.sum(dim=1).clamp_min(1).to(y.dtype).view(-1, 1, 1)
