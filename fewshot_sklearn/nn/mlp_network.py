r"""Networks of tasks whose backbone is a multilayer perceptron, without autograd in the inner loop.

Steps of gradient descent :math:`\theta_{k+1} = \theta_k - \alpha_k \circ \nabla L(\theta_k)` are
differentiated backwards: what an outer loss changes with :math:`\theta_{k+1}`, v, becomes

.. math:: v - \nabla^2 L(\theta_k) \, (\alpha_k \circ v)

for :math:`\theta_k` and :math:`-v \circ \nabla L(\theta_k)` for :math:`\alpha_k`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .functional import cross_entropy, present_classes
from .learner import Loss, State
from .row_product import row_product, without_autocast
from .task_network import Rates, TaskNetwork
from .written_out import (
    ERRORS,
    Gradients,
    Kept,
    Layer,
    LinearLayer,
    LowRankLayer,
    LowRankQueryLayer,
    RowSum,
    written_out,
)

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


@dataclass
class Tape:
    """One forward and backward pass: the weights, what each layer kept, and its deltas."""

    weights: State
    kept: list[Kept] = field(default_factory=list)
    of_loss: Kept = None
    deltas: list[Tensor] = field(default_factory=list)


class Stack:
    """Layers in a row.

    Parameters
    ----------
    layers : list of Layer
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers

    def names(self) -> list[str]:
        """Return the names of the weights."""
        return [name for layer in self.layers for name in layer.names()]

    def forward(self, weights: State, h: Tensor) -> tuple[Tensor, Tape]:
        """Return the outputs [T, N, C], and the tape with what each layer kept."""
        tape = Tape(weights)
        for layer in self.layers:
            h, kept = layer.forward(weights, h)
            tape.kept.append(kept)
        return h, tape

    def backward(self, tape: Tape, delta: Tensor, *, to_rows: bool = False) -> Tensor | None:
        """Write the deltas of all layers on the tape; return that of the rows, if asked for."""
        tape.deltas = [delta]
        for layer, kept in zip(self.layers[:0:-1], tape.kept[:0:-1], strict=True):
            delta = layer.backward(tape.weights, kept, delta)
            tape.deltas.append(delta)
        tape.deltas.reverse()
        if not to_rows:
            return None
        return self.layers[0].backward(tape.weights, tape.kept[0], delta) if self.layers else delta

    def gradients(self, tape: Tape) -> Gradients:
        """Return the gradients with respect to all weights."""
        result: Gradients = {}
        for layer, kept, delta in zip(self.layers, tape.kept, tape.deltas, strict=True):
            result |= layer.gradients(tape.weights, kept, delta)
        return result

    def products(
        self, tape: Tape, v: State, error: Any, *, to_rows: bool = False
    ) -> tuple[Gradients, Tensor | None]:
        """Return how the gradients change along v, and, if asked for, the delta of the rows."""
        r: Tensor | None = None
        tangents = []
        for layer, kept in zip(self.layers, tape.kept, strict=True):
            tangents.append(r)
            r = layer.tangent(tape.weights, v, kept, r)
        result: Gradients = {}
        r_delta = torch.zeros_like(tape.deltas[-1]) if r is None else error.tangent(tape.of_loss, r)
        for i in reversed(range(len(self.layers))):
            layer, known = self.layers[i], (tape.kept[i], tangents[i], tape.deltas[i], r_delta)
            result |= layer.products(tape.weights, v, *known)
            if i or to_rows:
                r_delta = layer.tangent_backward(tape.weights, v, *known)
        return result, r_delta if to_rows else None


