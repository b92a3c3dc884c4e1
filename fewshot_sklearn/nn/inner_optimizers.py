"""Optimizers of weights that every task has of its own, as pairs of pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .learner import State

if TYPE_CHECKING:
    from .task_network import TaskNetwork


class Memory(NamedTuple):
    """What an optimizer carries from step to step.

    Parameters
    ----------
    step : int
        The number of updates so far.
    first, second : dict of Tensor
        Running means of the gradient and of its square, as the weights; empty where not needed.
    """

    step: int
    first: State
    second: State


class InnerOptimizer(NamedTuple):
    """A rule that turns gradients into moves of the weights.

    Every coordinate is on its own, so a leading task axis changes nothing: a stack of tasks moves
    as each of them alone.

    Parameters
    ----------
    init : callable
        ``init(weights) -> memory``, with the weights that will move, a dict of tensors.
    update : callable
        ``update(gradient, memory) -> (moves, memory)``; add the moves to the weights. The
        gradient has the names that ``init`` got. Nothing is written in place.
    """

    init: Callable[[Mapping[str, Tensor]], Memory]
    update: Callable[[Mapping[str, Tensor], Memory], tuple[State, Memory]]


def sgd(learning_rate: float) -> InnerOptimizer:
    r"""Return gradient descent, :math:`\theta \leftarrow \theta - \alpha g`.

    Parameters
    ----------
    learning_rate : float
        alpha.

    Returns
    -------
    optimizer : InnerOptimizer
    """

    return InnerOptimizer(_forget, partial(_sgd_moves, learning_rate=learning_rate))


def adam(
    learning_rate: float, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> InnerOptimizer:
    r"""Return Adam [1]_.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
        \theta \leftarrow \theta - \alpha \, \frac{m / (1 - \beta_1^k)}
                                                  {\sqrt{v / (1 - \beta_2^k)} + \epsilon}

    Parameters
    ----------
    learning_rate : float
        alpha.
    beta1, beta2 : float, default=0.9 and 0.999
        Decay rates of the running means. ``beta1=0`` is Adam without momentum, as Reptile uses.
    eps : float, default=1e-8
        epsilon.

    Returns
    -------
    optimizer : InnerOptimizer

    References
    ----------
    .. [1] Kingma, Ba (2015). "Adam: a method for stochastic optimization." ICLR.
    """

    rule = partial(_adam_moves, learning_rate=learning_rate, beta1=beta1, beta2=beta2, eps=eps)
    return InnerOptimizer(_zero_means, rule)


@torch.no_grad()
def minimize(
    network: TaskNetwork,
    optimizer: InnerOptimizer,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    *,
    n_steps: int,
) -> State:
    """Train every task's network on its support set, all rows in every step.

    Parameters
    ----------
    network : TaskNetwork
        Tasks start from its shared start.
    optimizer : InnerOptimizer
    x, y, mask : Tensor of shape (T, S, *), (T, S, C), and (T, S) or None
    n_steps : int

    Returns
    -------
    weights : dict of Tensor of shape (T, ...)
        For :meth:`TaskNetwork.forward`, as plain numbers: nothing of it can be differentiated.
    """
    weights = network.start(y)
    memory = optimizer.init(weights)
    for _ in range(n_steps):
        gradient, _ = network.gradient(weights, x, y, mask)
        moves, memory = optimizer.update(gradient, memory)
        weights = {name: w + moves[name] for name, w in weights.items()}
    return weights


# Functions of the module, not closures, so that a learner that holds an optimizer can be pickled.


def _forget(weights: Mapping[str, Tensor]) -> Memory:
    return Memory(0, {}, {})


def _sgd_moves(
    gradient: Mapping[str, Tensor], memory: Memory, *, learning_rate: float
) -> tuple[State, Memory]:
    moves = {name: -learning_rate * g for name, g in gradient.items()}
    return moves, memory._replace(step=memory.step + 1)


def _zero_means(weights: Mapping[str, Tensor]) -> Memory:
    zeros = {name: torch.zeros_like(w) for name, w in weights.items()}
    return Memory(0, zeros, zeros)


def _adam_moves(
    gradient: Mapping[str, Tensor],
    memory: Memory,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> tuple[State, Memory]:
    k, first, second, moves = memory.step + 1, {}, {}, {}
    for name, g in gradient.items():
        first[name] = m = beta1 * memory.first[name] + (1 - beta1) * g
        second[name] = v = beta2 * memory.second[name] + (1 - beta2) * g.square()
        scale = (v / (1 - beta2**k)).sqrt_().add_(eps)
        moves[name] = (m / (1 - beta1**k)).div_(scale).mul_(-learning_rate)
    return moves, Memory(k, first, second)
