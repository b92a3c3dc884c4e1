"""Learners that a recurrent cell makes of a sequence of labelled rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .functional import join_masks, map_rows, mask_absent_classes
from .learner import State
from .sequential import IncrementalSequentialLearner, SequentialLearner

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


class Cell(Protocol):
    """What a recurrent cell has: a module from an input and a state to an output and a state.

    A step is cut in two, so that the part that needs no state is taken for all rows at once.

    Attributes
    ----------
    n_outputs : int
        Width of the output.
    """

    n_outputs: int

    def initial_state(self, like: Tensor) -> State:
        """Return the state before the first step for each row of ``like`` [N, *]."""

    def project(self, x: Tensor) -> Tensor:
        """Return the part of a step that needs no state: [..., n_inputs] -> [..., *]."""

    def step(self, projected: Tensor, state: State) -> tuple[Tensor, State]:
        """Take one step from what :meth:`project` returned, [N, *] -> [N, n_outputs]."""


class RecurrentLearner(SequentialLearner):
    """Read the support set row by row with a recurrent cell [1]_.

    At step t the network sees the row :math:`x_t` with the target :math:`y_{t-1}` of the row before
    and predicts :math:`y_t`; a query is one more step from the state after the last support row.

    Parameters
    ----------
    backbone : nn.Module
        Rows [N, *] to embeddings [N, D].
    cell : nn.Module with the methods of Cell
        For inputs of D + C columns.
    n_outputs : int
        C.
    output : nn.Module, optional
        The cell's outputs to what is predicted; a linear layer if it is left out.
    **options
        Of :class:`SequentialLearner`.

    References
    ----------
    .. [1] Hochreiter, Younger and Conwell (2001). "Learning to learn using gradient descent."
       ICANN.
    """

    def __init__(
        self,
        backbone: nn.Module,
        cell: Any,
        n_outputs: int,
        *,
        output: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.backbone = backbone
        self.cell = cell
        self.output = output or nn.Linear(cell.n_outputs, n_outputs)
        self.n_outputs = n_outputs

    def read_sequence(
        self, x: Tensor, y: Tensor, mask: Tensor | None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Return the outputs [T, S, C] before each target was shown, and the last state.

        Without a state the sequence begins.
        """
        z = self.embed(self.backbone, x)
        if state is None:
            state = self.cell.initial_state(z[:, 0]) | {"label": torch.zeros_like(y[:, 0])}
        before, last = _labels_before(y, mask, state["label"])
        state = {name: value for name, value in state.items() if name != "label"}
        projected = self.cell.project(torch.cat([z, before], dim=-1))
        outputs = []
        for t, row in enumerate(projected.unbind(1)):
            output, after = self.cell.step(row, state)
            outputs.append(output)
            if mask is not None:
                after = {name: _where(mask[:, t], after[name], state[name]) for name in state}
            state = after
        return self.output(torch.stack(outputs, dim=1)), state | {"label": last}

    def read(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Return the cell's state and the last target after the support set."""
        return self.read_sequence(x, y, mask)[1]

    def answer(self, state: State, x: Tensor) -> Tensor:
        """Take one step for each query row, every one from the same state."""
        z = self.embed(self.backbone, x)
        bytes_per_row = sum(value.nbytes for value in state.values())
        return map_rows(lambda rows: self._next(state, rows), z, bytes_per_row)

    def _next(self, state: State, z: Tensor) -> Tensor:
        n_queries = z.shape[1]
        state = {k: v.repeat_interleave(n_queries, dim=0) for k, v in state.items()}
        label = state.pop("label")
        projected = self.cell.project(torch.cat([z.flatten(0, 1), label], dim=-1))
        output, _ = self.cell.step(projected, state)
        return self.output(output).unflatten(0, z.shape[:2])

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return the mean loss over every presentation of the sequence and the queries."""
        before, state = self.read_sequence(batch.x_support, batch.y_support, batch.support_mask)
        outputs = torch.cat([before, self.answer(state, batch.x_query)], dim=1)
        outputs = mask_absent_classes(outputs, batch.class_mask)
        y = torch.cat([batch.y_support, batch.y_query], dim=1)
        masks = (batch.support_mask, batch.query_mask)
        mask = join_masks(masks, (batch.y_support, batch.y_query))
        return self.loss(outputs, y, mask).mean()


class IncrementalRecurrentLearner(IncrementalSequentialLearner, RecurrentLearner):
    """A :class:`RecurrentLearner` that reads on where more rows come."""

    def read_on(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Read on from where the state stands in the sequence."""
        return self.read_sequence(x, y, mask, state)[1]


class MeanAndStd(nn.Linear):
    """Map [..., n_inputs] to the means of C targets and, behind them, standard deviations.

    Parameters
    ----------
    n_inputs : int
        Width of the input.
    n_targets : int
        C.
    """

    # Of standardised targets; below it the likelihood has no bound.
    least = 1e-3

    def __init__(self, n_inputs: int, n_targets: int) -> None:
        super().__init__(n_inputs, 2 * n_targets)

    def forward(self, x: Tensor) -> Tensor:
        """Return means and standard deviations [..., 2 C]."""
        mean, spread = super().forward(x).chunk(2, dim=-1)
        return torch.cat([mean, self.least + F.softplus(spread)], dim=-1)


def _labels_before(y: Tensor, mask: Tensor | None, first: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target of the last real row before each row [T, S, C], and after all [T, C]."""
    targets = torch.cat([first.unsqueeze(1), y], dim=1)
    if mask is None:
        return targets[:, :-1], targets[:, -1]
    numbers = torch.arange(1, y.shape[1] + 1, device=y.device)
    newest = F.pad(torch.where(mask, numbers, 0), (1, 0)).cummax(dim=1).values
    targets = targets.gather(1, newest.unsqueeze(-1).expand_as(targets))
    return targets[:, :-1], targets[:, -1]


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (new.ndim - 1)), new, old)
