"""The workloads of ``inner_loop.py`` and ``peers``, and MAML as a plain Python loop over tasks.

Needs torch alone, so that it runs in the environment of other packages too. The loop is what a user
of torch writes: ``functional_call`` and ``autograd.grad``, one task after the other.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

# Support rows, their labels, query rows, their labels.
Task = tuple[Tensor, Tensor, Tensor, Tensor]

CLIP_NORM = 10.0
META_LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Workload:
    """What one meta-iteration has to do.

    Attributes
    ----------
    title : str
        What the tables call it.
    input_shape : tuple of int
        Shape of a row.
    n_outputs : int
        Classes; 1 is regression.
    n_support, n_query : int
        Rows a task.
    n_tasks : int
        Tasks a meta-iteration.
    n_inner_steps : int
    inner_learning_rate : float
    hidden : tuple of int
        Widths of the hidden layers of a multilayer perceptron without norms; empty for Conv4-64.
    first_order, head_only : bool
        FOMAML, and ANIL.
    density : float
        Share of features that are not zero.
    sparse : bool
        Whether our package gets its rows as a CSR matrix.
    precision : str
        What our package computes in; everything else computes in float32.
    """

    title: str
    input_shape: tuple[int, ...]
    n_outputs: int
    n_support: int
    n_query: int
    n_tasks: int
    n_inner_steps: int
    inner_learning_rate: float = 0.01
    hidden: tuple[int, ...] = ()
    first_order: bool = False
    head_only: bool = False
    density: float = 1.0
    sparse: bool = False
    precision: str = "float32"

    @property
    def regression(self) -> bool:
        """Whether targets are numbers."""
        return self.n_outputs == 1


_SINE = {"input_shape": (1,), "n_outputs": 1, "n_support": 10, "n_query": 10, "n_tasks": 25}
_ASSAY = {"n_outputs": 2, "n_support": 10, "n_query": 32, "n_tasks": 16, "n_inner_steps": 5}
_BITS = {"input_shape": (2048,), "hidden": (256, 128), "density": 0.03, **_ASSAY}
_IMAGES = {
    "input_shape": (1, 28, 28), "n_outputs": 5, "n_support": 5, "n_query": 75, "n_tasks": 16,
    "n_inner_steps": 1, "inner_learning_rate": 0.1,
}  # fmt: skip
WORKLOADS = {
    "sinusoid": Workload("sinusoid, 1 step", hidden=(40, 40), n_inner_steps=1, **_SINE),
    "sinusoid_5": Workload("sinusoid, 5 steps", hidden=(40, 40), n_inner_steps=5, **_SINE),
    "features": Workload(
        "64 features, MLP 256-128, 5 steps", input_shape=(64,), hidden=(256, 128), **_ASSAY
    ),
    "fingerprints": Workload("2,048 bits, MLP 256-128, 5 steps", **_BITS),
    "fingerprints_csr": Workload("2,048 bits as CSR", sparse=True, **_BITS),
    "conv4_maml": Workload("Conv4-64, MAML", **_IMAGES),
    "conv4_fomaml": Workload("Conv4-64, FOMAML", first_order=True, **_IMAGES),
    "conv4_anil": Workload("Conv4-64, ANIL", head_only=True, **_IMAGES),
    "conv4_anil_bf16": Workload(
        "Conv4-64, ANIL in bf16", head_only=True, precision="bf16", **_IMAGES
    ),
}


def plain_network(workload: Workload, *, batch_norm: bool = False) -> nn.Sequential:
    """Return the usual network of a workload: ``body`` and the linear ``head``."""
    layers: list[nn.Module] = []
    width = workload.input_shape[0]
    for size in workload.hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    if not workload.hidden:
        for n_channels in (width, 64, 64, 64):
            norm = nn.BatchNorm2d(64, track_running_stats=False)
            layers += [
                nn.Conv2d(n_channels, 64, 3, padding=1, bias=False),
                norm if batch_norm else nn.GroupNorm(8, 64),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        layers.append(nn.Flatten())
        width = 64
    head = nn.Linear(width, workload.n_outputs)
    return nn.Sequential(OrderedDict(body=nn.Sequential(*layers), head=head))


def random_batches(
    workload: Workload, n_batches: int, *, seed: int = 0, device: str = "cpu"
) -> list[list[Task]]:
    """Return meta-batches of random rows and labels."""
    generator = torch.Generator().manual_seed(seed)

    def rows(n: int) -> Tensor:
        x = torch.randn(n, *workload.input_shape, generator=generator)
        return x if workload.density == 1.0 else (x > x.quantile(1 - workload.density)).float()

    def labels(n: int) -> Tensor:
        if workload.regression:
            return torch.randn(n, 1, generator=generator)
        return torch.arange(n) % workload.n_outputs

    sizes = (workload.n_support, workload.n_query)
    return [
        [
            tuple(part.to(device) for n in sizes for part in (rows(n), labels(n)))
            for _ in range(workload.n_tasks)
        ]
        for _ in range(n_batches)
    ]


def loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of classes, or the squared error of numbers."""
    return F.mse_loss(outputs, y) if y.is_floating_point() else F.cross_entropy(outputs, y)


class PlainLoop:
    """MAML, FOMAML or ANIL, written down as a loop over tasks whose tensors are ready.

    Parameters
    ----------
    network : nn.Sequential
        From :func:`plain_network`.
    workload : Workload
    batches : list of list of Task
        Gone through in turn.
    """

    def __init__(
        self, network: nn.Sequential, workload: Workload, batches: list[list[Task]]
    ) -> None:
        self.network, self.workload, self.batches = network, workload, batches
        self.optimizer = torch.optim.Adam(network.parameters(), lr=META_LEARNING_RATE)
        self.n_iter = 0

    def train(self, n_iter: int) -> None:
        """Take meta-iterations."""
        for _ in range(n_iter):
            self.optimizer.zero_grad()
            self.meta_gradient(self.batches[self.n_iter % len(self.batches)])
            nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
            self.optimizer.step()
            self.n_iter += 1

    def meta_gradient(self, batch: list[Task]) -> float:
        """Add the meta-gradient to the parameters' ``grad`` and return the meta-loss."""
        query_loss = self._anil if self.workload.head_only else self._maml
        total = torch.zeros((), device=batch[0][0].device)
        for task in batch:
            of_task = query_loss(*task) / len(batch)
            of_task.backward()
            total += of_task.detach()
        return total.item()

    def _maml(self, x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        """Return a task's query loss after steps of the whole network."""
        weights = self._descend(self.network, x, y)
        return loss(functional_call(self.network, weights, (x_query,)), y_query)

    def _anil(self, x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        """Return a task's query loss after steps of the head."""
        body, head = self.network
        z, z_query = body(torch.cat([x, x_query])).split([len(x), len(x_query)])
        return loss(functional_call(head, self._descend(head, z, y), (z_query,)), y_query)

    def _descend(self, module: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        second_order, rate = not self.workload.first_order, self.workload.inner_learning_rate
        weights = dict(module.named_parameters())
        for _ in range(self.workload.n_inner_steps):
            support_loss = loss(functional_call(module, weights, (x,)), y)
            gradients = torch.autograd.grad(
                support_loss, list(weights.values()), create_graph=second_order
            )
            weights = {
                name: weight - rate * gradient
                for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            }
        return weights
