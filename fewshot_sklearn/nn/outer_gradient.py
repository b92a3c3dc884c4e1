"""Meta-gradients that are computed by hand: their parts, and their way to the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .learner import State
from .task_network import TaskNetwork


def loss_gradient(
    network: TaskNetwork, weights: State, x: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[State, Tensor]:
    """Return the gradient of every task's loss with respect to its own weights, and the losses.

    Where :meth:`TaskNetwork.gradient` looks at the classes of the rows that it gets, this takes
    any loss: that of the query rows, or of a few of a task's rows.

    Parameters
    ----------
    network : TaskNetwork
    weights : dict of Tensor of shape (T, ...)
        All of them, as built from :meth:`TaskNetwork.start`.
    x : Tensor of shape (T, N, *)
    loss : callable
        From the outputs [T, N, C] of these rows to the losses [T].

    Returns
    -------
    gradient : dict of Tensor
        As ``weights``; nothing of it can be differentiated.
    losses : Tensor of shape (T,)
    """
    with torch.enable_grad():
        leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
        losses = loss(network.forward(leaves, x))
        gradient = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, gradient, strict=True)), losses.detach()


def add_to_start(network: TaskNetwork, y: Tensor, gradient: Mapping[str, Tensor]) -> None:
    """Add to ``grad`` of the parameters that the shared start is made of.

    Parameters
    ----------
    network : TaskNetwork
    y : Tensor of shape (T, N, C)
        Labels of the tasks, whose number of classes counts.
    gradient : mapping from names of weights to Tensor
        Of the start, without the task axis.
    """
    start = network.shared_start(y)
    learned = [name for name, w in start.items() if w.requires_grad]
    if learned:
        torch.autograd.backward(
            [start[name] for name in learned], [gradient[name] for name in learned]
        )
