"""Networks whose weights another network generates for each task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .learner import State

# Twice the variance that keeps the size of a layer's inputs: the activation halves it.
HIDDEN_GAIN = 2.0
# The share of the generator's hidden values that the task has before training, the output unit
# having the rest. Units that all heard the task alone would be copies of each other.
_TASK_SHARE = 0.1
# The mean square of the hyperbolic tangent of a standard normal number.
_MEAN_SQUARE = 0.3943


class LayerGenerator(nn.Module):
    r"""Generate a dense layer for each task, one output unit at a time [1]_.

    Every unit :math:`j` has a learned vector :math:`u_j`, and all units share one small network
    that turns the task vector :math:`t` and :math:`u_j` into the unit's weights and bias,

    .. math::
        h_j = \tanh(A t + U u_j + a), \qquad w_j = B h_j + b, \qquad
        \beta_j = v^\top h_j + \nu .

    So the number of parameters grows with the number of inputs plus that of units, not with
    their product times the width of the task vector. Where the entries of :math:`t` have mean
    square one, weights begin with the variance :math:`g / (2 D)` and biases with :math:`g / 2`,
    for D inputs and the gain g, as hyperfan-in initialisation asks for [2]_.

    Parameters
    ----------
    n_task_features : int
        E, the width of t.
    n_inputs, n_units : int
        D and U, the size of the generated layer.
    n_unit_features : int
        Width of :math:`u_j`.
    n_hidden : int
        Width of :math:`h_j`.
    gain : float
        2 where an activation follows the generated layer, 1 where none does.

    References
    ----------
    .. [1] Ha, Dai, Le (2017). "HyperNetworks." ICLR, section 3.1.
    .. [2] Chang, Flokas, Lipson (2020). "Principled weight initialization for hypernetworks."
       ICLR.
    """

    def __init__(
        self,
        n_task_features: int,
        n_inputs: int,
        n_units: int,
        *,
        n_unit_features: int,
        n_hidden: int,
        gain: float,
    ) -> None:
        super().__init__()
        self.units = nn.Parameter(torch.randn(n_units, n_unit_features))
        self.of_task = nn.Linear(n_task_features, n_hidden)
        self.of_unit = nn.Linear(n_unit_features, n_hidden, bias=False)
        self.weight = nn.Linear(n_hidden, n_inputs)
        self.bias = nn.Linear(n_hidden, 1)
        for layer, variance in (
            (self.of_task, _TASK_SHARE),
            (self.of_unit, 1 - _TASK_SHARE),
            (self.weight, gain / (2 * n_inputs * _MEAN_SQUARE)),
            (self.bias, gain / (2 * _MEAN_SQUARE)),
        ):
            nn.init.normal_(layer.weight, std=(variance / layer.in_features) ** 0.5)
        for layer in (self.of_task, self.weight, self.bias):
            nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Generate from task vectors [T, E] weights [T, U, D] and biases [T, U]."""
        h = (self.of_task(t).unsqueeze(1) + self.of_unit(self.units)).tanh()
        return self.weight(h), self.bias(h).squeeze(-1)


class GeneratedMLP(nn.Module):
    """A multilayer perceptron generated for each task, with leaky ReLU between its layers.

    The units of a layer come from one generator and could die together under a plain ReLU.

    Parameters
    ----------
    n_task_features : int
        E.
    sizes : sequence of int
        Widths of the inputs and of every layer.
    gain : float
        Of the last layer, as in :class:`LayerGenerator`.
    n_unit_features, n_hidden : int
        As in :class:`LayerGenerator`; every layer has a generator of its own.
    """

    def __init__(
        self,
        n_task_features: int,
        sizes: Sequence[int],
        *,
        gain: float,
        n_unit_features: int,
        n_hidden: int,
    ) -> None:
        super().__init__()
        gains = [HIDDEN_GAIN] * (len(sizes) - 2) + [gain]
        self.generators = nn.ModuleList(
            LayerGenerator(
                n_task_features,
                n_inputs,
                n_units,
                n_unit_features=n_unit_features,
                n_hidden=n_hidden,
                gain=layer_gain,
            )
            for (n_inputs, n_units), layer_gain in zip(pairwise(sizes), gains, strict=False)
        )

    def generate(self, t: Tensor) -> State:
        """Return the weights of each task's network.

        Parameters
        ----------
        t : Tensor of shape (T, E)

        Returns
        -------
        weights : dict of Tensor
            ``weight0`` [T, U, D], ``bias0`` [T, U], and so on by layer.
        """
        weights: State = {}
        for i, generator in enumerate(self.generators):
            weights[f"weight{i}"], weights[f"bias{i}"] = generator(t)
        return weights

    def forward(self, weights: State, x: Tensor) -> Tensor:
        """Send rows [T, N, D] through each task's network; ``weights`` may hold others too."""
        for i in range(len(self.generators)):
            x = activate(x) if i else x
            bias = weights[f"bias{i}"].unsqueeze(1)
            x = torch.baddbmm(bias, x, weights[f"weight{i}"].transpose(1, 2))
        return x


def activate(x: Tensor) -> Tensor:
    """Return x where it is positive and a hundredth of it where it is not."""
    return F.leaky_relu(x)
