r"""Gradient descent through layers in a row, and its derivative, without autograd inside.

Steps of gradient descent :math:`\theta_{k+1} = \theta_k - \alpha_k \circ \nabla L(\theta_k)` are
differentiated backwards: what an outer loss changes with :math:`\theta_{k+1}`, v, becomes

.. math:: v - \nabla^2 L(\theta_k) \, (\alpha_k \circ v)

for :math:`\theta_k` and :math:`-v \circ \nabla L(\theta_k)` for :math:`\alpha_k`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .learner import State
from .row_product import without_autocast
from .task_network import Rates
from .written_out import Gradients, Kept, Layer, RowSum


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
            gradients = dense(self.stack.gradients(tape), learned)
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


class Run(torch.autograd.Function):
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
            gradients = dense(ctx.stack.gradients(ctx.tape), ctx.names)
        return None, of_rows, None, *(gradients[name] for name in ctx.names)


class OuterLoss(torch.autograd.Function):
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
            v = dense(plan.stack.gradients(tape), names)
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


def descend(plan: Descent, weights: State, x: Tensor) -> list[State]:
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


def dense(gradients: Gradients, names: list[str]) -> State:
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
