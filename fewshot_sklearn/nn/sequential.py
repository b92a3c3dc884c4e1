"""Learners that read the support rows one after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .functional import cross_entropy, mask_absent_classes, mixture_moments, present_classes
from .learner import Learner, Loss, State

Average = Callable[[Tensor, Tensor], Tensor]

# Of the states, one a task and an order, so many times more than tasks are read.
_LARGE = 2.0**32


def support_orders(y: Tensor, mask: Tensor | None, n_orders: int) -> Tensor:
    """Return orders in which to read the support rows of each task.

    The first is as they stand. The others are fixed shuffles, which depend on nothing but how
    many real rows there are; padding comes last.

    Parameters
    ----------
    y : Tensor of shape (T, S, *)
        Only its shape and device are looked at.
    mask : bool Tensor of shape (T, S) or None
    n_orders : int
        R.

    Returns
    -------
    orders : int Tensor of shape (T, R, S)
        Positions of rows.
    """
    real = y.new_ones(y.shape[:2], dtype=torch.bool) if mask is None else mask
    rank = (real.cumsum(dim=1) - 1).unsqueeze(1)
    number = torch.arange(n_orders, device=y.device).view(1, -1, 1)
    keys = torch.where(number == 0, rank, _scatter(rank + 1 + (number << 16)))
    return torch.where(real.unsqueeze(1), keys.double(), _LARGE).argsort(dim=-1, stable=True)


def _scatter(numbers: Tensor) -> Tensor:
    """Return numbers below 2^32 that look random but are a function of these."""
    for factor in (0x7FEB352D, 0x846CA68B, 0x9E3779B1):
        numbers = (numbers ^ (numbers >> 16)) * factor & 0xFFFFFFFF
    return numbers ^ (numbers >> 15)


def mean_outputs(outputs: Tensor, present: Tensor) -> Tensor:
    """Average the outputs [T, R, Q, C] of several orders: [T, Q, C]."""
    return outputs.mean(dim=1)


def mean_distribution(outputs: Tensor, present: Tensor) -> Tensor:
    """Return the moments [T, Q, 2 C] of the mixture of the normal distributions of all orders."""
    return mixture_moments(outputs)


def mean_probabilities(outputs: Tensor, present: Tensor) -> Tensor:
    """Return the logarithm of the mean probabilities of several orders.

    Parameters
    ----------
    outputs : Tensor of shape (T, R, Q, C)
        Logits.
    present : bool Tensor of shape (T, C)
        Which classes occur in the support set.

    Returns
    -------
    logits : Tensor of shape (T, Q, C)
    """
    outputs = mask_absent_classes(outputs, present.unsqueeze(1))
    # The floor of absent classes is kept finite.
    return (
        outputs.log_softmax(dim=-1)
        .exp()
        .mean(dim=1)
        .log()
        .clamp_min(torch.finfo(outputs.dtype).min / 2)
    )


class SequentialLearner(Learner):
    """A learner that reads the support rows in their order; several orders may be averaged.

    A subclass writes :meth:`read` and :meth:`answer` in place of ``adapt`` and ``predict``, and
    meta-trains on rows as they stand.

    Parameters
    ----------
    n_orders : int, default=1
        R. With more than one the support set is read in its own order and in fixed shuffles of
        it, and their predictions are averaged.
    loss : callable, default=cross_entropy
        As in :class:`Learner`.
    average : callable, default=mean_probabilities
        ``average(outputs, present)`` of the outputs [T, R, Q, C] of all orders.
    """

    def __init__(
        self,
        *,
        n_orders: int = 1,
        loss: Loss = cross_entropy,
        average: Average = mean_probabilities,
    ) -> None:
        super().__init__(loss)
        self.n_orders = n_orders
        self.average = average

    def read(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Read the support rows in their order; as in :meth:`Learner.adapt`."""
        raise NotImplementedError

    def answer(self, state: State, x: Tensor) -> Tensor:
        """Predict query rows from what :meth:`read` returned; as in :meth:`Learner.predict`."""
        raise NotImplementedError

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Read the support rows in each order."""
        if self.n_orders == 1:
            return self.read(x, y, mask)
        orders = support_orders(y, mask, self.n_orders)
        tasks = torch.arange(len(x), device=x.device).view(-1, 1, 1)

        def in_orders(rows: Tensor) -> Tensor:
            return rows[tasks, orders].flatten(0, 1)

        state = self.read(in_orders(x), in_orders(y), None if mask is None else in_orders(mask))
        state = {k: v.unflatten(0, orders.shape[:2]) for k, v in state.items()}
        return state | {"present": present_classes(y, mask)}

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Answer for each query row, averaged over the orders."""
        if self.n_orders == 1:
            return self.answer(state, x)
        state = dict(state)
        present = state.pop("present")
        x = x.repeat_interleave(self.n_orders, dim=0)
        outputs = self.answer({k: v.flatten(0, 1) for k, v in state.items()}, x)
        return self.average(outputs.unflatten(0, (-1, self.n_orders)), present)


class IncrementalSequentialLearner(SequentialLearner):
    """One that can read on from where it stands; a subclass writes :meth:`read_on` too.

    With several orders, new rows belong anywhere in a shuffle, so that all rows are read anew.
    """

    def read_on(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Read more support rows from a state, which stays as it is."""
        raise NotImplementedError

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Read the support rows in each order, and keep them where there are several."""
        state = super().adapt(x, y, mask)
        if self.n_orders == 1:
            return state
        kept = y.new_ones(y.shape[:2], dtype=torch.bool) if mask is None else mask
        return state | {"x": x, "y": y, "mask": kept}

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Answer for each query row, averaged over the orders."""
        kept = () if self.n_orders == 1 else ("x", "y", "mask")
        return super().predict({k: v for k, v in state.items() if k not in kept}, x)

    def update(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Read more support rows."""
        if self.n_orders == 1:
            return self.read_on(state, x, y, mask)
        real = y.new_ones(y.shape[:2], dtype=torch.bool) if mask is None else mask
        before = F.pad(state["y"], (0, y.shape[-1] - state["y"].shape[-1]))
        return self.adapt(
            torch.cat([state["x"], x], dim=1),
            torch.cat([before, y], dim=1),
            torch.cat([state["mask"], real], dim=1),
        )
