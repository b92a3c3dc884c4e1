r"""Recurrent cells by themselves, and as controllers of a memory.

Each computes from an input row, and from what was read where there is a memory. The part that
needs no state, ``project``, can be had for all rows of a sequence at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CellState = dict[str, Tensor]


class LSTMCell(nn.Module):
    r"""Long short-term memory, several layers of it if wanted [1]_.

    .. math::
        i, f, g, o = W x_t + U [h_{t-1}, r_{t-1}] + b, \quad
        c_t = \sigma(f) c_{t-1} + \sigma(i) \tanh g, \quad
        h_t = \sigma(o) \tanh c_t

    Parameters
    ----------
    n_inputs : int
        Width of an input row.
    n_hidden : int
        Width of a layer.
    n_layers : int, default=1
        Layers; each has the hidden state of the one before as its input.
    n_reads : int, default=0
        Width of what the first layer reads beside the input, if it controls a memory.

    Attributes
    ----------
    n_outputs : int
        ``n_hidden``.

    References
    ----------
    .. [1] Hochreiter and Schmidhuber (1997). "Long short-term memory." Neural Computation.
    """

    def __init__(
        self, n_inputs: int, n_hidden: int, *, n_layers: int = 1, n_reads: int = 0
    ) -> None:
        super().__init__()
        self.n_outputs = n_hidden
        self.inputs = nn.Linear(n_inputs, 4 * n_hidden)
        self.recurrent = nn.Linear(n_hidden + n_reads, 4 * n_hidden, bias=False)
        self.above = nn.ModuleList(
            nn.Linear(2 * n_hidden, 4 * n_hidden) for _ in range(n_layers - 1)
        )
        self._forget_little()

    def _forget_little(self) -> None:
        """Begin with open forget gates, so that gradients reach far back."""
        n = self.n_outputs
        for layer in (self.inputs, *self.above):
            nn.init.zeros_(layer.bias)
            nn.init.ones_(layer.bias[n : 2 * n])

    def initial_state(self, like: Tensor) -> CellState:
        """Return zeros [N, n_layers, n_hidden] for each row of ``like`` [N, *]."""
        shape = (len(like), 1 + len(self.above), self.n_outputs)
        return {k: like.new_zeros(shape) for k in ("hidden", "cell")}

    def project(self, x: Tensor) -> Tensor:
        """Return what rows [..., n_inputs] add to the gates [..., 4 n_hidden]."""
        return self.inputs(x)

    def step(
        self, projected: Tensor, state: CellState, reads: Tensor | None = None
    ) -> tuple[Tensor, CellState]:
        """Take one step from a projected row [N, 4 n_hidden] and reads [N, n_reads]."""
        hidden, cell = state["hidden"].unbind(1), state["cell"].unbind(1)
        first = hidden[0] if reads is None else torch.cat([hidden[0], reads], dim=-1)
        gates = torch.addmm(projected, first, self.recurrent.weight.t())
        layers = [_lstm(gates, cell[0])]
        for layer, h, c in zip(self.above, hidden[1:], cell[1:], strict=True):
            layers.append(_lstm(layer(torch.cat([layers[-1][0], h], dim=-1)), c))
        hidden, cell = zip(*layers, strict=True)
        return hidden[-1], {"hidden": torch.stack(hidden, 1), "cell": torch.stack(cell, 1)}

    def forward(self, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Take one step: [N, n_inputs] -> [N, n_hidden]."""
        return self.step(self.project(x), state)


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden and cell state from the gates [N, 4 n_hidden] before their squashing."""
    i, f, g, o = gates.chunk(4, dim=-1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


class FeedForwardCell(nn.Module):
    r"""A layer without a state of its own, which remembers nothing but through a memory.

    .. math:: h_t = \tanh(W x_t + U r_{t-1} + b)

    Parameters
    ----------
    n_inputs : int
        Width of an input row.
    n_hidden : int
        Width of the layer.
    n_reads : int, default=0
        Width of what it reads beside the input.

    Attributes
    ----------
    n_outputs : int
        ``n_hidden``.
    """

    def __init__(self, n_inputs: int, n_hidden: int, *, n_reads: int = 0) -> None:
        super().__init__()
        self.n_outputs = n_hidden
        self.inputs = nn.Linear(n_inputs, n_hidden)
        self.recurrent = nn.Linear(n_reads, n_hidden, bias=False)

    def initial_state(self, like: Tensor) -> CellState:
        """Return an empty state."""
        return {}

    def project(self, x: Tensor) -> Tensor:
        """Return what rows [..., n_inputs] add to the units [..., n_hidden]."""
        return self.inputs(x)

    def step(self, projected: Tensor, state: CellState, reads: Tensor) -> tuple[Tensor, CellState]:
        """Take one step from a projected row [N, n_hidden] and reads [N, n_reads]."""
        return torch.addmm(projected, reads, self.recurrent.weight.t()).tanh(), state


CONTROLLERS = {"lstm": LSTMCell, "feedforward": FeedForwardCell}
"""What controls a memory, by name."""
