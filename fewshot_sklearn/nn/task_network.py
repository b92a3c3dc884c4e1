"""A network that has weights of its own in every task: its outputs, gradients and descent."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vjp

from .functional import cross_entropy, mask_absent_classes, present_classes
from .learner import Loss, State, query_losses
from .task_map import map_tasks, should_loop

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch

# For every inner step, how far each weight moves along its gradient; a weight without a rate stays.
Rates = Sequence[Mapping[str, "float | Tensor"]]


class TaskNetwork:
    r"""A backbone and a linear head, run and differentiated with weights of their own per task.

    Weights are a dict of tensors with the task axis first: ``"backbone." + name`` for the
    parameters of the backbone, ``"weight"`` [T, C, D] and ``"bias"`` [T, C] for the head. This
    class takes any module, by ``torch.func``; :func:`task_network` returns one that is faster
    where it can.

    Parameters
    ----------
    backbone : nn.Module
        Rows [N, *] to embeddings [N, D].
    head : nn.Linear or None
        The start of the head. None starts every class at the zero vector.
    n_features : int
        D.
    loss : callable
        ``loss(outputs, y, mask)``, the loss of a support set. Cross-entropy looks at the classes
        of the support set only.

    Raises
    ------
    ValueError
        When a layer of the backbone writes to its buffers, as batch normalisation does: weights
        that differ from task to task would share them. The message names the layer.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Linear | None, *, n_features: int, loss: Loss
    ) -> None:
        refuse_running_statistics(backbone)
        self.backbone, self.head, self.n_features, self.loss = backbone, head, n_features, loss
        # A weight that several layers share has the first one's name, and is one weight.
        first = {id(w): name for name, w in backbone.named_parameters(prefix="backbone")}
        held = [
            (f"{prefix}.{name}", first[id(w)], module, name)
            for prefix, module in backbone.named_modules(prefix="backbone")
            for name, w in module.named_parameters(recurse=False)
        ]
        self._places = [(name, module, own) for name, of, module, own in held if name == of]
        self._weight_of = {name.removeprefix("backbone."): of for name, of, _, _ in held}

        weights = [*backbone.parameters(), *([] if head is None else head.parameters())]
        self._n_weights = sum(w.numel() for w in weights)
        self._n_hidden = sum(w.shape[0] for w in weights if w.ndim > 1)

    def bytes_per_task(self, n_support: int, n_query: int, n_steps: int) -> int:
        """Return about how much memory the descent of one task needs, to be differentiated."""
        # A hidden value is a number; of convolutions the largest activation is known in bytes.
        per_row = max(4 * self._n_hidden, getattr(self.backbone, "bytes_per_row", 0))
        of_weights = 4 * self._n_weights * (1 + n_steps)
        return of_weights + 4 * (n_support * n_steps + n_query) * per_row

    # ------------------------------------------------------------------ weights

    def shared_start(self, y: Tensor) -> dict[str, Tensor]:
        """Return the weights that every task starts from, without the task axis.

        Parameters
        ----------
        y : Tensor of shape (T, S, C)
        """
        weights = {name: getattr(module, own) for name, module, own in self._places}
        if self.head is not None:
            return weights | {"weight": self.head.weight, "bias": self.head.bias}
        n_classes = y.shape[-1]
        return weights | {
            "weight": y.new_zeros(n_classes, self.n_features),
            "bias": y.new_zeros(n_classes),
        }

    def start(self, y: Tensor) -> State:
        """Return the weights that every task starts from, as views [T, ...]."""
        weights = self.shared_start(y)
        return {name: w.expand(len(y), *w.shape) for name, w in weights.items()}

    def rates(self, rate: float, n_steps: int, names: Sequence[str] | None = None) -> Rates:
        """Return the same rate for the named weights, by default all, in every step."""
        if names is None:
            names = [*(name for name, _, _ in self._places), "weight", "bias"]
        return [dict.fromkeys(names, rate)] * n_steps

    def mean_weights(self, state: State) -> dict[str, Tensor]:
        """Return the mean over the tasks of what :meth:`descend` returned, or of dense weights.

        Parameters
        ----------
        state : dict of Tensor

        Returns
        -------
        weights : dict of Tensor
            By name, without the task axis.
        """
        return {name: w.mean(dim=0) for name, w in state.items()}

    def is_looped(self, x: Tensor) -> bool:
        """Say whether the tasks of these rows are run one after the other."""
        return should_loop(self.backbone, x)

    # ------------------------------------------------------------------ one task

    def forward_task(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Run the network of one task: [N, *] -> [N, C]."""
        own = {name: weights[of] for name, of in self._weight_of.items()}
        # By itself functional_call leaves foreign weights in a module that stands in two places.
        z = functional_call(self.backbone, own, (x,), tie_weights=False)
        return F.linear(z, weights["weight"], weights["bias"])

    def task_loss(
        self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor, mask: Tensor
    ) -> Tensor:
        """Return one task's support loss over the classes that its support set has."""
        return self.loss(self.known_outputs(self.forward_task(weights, x), y, mask), y, mask)

    def known_outputs(self, outputs: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """Give the classes without support rows no probability."""
        if self.loss is not cross_entropy:
            return outputs
        return mask_absent_classes(outputs, present_classes(y, mask))

    # ------------------------------------------------------------------ a batch of tasks

    def forward(self, weights: State, x: Tensor) -> Tensor:
        """Run each task's rows through its network: [T, N, *] -> [T, N, C]."""
        return map_tasks(self.forward_task, self.is_looped(x), (0, 0))(weights, x)

    def gradient(
        self, weights: State, x: Tensor, y: Tensor, mask: Tensor | None
    ) -> tuple[State, Tensor]:
        r"""Return the gradient of every task's support loss, and the losses [T], as plain numbers.

        Parameters
        ----------
        weights : dict of Tensor
        x, y, mask : Tensor of shape (T, S, *), (T, S, C), and (T, S) or None

        Returns
        -------
        gradient : dict of Tensor
            As ``weights``; nothing of it can be differentiated.
        losses : Tensor of shape (T,)
        """
        with torch.no_grad():
            compute = map_tasks(grad_and_value(self.task_loss), self.is_looped(x), (0, 0, 0, 0))
            return compute(weights, x, y, _full(mask, y))

    def curvature(
        self, weights: State, x: Tensor, y: Tensor, mask: Tensor | None
    ) -> Callable[[State], State]:
        r"""Return :math:`v \mapsto \nabla^2 L_t(\theta_t) \, v` of the support losses.

        Parameters
        ----------
        weights, x, y, mask : as in :meth:`gradient`

        Returns
        -------
        product : callable
            From a direction, as ``weights``, to a dict like it, as plain numbers.
        """
        mask = _full(mask, y)
        loop = self.is_looped(x)

        def of_task(weights: State, v: State, x: Tensor, y: Tensor, mask: Tensor) -> State:
            # A Hessian is symmetric: its product from the left is that from the right.
            return vjp(lambda w: grad(self.task_loss)(w, x, y, mask), weights)[1](v)[0]

        def product(v: State) -> State:
            with torch.no_grad():
                return map_tasks(of_task, loop, (0,) * 5)(weights, v, x, y, mask)

        return product

    def descend(
        self,
        rates: Rates,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None,
        *,
        start: Mapping[str, Tensor] | None = None,
        first_order: bool = False,
    ) -> State:
        r"""Take a step of gradient descent on every task's support loss for each of the rates.

        .. math::
            \theta_t^{(k+1)} = \theta_t^{(k)} - \alpha_k \circ \nabla_\theta L_t(\theta_t^{(k)})

        It can be differentiated with respect to the start, the rates and the rows.

        Parameters
        ----------
        rates : sequence of mapping from names of weights to a number or a Tensor
            The length is the number of steps. A tensor has the shape of the weight without the
            task axis, or one that broadcasts to it.
        x, y, mask : Tensor of shape (T, S, *), (T, S, C), and (T, S) or None
        start : mapping from names of weights to Tensor of shape (T, ...), default=None
            Where tasks start differently; the other weights start as in :meth:`start`.
        first_order : bool, default=False
            Treat the inner gradients as constants in the outer derivative.

        Returns
        -------
        weights : dict of Tensor
            For :meth:`forward`.
        """
        return self._walk(
            rates, x, y, mask, start or {}, first_order=first_order, every_step=False
        )[0]

    def trajectory(
        self,
        rates: Rates,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None,
        *,
        start: Mapping[str, Tensor] | None = None,
        first_order: bool = False,
    ) -> list[State]:
        """Return the weights before the first and after every step; as :meth:`descend`."""
        return self._walk(rates, x, y, mask, start or {}, first_order=first_order, every_step=True)

    def outer_loss(self, rates: Rates, batch: TaskBatch, *, first_order: bool) -> Tensor:
        """Return the mean over tasks of the query loss after a descent on the support loss.

        Parameters
        ----------
        rates, first_order : as in :meth:`descend`
        batch : TaskBatch

        Returns
        -------
        loss : Tensor of shape ()
            To be differentiated with respect to the start and the rates.
        """
        given = batch.x_support, batch.y_support, batch.support_mask
        weights = self.descend(rates, *given, first_order=first_order)
        return self.query_losses(self.forward(weights, batch.x_query), batch).mean()

    def query_losses(self, outputs: Tensor, batch: TaskBatch) -> Tensor:
        """Return the query loss of every task [T] from the outputs of its query rows."""
        return query_losses(self.loss, outputs, batch)

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
        """Return the weights before the first and after every step, or those after the last."""
        shared = self.shared_start(y)
        in_dims = {name: 0 if name in start else None for name in shared}
        loop = self.is_looped(x)
        differentiate = _by_autograd if loop else _by_functorch

        def descend(weights: State, x: Tensor, y: Tensor, mask: Tensor) -> list[State]:
            steps = [weights]
            for step in rates:
                fixed = weights

                def loss(moved: State, fixed: State = fixed) -> Tensor:
                    return self.task_loss({**fixed, **moved}, x, y, mask)

                at = {name: weights[name] for name in step}
                gradient = differentiate(loss, at, first_order) if step else {}
                moved = {name: weights[name] - r * gradient[name] for name, r in step.items()}
                weights = {**weights, **moved}
                steps.append(weights)
            return steps if every_step else steps[-1:]

        return map_tasks(descend, loop, (in_dims, 0, 0, 0))(
            {**shared, **start}, x, y, _full(mask, y)
        )


def _by_functorch(loss: Callable[[State], Tensor], at: State, first_order: bool) -> State:
    """Return the gradient of the loss of one of the tasks that are stacked."""
    with torch.no_grad() if first_order else nullcontext():
        return grad(loss)(at)


def _by_autograd(loss: Callable[[State], Tensor], at: State, first_order: bool) -> State:
    """Return the gradient of the loss of one task alone.

    Where no second derivative is wanted, layers may take their faster backward pass.
    """
    further = torch.is_grad_enabled() and not first_order
    at = {
        n: w if further and w.requires_grad else w.detach().requires_grad_() for n, w in at.items()
    }
    with torch.enable_grad():
        gradient = torch.autograd.grad(
            loss(at), list(at.values()), create_graph=further, materialize_grads=True
        )
    return dict(zip(at, gradient, strict=True))


def _full(mask: Tensor | None, y: Tensor) -> Tensor:
    """Return a mask of all rows where there is none."""
    return torch.ones(y.shape[:2], dtype=torch.bool, device=y.device) if mask is None else mask


def refuse_running_statistics(backbone: nn.Module) -> None:
    """Raise a ValueError when a layer writes running statistics."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and (
            isinstance(module, nn.modules.batchnorm._BatchNorm) or module.track_running_stats
        ):
            raise ValueError(
                f"the weights of the layer {name!r} ({type(module).__name__}) cannot differ from "
                "task to task: it mixes the rows of a task and writes running statistics while "
                "the weights are adapted; use a per-sample norm, such as nn.GroupNorm or "
                "Conv4(norm='group')."
            )


def refuse_written_buffers(backbone: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Raise a ValueError when a layer changes a buffer as rows go through it in training."""
    if not any(True for _ in backbone.buffers()):
        return
    trial = copy.deepcopy(backbone).train()
    like = next(trial.parameters(), torch.empty(0))
    before = {name: (b, b._version) for name, b in trial.named_buffers()}
    with torch.no_grad():
        trial(torch.zeros(2, *input_shape, dtype=like.dtype, device=like.device))
    for name, after in trial.named_buffers():
        buffer, version = before[name]
        if after is not buffer or after._version != version:
            layer, _, own = name.rpartition(".")
            raise ValueError(
                f"the layer {layer!r} ({type(trial.get_submodule(layer)).__name__}) of the "
                f"backbone writes to its buffer {own!r} while rows go through it; with weights "
                "that differ from task to task such a buffer would mix the tasks. Use a layer "
                "that keeps no statistics, or leave out the buffer."
            )
