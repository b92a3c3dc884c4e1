"""Weights that are generated from loss gradients, beside those that are learned.

Shape letters: T tasks, S support rows, C classes, P weights that are generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .coordinatewise import log_and_sign
from .dense import dense_network
from .functional import split_rows

# p of the preprocessing in Munkhdalai and Yu (2017).
LOG_SCALE = 7.0
# What is computed of one piece of coordinates is still in a CPU's cache when it is read again.
_CACHE_BYTES = 2**20


class DenseStack(nn.Module):
    r"""Dense layers without biases, whose weights may be augmented by fast ones [1]_.

    .. math:: a_l = \sigma(W_l a_{l-1}) + \sigma(W_l^* a_{l-1})

    with :math:`\sigma` the ReLU, or the identity where there is none.

    Parameters
    ----------
    sizes : sequence of int
        Widths before the first and after every layer.
    rectified : sequence of bool
        Whether each layer ends in the ReLU.

    References
    ----------
    .. [1] Munkhdalai and Yu (2017). "Meta networks." ICML.
    """

    def __init__(self, sizes: Sequence[int], rectified: Sequence[bool]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(n_out, n_in)) for n_in, n_out in pairwise(sizes)
        )
        self.rectified = tuple(rectified)
        uniform_(self)

    def forward(self, x: Tensor, fast: Tensor | None = None) -> list[Tensor]:
        """Return the input and the output of every layer.

        Parameters
        ----------
        x : Tensor of shape (T, N, D)
        fast : Tensor of shape (T, N, P) or (T, 1, P), or None
            Weights of each row or task, flat, one layer after the other.

        Returns
        -------
        activations : list of Tensor of shape (T, N, *)
        """
        activations = [x]
        fasts = [None] * len(self.weights) if fast is None else self._unflatten(fast)
        for weight, own, rectified in zip(self.weights, fasts, self.rectified, strict=True):
            x = activations[-1]
            out = x @ weight.T
            out = out.relu() if rectified else out
            if own is not None:
                more = _product(own, x)
                out = out + (more.relu() if rectified else more)
            activations.append(out)
        return activations

    def gradients(self, activations: Sequence[Tensor], delta: Tensor) -> Tensor:
        r"""Return the gradient of a loss of each row with respect to the slow weights.

        The gradient of a layer is :math:`\delta_l a_{l-1}^\top`.

        Parameters
        ----------
        activations : list of Tensor of shape (T, S, *)
            What :meth:`forward` returned without fast weights.
        delta : Tensor of shape (T, S, n) or (T, C, S, n)
            The gradient of the loss of each row, or of C losses that look at all rows, with
            respect to the last layer's output.

        Returns
        -------
        gradients : Tensor of shape (T, S, P) or (T, C, P)
            One layer after the other.
        """
        of_rows = delta.ndim == 3
        gradients: list[Tensor] = []
        layers = zip(self.weights, self.rectified, activations[:-1], activations[1:], strict=True)
        for weight, rectified, before, after in reversed(list(layers)):
            before, after = (a if of_rows else a.unsqueeze(1) for a in (before, after))
            delta = delta * (after > 0) if rectified else delta
            if of_rows:
                gradient = delta.unsqueeze(-1) * before.unsqueeze(-2)
            else:
                gradient = delta.transpose(-1, -2) @ before
            gradients.append(gradient.flatten(-2))
            delta = delta @ weight
        return torch.cat(gradients[::-1], dim=-1)

    def _unflatten(self, flat: Tensor) -> list[Tensor]:
        pieces = flat.split([w.numel() for w in self.weights], dim=-1)
        return [p.unflatten(-1, w.shape) for p, w in zip(pieces, self.weights, strict=True)]


class CoordinateMLP(nn.Module):
    """One weight from one gradient, by the same small network for every coordinate.

    Three layers, on the size and sign of :func:`log_and_sign`.

    Parameters
    ----------
    n_units : int
        Width of the two hidden layers.
    """

    def __init__(self, n_units: int) -> None:
        super().__init__()
        self.n_units = n_units
        self.layers = dense_network(2, n_units, 2, 1)
        uniform_(self)
        _start_positive(self.layers[-1])

    def forward(self, gradients: Tensor) -> Tensor:
        """Return the weights [T, N, P] of gradients [T, N, P]."""
        pieces = split_rows(gradients.flatten(), 4 * self.n_units, most=_CACHE_BYTES)
        return torch.cat([self._generate(p) for p in pieces]).view_as(gradients)

    def _generate(self, gradients: Tensor) -> Tensor:
        # Coordinates last: products of many rows this narrow would be slow.
        h = log_and_sign(gradients, LOG_SCALE).T
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                h = torch.addmm(layer.bias.unsqueeze(1), layer.weight, h)
            else:
                h = layer(h)
        return h[0]


class CoordinateLSTM(nn.Module):
    """One weight from several gradients, by the same LSTM for every coordinate.

    It reads the size and sign of :func:`log_and_sign`, one gradient after the other.

    Parameters
    ----------
    n_units : int
        Width of the LSTM.
    """

    def __init__(self, n_units: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(2, n_units)
        self.output = nn.Linear(n_units, 1)
        uniform_(self)
        _start_positive(self.output)

    def forward(self, gradients: Tensor, present: Tensor) -> Tensor:
        """Return the weights [T, P] of gradients [T, N, P], those that are ``present`` [T, N]."""
        n_tasks, n_steps, n_weights = gradients.shape
        cell = self.cell
        # A block of memory for each gate: the activations of strided ones would be slow.
        bias = cell.bias_ih + cell.bias_hh
        parts = (p.chunk(4) for p in (cell.weight_ih, cell.weight_hh, bias))
        gates = list(zip(*parts, strict=True))
        features, all_present = log_and_sign(gradients, LOG_SCALE), bool(present.all())
        h = c = features.new_zeros(n_tasks * n_weights, cell.hidden_size)
        for t in range(n_steps):
            x = features[:, t].flatten(0, 1)
            i, f, g, o = (F.linear(x, w, b) + h @ v.T for w, v, b in gates)
            c_new = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h_new = o.sigmoid() * c_new.tanh()
            if all_present:
                h, c = h_new, c_new
            else:
                read = present[:, t].repeat_interleave(n_weights).unsqueeze(-1)
                h, c = torch.where(read, h_new, h), torch.where(read, c_new, c)
        return self.output(h).view(n_tasks, n_weights)


def _product(weights: Tensor, x: Tensor) -> Tensor:
    """Return W x for weights [T, N, n, m], or [T, 1, n, m], and rows [T, N, m]."""
    if weights.shape[1] == 1:
        return x @ weights[:, 0].transpose(-1, -2)
    return (weights @ x.unsqueeze(-1)).squeeze(-1)


def uniform_(module: nn.Module) -> None:
    """Draw all weights uniformly between -0.1 and 0.1."""
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.1, 0.1)


def _start_positive(output: nn.Module) -> None:
    """Make the biases of a layer positive.

    Weights that are all negative, of rectified inputs, end in a ReLU without a gradient.
    """
    with torch.no_grad():
        output.get_parameter("bias").abs_()
