"""A learner whose tasks have networks of their own, meta-trained in memory that is bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .learner import Learner, State
from .task_network import TaskNetwork

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch

# What the adapted weights and activations of the tasks that are run at once may take: so many
# bytes, or such a share of a GPU's memory, as a GPU is idle with less.
_BYTES = 2**28
_GPU_SHARE = 4


class NetworkLearner(Learner):
    """Adapts the weights of a network to each task; subclass it and write ``adapt``.

    Parameters
    ----------
    network : TaskNetwork
        Its backbone and head are the parameters.

    Attributes
    ----------
    n_inner_steps : int
        How many sets of weights a task needs at a time; a subclass sets it.
    """

    n_inner_steps: int = 1

    def __init__(self, network: TaskNetwork) -> None:
        super().__init__(network.loss)
        self.network = network
        self.backbone = network.backbone
        self.head = network.head
        self.n_outputs = None if network.head is None else network.head.out_features

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Run each task's query rows through its own network."""
        return self.network.forward(state, x)

    def meta_gradient(self, batch: TaskBatch) -> Tensor:
        """Add the meta-gradient to every parameter's ``grad`` and return the detached loss.

        Some tasks are run at a time, so that any number of them fits in memory.
        """
        size, losses = self.tasks_at_once(batch), []
        for first in range(0, len(batch), size):
            piece = batch[first : first + size]
            losses.append(self.add_gradient(piece, len(piece) / len(batch)))
        return torch.stack(losses).sum()

    def add_gradient(self, batch: TaskBatch, share: float) -> Tensor:
        """Add ``share`` times the meta-gradient of tasks that are run together; return their loss.

        A subclass whose meta-gradient is not that of ``meta_loss`` overrides this. The loss is
        detached and multiplied by ``share`` too.
        """
        loss = self.meta_loss(batch) * share
        loss.backward()
        return loss.detach()

    def tasks_at_once(self, batch: TaskBatch) -> int:
        """Return how many tasks of a batch are run at a time."""
        if self.network.is_looped(batch.x_support):
            return 1  # what one task left in the cache is used before the next
        sizes = batch.x_support.shape[1], batch.x_query.shape[1], self.n_inner_steps
        return max(1, room_for_tasks(batch.x_support.device) // self.network.bytes_per_task(*sizes))


def room_for_tasks(device: torch.device) -> int:
    """Return how many bytes the tasks that are run at once may take."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // _GPU_SHARE
    return _BYTES
