"""One package's MAML in a process of its own, started by ``compare_packages.py``.

    PYTHONPATH=benchmarks python benchmarks/peers/worker.py PACKAGE WORKLOAD THREADS

It answers each number on its standard input, once that many meta-iterations are done, with a line.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from plain_loop import (
    META_LEARNING_RATE,
    WORKLOADS,
    PlainLoop,
    Workload,
    loss,
    plain_network,
    random_batches,
)
from torch import Tensor, nn

N_READY = 8


class TaskLoop(PlainLoop):
    """A loop over ready tasks whose inner steps are those of a package.

    A subclass writes ``_descended``; ANIL hands it the head and embedded rows.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(plain_network(workload), workload, random_batches(workload, N_READY))

    def _maml(self, x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        return self._query_loss(self.network, x, y, x_query, y_query)

    def _anil(self, x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        body, head = self.network
        z, z_query = body(torch.cat([x, x_query])).split([len(x), len(x_query)])
        return self._query_loss(head, z, y, z_query, y_query)

    def _query_loss(
        self, module: nn.Module, x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor
    ) -> Tensor:
        raise NotImplementedError


class Learn2Learn(TaskLoop):
    """``learn2learn.algorithms.MAML``: clone, adapt, backward."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        _stand_in_for("learn2learn")
        from learn2learn.algorithms.maml import MAML

        self.wrap = MAML

    def _query_loss(self, module, x, y, x_query, y_query):
        work = self.workload
        wrapped = self.wrap(module, lr=work.inner_learning_rate, first_order=work.first_order)
        learner = wrapped.clone()
        for _ in range(work.n_inner_steps):
            learner.adapt(loss(learner(x), y))
        return loss(learner(x_query), y_query)


class Higher(TaskLoop):
    """``higher.innerloop_ctx`` with SGD."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        import higher

        self.open = higher.innerloop_ctx

    def _query_loss(self, module, x, y, x_query, y_query):
        work = self.workload
        inner = torch.optim.SGD(module.parameters(), lr=work.inner_learning_rate)
        options = {"copy_initial_weights": False, "track_higher_grads": not work.first_order}
        with self.open(module, inner, **options) as (adapted, optimizer):
            for _ in range(work.n_inner_steps):
                optimizer.step(loss(adapted(x), y))
            query_loss = loss(adapted(x_query), y_query)
            if not work.first_order:
                return query_loss
            # Without higher gradients nothing leads back to the start: FOMAML copies by hand.
            fast = torch.autograd.grad(query_loss, list(adapted.parameters()))
        pairs = zip(module.parameters(), fast, strict=True)
        return sum((start * gradient).sum() for start, gradient in pairs)


class TorchOpt(TaskLoop):
    """``torchopt.MetaSGD``, and ``torchopt.sgd`` without a graph for FOMAML."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        import torchopt

        self.torchopt = torchopt

    def _query_loss(self, module, x, y, x_query, y_query):
        descend = self._first_order if self.workload.first_order else self._second_order
        return descend(module, x, y, x_query, y_query)

    def _second_order(self, module, x, y, x_query, y_query):
        torchopt = self.torchopt
        optimizer = torchopt.MetaSGD(module, lr=self.workload.inner_learning_rate)
        start = torchopt.extract_state_dict(module, by="reference")
        for _ in range(self.workload.n_inner_steps):
            optimizer.step(loss(module(x), y))
        query_loss = loss(module(x_query), y_query)
        torchopt.recover_state_dict(module, start)
        return query_loss

    def _first_order(self, module, x, y, x_query, y_query):
        torchopt, call = self.torchopt, torch.func.functional_call
        sgd = torchopt.sgd(lr=self.workload.inner_learning_rate)
        names, weights = zip(*module.named_parameters(), strict=True)
        state = sgd.init(weights)
        for _ in range(self.workload.n_inner_steps):
            support_loss = loss(call(module, dict(zip(names, weights, strict=True)), (x,)), y)
            gradients = torch.autograd.grad(support_loss, weights)
            updates, state = sgd.update(gradients, state, inplace=False)
            weights = torchopt.apply_updates(weights, updates, inplace=False)
        return loss(call(module, dict(zip(names, weights, strict=True)), (x_query,)), y_query)


class ParallelMetaLearn:
    """``metalearn.algorithms.MAML``: its own step over stacked tasks."""

    def __init__(self, workload: Workload) -> None:
        from metalearn.algorithms import MAML
        from metalearn.inner_optimizers import InnerSGD
        from metalearn.loss import CategoricalAccuracy, CrossEntropy
        from metalearn.loss.base import BaseLoss
        from metalearn.model_wrappers import MAML_Model

        class Anyhow(nn.Module):
            """A module that takes the options of the package and ignores them."""

            def __init__(self, module: nn.Module) -> None:
                super().__init__()
                self.module = module

            def forward(self, x: Tensor, **_: Any) -> Tensor:
                return self.module(x)

        class SquaredError(BaseLoss):
            def forward(self, out_dict, targets, model_states=None, **_):
                value = nn.functional.mse_loss(out_dict["logits"], targets["labels"])
                return value, value

        network = plain_network(workload)
        fast = "ANIL" if workload.head_only else None
        model = MAML_Model(Anyhow(network.body), Anyhow(network.head), fast_weights_names=fast)
        inner = InnerSGD(
            model.get_fast_weights(), first_order=workload.first_order,
            inner_lr=workload.inner_learning_rate, learn_lr=False,
        )  # fmt: skip
        classify = not workload.regression
        self.algorithm = MAML(
            model=model,
            optimizer=torch.optim.Adam(model.parameters(), lr=META_LEARNING_RATE),
            inner_optimizer=inner,
            support_loss_fn=CrossEntropy(CategoricalAccuracy()) if classify else SquaredError(),
            inner_steps=workload.n_inner_steps,
        )
        self.batches = [
            [torch.stack(parts) for parts in zip(*batch, strict=True)]
            for batch in random_batches(workload, N_READY)
        ]

    def train(self, n_iter: int) -> None:
        """Take meta-iterations."""
        ready = (
            (xs, {"labels": ys}, xq, {"labels": yq})
            for xs, ys, xq, yq in (self.batches[i % N_READY] for i in range(n_iter))
        )
        for _ in range(n_iter):
            self.algorithm.step(ready, training=True, epoch=0, epochs=1)


def _plain(workload: Workload) -> PlainLoop:
    return PlainLoop(plain_network(workload), workload, random_batches(workload, N_READY))


def _ours(workload: Workload) -> Any:
    from inner_loop import OurPackage

    return OurPackage(workload, "cpu")


def _stand_in_for(package: str) -> None:
    """Let a module of a package be imported without the imports of the package itself."""
    found = importlib.util.find_spec(package)
    stand_in = types.ModuleType(package)
    stand_in.__spec__, stand_in.__path__ = found, list(found.submodule_search_locations)
    sys.modules[package] = stand_in


PACKAGES: dict[str, Callable[[Workload], Any]] = {
    "ours": _ours,
    "loop": _plain,
    "learn2learn": Learn2Learn,
    "higher": Higher,
    "torchopt": TorchOpt,
    "parallel-metalearn": ParallelMetaLearn,
}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    trainer = PACKAGES[sys.argv[1]](WORKLOADS[sys.argv[2]])
    for line in sys.stdin:
        trainer.train(int(line))
        sys.stdout.write("done\n")
        sys.stdout.flush()
