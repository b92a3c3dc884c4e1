"""Networks of tasks whose backbone is a multilayer perceptron, run without autograd inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .descent import Descent, OuterLoss, Query, Run, Stack, dense, descend
from .functional import cross_entropy, present_classes
from .learner import Loss, State
from .output_errors import ERRORS
from .row_product import row_product, without_autocast
from .task_network import Rates, TaskNetwork
from .written_out import Layer, LinearLayer, LowRankLayer, LowRankQueryLayer, written_out

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


# How many times wider than the support set is long rows must be for the low-rank form to pay.
_LOW_RANK_GAIN = 4


class MLPNetwork(TaskNetwork):
    """A :class:`TaskNetwork` of layers in a row that computes its derivatives itself.

    The first layer's adapted weight is kept as the shared one plus an update of low rank where
    that is cheaper, see :class:`~fewshot_sklearn.nn.written_out.LowRankLayer`: a state then has
    ``update`` [T, S, O] and ``rows`` [T, S, I] in place of that layer's ``weight``.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Linear | None, *, n_features: int, loss: Loss
    ) -> None:
        super().__init__(backbone, head, n_features=n_features, loss=loss)
        self._known: dict[bool, list[Layer] | None] = {}

    def forward(self, weights: State, x: Tensor) -> Tensor:
        """Run each task's rows through its network: [T, N, *] -> [T, N, C]."""
        layers = self._layers()
        if layers is None:
            return super().forward(weights, x)
        x = x.flatten(2).to(weights["weight"].dtype)
        if "update" in weights and x.requires_grad:  # low rank leaves out what changes with rows
            weights = self._full_rank(weights)
        elif "update" in weights:
            first = cast("LinearLayer", layers[0])
            layers = [LowRankQueryLayer("update", "base", first.bias), *layers[1:]]
            weights = {**weights, "base": self._base(first, x)}
            x = _row_products(x, weights["rows"])
        stack = Stack(layers)
        names = stack.names()
        return Run.apply(stack, x, names, *(weights[name] for name in names))

    def gradient(
        self, weights: State, x: Tensor, y: Tensor, mask: Tensor | None
    ) -> tuple[State, Tensor]:
        """Return the gradient of every task's support loss, and the losses [T]."""
        layers = self._layers()
        if layers is None:
            return super().gradient(weights, x, y, mask)
        with torch.no_grad(), without_autocast(x):
            stack = Stack(layers)
            outputs, tape = stack.forward(weights, x.flatten(2).to(y.dtype))
            stack.backward(tape, self._error(y, mask).delta(outputs)[0])
            losses = self.loss(self.known_outputs(outputs, y, mask), y, mask)
            return dense(stack.gradients(tape), stack.names()), losses

    def curvature(
        self, weights: State, x: Tensor, y: Tensor, mask: Tensor | None
    ) -> Callable[[State], State]:
        """Return the product with the Hessian of the support losses."""
        layers = self._layers()
        if layers is None:
            return super().curvature(weights, x, y, mask)
        with torch.no_grad(), without_autocast(x):
            plan = Descent(Stack(layers), [], self._error(y, mask))
            tape = plan.linearise(weights, x.flatten(2).to(y.dtype))

        def product(v: State) -> State:
            with torch.no_grad(), without_autocast(x):
                changes, _ = plan.stack.products(tape, v, plan.error)
                return dense(changes, plan.stack.names())

        return product

    def mean_weights(self, state: State) -> dict[str, Tensor]:
        """Return the mean over the tasks of the weights; as in the base class."""
        if "update" not in state:
            return super().mean_weights(state)
        first = cast("LinearLayer", (self._layers() or [])[0])
        state = dict(state)
        rows, update = state.pop("rows"), state.pop("update")
        moved = torch.mm(update.flatten(0, 1).T, rows.flatten(0, 1)) / len(rows)
        return super().mean_weights(state) | {first.weight: self._shared_weight(first) + moved}

    def _full_rank(self, state: State) -> State:
        """Return a state with the first layer's weight as it is."""
        first = cast("LinearLayer", (self._layers() or [])[0])
        state = dict(state)
        moved = torch.bmm(state.pop("update").mT, state.pop("rows"))
        return state | {first.weight: self._shared_weight(first) + moved}

    def outer_loss(self, rates: Rates, batch: TaskBatch, *, first_order: bool) -> Tensor:
        """Return the mean query loss after a descent; as in the base class."""
        layers, x = self._layers(), batch.x_support
        rows_learned = x.requires_grad or batch.x_query.requires_grad
        composed = rows_learned or not any(rates) or not torch.is_grad_enabled()
        if layers is None or composed or _is_low_rank(layers[0], rates, x.flatten(2), {}):
            return super().outer_loss(rates, batch, first_order=first_order)
        query = Query(
            batch.x_query.flatten(2),
            lambda outputs: self.query_losses(outputs, batch),
            ERRORS[self.loss](batch.y_query, batch.query_mask, batch.class_mask),
        )
        error = self._error(batch.y_support, batch.support_mask)
        plan = Descent(Stack(layers), rates, error, first_order)
        start = self.shared_start(batch.y_support)
        shared = [start[name] for name in plan.stack.names()]
        return OuterLoss.apply(plan, query, x.flatten(2), *shared, *plan.rate_tensors())

    def _error(self, y: Tensor, mask: Tensor | None) -> Any:
        """Return the derivatives of the support loss."""
        present = present_classes(y, mask) if self.loss is cross_entropy else None
        return ERRORS[self.loss](y, mask, present)

    def _walk(
        self,
        rates: Rates,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None,
        start: Mapping[str, Tensor],
        *,
        first_order: bool,
        every_step: bool,
    ) -> list[State]:
        layers = self._layers()
        if layers is None or not any(rates):
            return super()._walk(
                rates, x, y, mask, start, first_order=first_order, every_step=every_step
            )
        error = self._error(y, mask)
        weights = {**self.start(y), **start}
        x = x.flatten(2).to(y.dtype)
        if not _is_low_rank(layers[0], rates, x, start):
            plan = Descent(Stack(layers), rates, error, first_order, every_step)
            return descend(plan, weights, x)
        first = cast("LinearLayer", layers[0])
        del weights[first.weight]
        base = self._base(first, x)
        weights |= {"base": base, "update": torch.zeros_like(base.detach())}
        rates = [{"update" if n == first.weight else n: r for n, r in s.items()} for s in rates]
        layers = [LowRankLayer("update", "base", first.bias), *layers[1:]]
        plan = Descent(Stack(layers), rates, error, first_order, every_step)
        steps = descend(plan, weights, _row_products(x, x))
        return [{n: w for n, w in own.items() if n != "base"} | {"rows": x} for own in steps]

    def _base(self, first: LinearLayer, x: Tensor) -> Tensor:
        """Return the rows [T, N, I] times the shared weight of the first layer [T, N, O]."""
        return row_product(x.flatten(0, 1), self._shared_weight(first)).unflatten(0, x.shape[:2])

    def _shared_weight(self, first: LinearLayer) -> Tensor:
        return self.backbone.get_parameter(first.weight.removeprefix("backbone."))

    def _layers(self) -> list[Layer] | None:
        """Return the layers, or None where dropout, or a layer of a kind not known, is at work."""
        mode = self.backbone.training
        if mode not in self._known:
            layers = written_out(self.backbone, training=mode)
            head = LinearLayer("weight", "bias")
            self._known[mode] = None if layers is None else [*layers, head]
        return self._known[mode]


