"""A network from sequences to sequences, trained on the steps that count.

Shape letters: N sequences, L steps, I inputs, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .learner import Learner, State


@dataclass(frozen=True)
class SequenceBatch:
    """Sequences of like length, padded at their end to the same one.

    Attributes
    ----------
    x : Tensor of shape (N, L, I)
    y : Tensor of shape (N, L, C)
        Any finite number where ``mask`` is False.
    mask : bool Tensor of shape (N, L, C)
        Which outputs count.
    """

    x: Tensor
    y: Tensor
    mask: Tensor


class SequenceLearner(Learner):
    r"""A recurrent cell with a linear layer that says something at every step.

    .. math:: s_t, o_t = \mathrm{cell}(s_{t-1}, x_t), \qquad \hat y_t = W o_t + b

    Outputs depend on inputs up to their own step, so padding at the end of a sequence changes
    nothing.

    Parameters
    ----------
    cell : nn.Module with the methods of :class:`~fewshot_sklearn.nn.recurrent.Cell`
    n_outputs : int
        C.
    loss : callable
        ``loss(outputs, y)`` of the shape of both, one number an output.
    """

    def __init__(self, cell: Any, n_outputs: int, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.cell = cell
        self.output = nn.Linear(cell.n_outputs, n_outputs)
        self.output_loss = loss

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs [N, L, C] of inputs [N, L, I]."""
        return self.run(x, lambda state: None)[0]

    def run(self, x: Tensor, look: Callable[[State], Any]) -> tuple[Tensor, list[Any]]:
        """Return the outputs [N, L, C], and what ``look`` saw in the state after each step."""
        state, projected = self.cell.initial_state(x[:, 0]), self.cell.project(x)
        outputs, seen = [], []
        for row in projected.unbind(1):
            output, state = self.cell.step(row, state)
            outputs.append(output)
            seen.append(look(state))
        return self.output(torch.stack(outputs, dim=1)), seen

    def meta_loss(self, batch: SequenceBatch) -> Tensor:  # type: ignore[override]
        """Return the mean loss of the outputs that count."""
        losses = self.output_loss(self(batch.x), batch.y)
        return losses.masked_fill(~batch.mask, 0).sum() / batch.mask.sum().clamp_min(1)
