"""Plain multilayer perceptrons."""

from __future__ import annotations

from torch import nn


def dense_network(n_inputs: int, n_hidden: int, n_layers: int, n_outputs: int) -> nn.Sequential:
    """Return a multilayer perceptron with ReLU after each hidden layer.

    Parameters
    ----------
    n_inputs, n_hidden, n_outputs : int
        Widths.
    n_layers : int
        Number of hidden layers.
    """
    layers: list[nn.Module] = []
    for _ in range(n_layers):
        layers += [nn.Linear(n_inputs, n_hidden), nn.ReLU()]
        n_inputs = n_hidden
    return nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))