def _is_low_rank(first: Layer, rates: Rates, x: Tensor, start: Mapping[str, Tensor]) -> bool:
    """Say whether the update of the first layer's weight is kept as D: where that is cheaper.

    With a rate for each entry, or rows that are differentiated, it cannot.
    """
    if not isinstance(first, LinearLayer) or not first.weight.startswith("backbone."):
        return False
    of_first = [step.get(first.weight) for step in rates]
    one_rate = all(
        r is not None and not (isinstance(r, Tensor) and r.numel() > 1) for r in of_first
    )
    n_rows, width = x.shape[1:]
    possible = one_rate and first.weight not in start and not x.requires_grad
    return possible and _LOW_RANK_GAIN * n_rows < width


def _row_products(a: Tensor, b: Tensor) -> Tensor:
    """Return the products [T, N, M] of the rows [T, N, I] and [T, M, I] of each task."""
    with without_autocast(a):
        return torch.bmm(a, b.mT)


def task_network(
    backbone: nn.Module, head: nn.Linear | None, *, n_features: int, loss: Loss
) -> TaskNetwork:
    """Return the fastest :class:`TaskNetwork` for a backbone and a loss; same parameters."""
    known = loss in ERRORS and written_out(backbone, training=False) is not None
    network = MLPNetwork if known else TaskNetwork
    return network(backbone, head, n_features=n_features, loss=loss)
