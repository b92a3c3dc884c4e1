"""Update rules that are learned: one small recurrent network moves every weight by itself.

Shape letters: T tasks, P weights of a task's network.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .learner import State
from .network_learner import NetworkLearner, room_for_tasks
from .task_network import TaskNetwork

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch

# What a recurrent network carries from step to step, a row for each weight of each task.
Memory = tuple[Tensor, ...]

# p of the paper: sizes down to exp(-p) are told apart.
LOG_SCALE = 10.0


def log_and_sign(x: Tensor, p: float = LOG_SCALE) -> Tensor:
    r"""Return the size and the sign of numbers of very different sizes (Andrychowicz et al. 2016).

    .. math::
        x \mapsto \begin{cases}
            \bigl(\tfrac{\log |x|}{p}, \operatorname{sign}(x)\bigr) & |x| \ge e^{-p} \\
            (-1, e^p x) & \text{otherwise}
        \end{cases}

    Parameters
    ----------
    x : Tensor of shape (...)
    p : float, default=10.0
        Below :math:`e^{-p}` a number counts as small.

    Returns
    -------
    features : Tensor of shape (..., 2)
    """
    size = x.abs().clamp_min(math.exp(-p)).log() / p
    sign = (x * math.exp(p)).clamp(-1.0, 1.0)
    return torch.stack([size, sign], dim=-1)


def flatten_weights(weights: State) -> Tensor:
    """Return a dict of weights [T, ...] as one vector a task [T, P]."""
    return torch.cat([w.flatten(1) for w in weights.values()], dim=1)


def unflatten_weights(flat: Tensor, like: State) -> State:
    """Return vectors [T, P] as weights with the names and shapes of ``like``, without copying."""
    pieces = flat.split([w[0].numel() for w in like.values()], dim=1)
    return {
        name: piece.view(w.shape) for (name, w), piece in zip(like.items(), pieces, strict=True)
    }


class CoordinatewiseLearner(NetworkLearner):
    r"""Descends by a learned rule that every weight follows by itself.

    A subclass writes the rule, :meth:`begin` and :meth:`move`. The gradients and losses that
    the rule sees are constants in the meta-gradient, which so has no second derivatives.

    Parameters
    ----------
    network : TaskNetwork
        theta and the losses.
    n_inner_steps : int
    """

    # How many numbers the derivative of a step needs for each weight; a subclass sets it.
    numbers_per_weight: int = 1

    def __init__(self, network: TaskNetwork, *, n_inner_steps: int) -> None:
        super().__init__(network)
        self.n_inner_steps = n_inner_steps

    def begin(self, theta: Tensor) -> Memory:
        """Return what the rule remembers before the first step.

        Parameters
        ----------
        theta : Tensor of shape (T, P)
            The weights that the tasks start from.
        """
        raise NotImplementedError

    def move(
        self, theta: Tensor, gradient: Tensor, losses: Tensor, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Return the weights and the memory after a step.

        Parameters
        ----------
        theta, gradient : Tensor of shape (T, P)
        losses : Tensor of shape (T,)
        memory : tuple of Tensor
        """
        raise NotImplementedError

    def trajectory(self, x: Tensor, y: Tensor, mask: Tensor | None) -> list[State]:
        """Return the weights before the first and after every step on the support sets."""
        start = self.network.start(y)
        theta = flatten_weights(start)
        memory, steps = self.begin(theta), [start]
        for _ in range(self.n_inner_steps):
            gradient, losses = self.network.gradient(steps[-1], x, y, mask)
            gradient = {name: gradient[name] for name in start}
            theta, memory = self.move(theta, flatten_weights(gradient), losses, memory)
            steps.append(unflatten_weights(theta, start))
        return steps

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Take the steps from the shared start."""
        return self.trajectory(x, y, mask)[-1]

    def tasks_at_once(self, batch: TaskBatch) -> int:
        """Return how many tasks of a batch are run at a time."""
        y, n_steps = batch.y_support, max(1, self.n_inner_steps)
        n_weights = sum(w.numel() for w in self.network.shared_start(y).values())
        per_task = 4 * n_weights * self.numbers_per_weight * n_steps
        return min(super().tasks_at_once(batch), max(1, room_for_tasks(y.device) // per_task))