@dataclass
class Descent:
    """Steps of gradient descent on the loss of some rows.

    Attributes
    ----------
    stack : Stack
    rates : Rates
        Of the names of ``start``.
    error : SoftmaxError or SquaredError
    first_order : bool
    every_step : bool
        Whether the weights after every step are returned, or those after the last.
    """

    stack: Stack
    rates: Rates
    error: Any
    first_order: bool = True
    every_step: bool = False

    def moved(self) -> list[str]:
        """Return the names of the weights that some step moves."""
        return list(dict.fromkeys(name for step in self.rates for name in step))

    def rate_tensors(self) -> list[Tensor]:
        """Return the rates that may be learned."""
        return [r for step in self.rates for r in step.values() if isinstance(r, Tensor)]

    def run(self, start: State, x: Tensor, *, keep: bool) -> tuple[list[State], list[Tape]]:
        """Return the weights before the first and after every step, and the tapes of the steps."""
        steps, tapes = [start], []
        for step in self.rates:
            weights = steps[-1]
            tape = self.linearise(weights, x)
            gradients = self.stack.gradients(tape)
            steps.append(
                {**weights, **{n: _minus(weights[n], gradients[n], step[n]) for n in step}}
            )
            if keep:
                tapes.append(tape)
        return steps, tapes

    def linearise(self, weights: State, x: Tensor) -> Tape:
        """Return the tape of a forward and backward pass."""
        outputs, tape = self.stack.forward(weights, x)
        delta, tape.of_loss = self.error.delta(outputs)
        self.stack.backward(tape, delta)
        return tape

    def pull_back(
        self, v: State, tapes: list[Tape], later: list[State], *, to_rows: bool
    ) -> tuple[State, list[Tensor], Tensor | None]:
        """Return what an outer loss changes with the start, the learned rates and the rows.

        Parameters
        ----------
        v : dict of Tensor
            What it changes with the weights after the last step.
        tapes : list of Tape
        later : list of (dict of Tensor)
            What it changes with the weights before every step, but for the first, by themselves.
        to_rows : bool
        """
        of_rates: list[Tensor] = []
        of_rows: Tensor | None = None
        own: State = {}  # what was made here, and may be written to
        for tape, step, more in reversed(list(zip(tapes, self.rates, later, strict=True))):
            learned = [n for n, r in step.items() if isinstance(r, Tensor) and r.requires_grad]
            gradients = _dense(self.stack.gradients(tape), learned)
            of_rates[:0] = [
                _like(v[n] * gradients[n], r).neg_() if n in learned else torch.zeros_like(r)
                for n, r in step.items()
                if isinstance(r, Tensor)
            ]
            if not self.first_order:
                scale, along = _along(v, step)
                changes, of_delta = self.stack.products(tape, along, self.error, to_rows=to_rows)
                own = {n: _minus(v.get(n), c, scale, in_place=n in own) for n, c in changes.items()}
                v = {**v, **own}
                if of_delta is not None:
                    of_rows = _minus(of_rows, of_delta, scale)
            v = {**v, **{n: v[n] + m if n in v else m for n, m in more.items()}}
            own = {n: w for n, w in own.items() if n not in more}
        return v, of_rates, of_rows


class _Descend(torch.autograd.Function):
    """:class:`Descent` as autograd sees it."""

    @staticmethod
    def forward(ctx: Any, plan: Descent, x: Tensor, names: list[str], *tensors: Tensor) -> Any:
        with without_autocast(x):
            start = dict(zip(names, tensors[: len(names)], strict=True))
            steps, ctx.tapes = plan.run(start, x, keep=True)
        ctx.plan, ctx.names = plan, names
        ctx.set_materialize_grads(False)
        kept = steps[1:] if plan.every_step else steps[-1:]
        # Aliases: the tapes would otherwise own what owns them.
        return tuple(weights[name].detach() for weights in kept for name in plan.moved())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        plan, moved = ctx.plan, ctx.plan.moved()
        by_step = [
            {n: g for n, g in zip(moved, grads[i : i + len(moved)], strict=True) if g is not None}
            for i in range(0, len(grads), len(moved))
        ]
        later: list[State] = [{}] * (len(plan.rates) - len(by_step) + 1) + by_step[:-1]
        some = next(g for g in grads if g is not None)
        shapes = {n: ctx.tapes[-1].weights[n] for n in moved}
        v = {n: by_step[-1].get(n, torch.zeros_like(w)) for n, w in shapes.items()}
        to_rows = ctx.needs_input_grad[1]
        with without_autocast(some):
            v, of_rates, of_rows = plan.pull_back(v, ctx.tapes, later, to_rows=to_rows)
        return None, of_rows, None, *(v.get(name) for name in ctx.names), *of_rates


class _Run(torch.autograd.Function):
    """The outputs of a stack as autograd sees them."""

    @staticmethod
    def forward(ctx: Any, stack: Stack, x: Tensor, names: list[str], *tensors: Tensor) -> Tensor:
        with without_autocast(x):
            outputs, tape = stack.forward(dict(zip(names, tensors, strict=True)), x)
        ctx.stack, ctx.names, ctx.tape = stack, names, tape
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        with without_autocast(delta):
            of_rows = ctx.stack.backward(ctx.tape, delta, to_rows=ctx.needs_input_grad[1])
            gradients = _dense(ctx.stack.gradients(ctx.tape), ctx.names)
        return None, of_rows, None, *(gradients[name] for name in ctx.names)


# How many times wider than the support set is long rows must be for the low-rank form to pay.
_LOW_RANK_GAIN = 4


class _OuterLoss(torch.autograd.Function):
    """The mean loss of query rows after a descent, whose gradient is known with it."""

    @staticmethod
    def forward(ctx: Any, plan: Descent, query: Query, x: Tensor, *tensors: Tensor) -> Tensor:
        names, n_tasks = plan.stack.names(), len(x)
        shared = zip(names, tensors[: len(names)], strict=True)
        with without_autocast(x):
            start = {name: w.expand(n_tasks, *w.shape) for name, w in shared}
            steps, tapes = plan.run(start, x, keep=True)
            outputs, tape = plan.stack.forward(steps[-1], query.x)
            plan.stack.backward(tape, query.error.delta(outputs)[0] / n_tasks)
            v = _dense(plan.stack.gradients(tape), names)
            v, of_rates, _ = plan.pull_back(v, tapes, [{}] * len(tapes), to_rows=False)
            ctx.gradients = [*(v[name].sum(dim=0) for name in names), *of_rates]
            return query.losses(outputs).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, share: Tensor) -> Any:
        return None, None, None, *(share * gradient for gradient in ctx.gradients)


@dataclass
class Query:
    """The query rows [T, Q, I] of some tasks, their losses [T] and its derivatives."""

    x: Tensor
    losses: Callable[[Tensor], Tensor]
    error: Any


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
        return _Run.apply(stack, x, names, *(weights[name] for name in names))

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
            return _dense(stack.gradients(tape), stack.names()), losses

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
                return _dense(changes, plan.stack.names())

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
        composed = not rates or not torch.is_grad_enabled()
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
        return _OuterLoss.apply(plan, query, x.flatten(2), *shared, *plan.rate_tensors())

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
            return _descend(plan, weights, x)
        first = cast("LinearLayer", layers[0])
        del weights[first.weight]
        base = self._base(first, x)
        weights |= {"base": base, "update": torch.zeros_like(base.detach())}
        rates = [{"update" if n == first.weight else n: r for n, r in s.items()} for s in rates]
        layers = [LowRankLayer("update", "base", first.bias), *layers[1:]]
        plan = Descent(Stack(layers), rates, error, first_order, every_step)
        steps = _descend(plan, weights, _row_products(x, x))
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


def _descend(plan: Descent, weights: State, x: Tensor) -> list[State]:
    """Return the weights after every step, from the one before the first, or after the last."""
    if not torch.is_grad_enabled():
        with without_autocast(x):
            steps, _ = plan.run(weights, x, keep=False)
        return steps if plan.every_step else steps[-1:]
    names, moved = plan.stack.names(), plan.moved()
    flat = _Descend.apply(plan, x, names, *(weights[n] for n in names), *plan.rate_tensors())
    after = [
        {**weights, **dict(zip(moved, flat[i : i + len(moved)], strict=True))}
        for i in range(0, len(flat), len(moved))
    ]
    return [weights, *after] if plan.every_step else after


def _minus(
    a: Tensor | None, b: Tensor | RowSum, scale: float | Tensor, *, in_place: bool = False
) -> Tensor:
    """Return a - scale * b; a is zero if None, and may be written to if ``in_place``."""
    if isinstance(b, RowSum):
        if a is not None and not isinstance(scale, Tensor):
            return b.taken_from(a, scale, in_place=in_place)
        b = b.dense()
    if a is None:
        return b * -scale
    if isinstance(scale, Tensor):
        return torch.addcmul(a, b, scale, value=-1)
    return torch.add(a, b, alpha=-scale)


def _dense(gradients: Gradients, names: list[str]) -> State:
    """Return the named ones as tensors."""
    chosen = [(name, gradients[name]) for name in names]
    return {name: g.dense() if isinstance(g, RowSum) else g for name, g in chosen}


def _along(v: State, step: Mapping[str, float | Tensor]) -> tuple[float, State]:
    """Return a number and weights whose product is v times the rates of a step."""
    rates = list(step.values())
    if rates and all(isinstance(r, float) and r == rates[0] for r in rates):
        return float(rates[0]), {n: v[n] for n in step}
    return 1.0, {n: v[n] * r for n, r in step.items()}


def _like(per_task: Tensor, rate: Tensor) -> Tensor:
    """Sum what belongs to each task to the shape of a rate that all share."""
    return per_task.sum(dim=0).sum_to_size(rate.shape)


def task_network(
    backbone: nn.Module, head: nn.Linear | None, *, n_features: int, loss: Loss
) -> TaskNetwork:
    """Return the fastest :class:`TaskNetwork` for a backbone and a loss; same parameters."""
    known = loss in ERRORS and written_out(backbone, training=False) is not None
    network = MLPNetwork if known else TaskNetwork
    return network(backbone, head, n_features=n_features, loss=loss)
