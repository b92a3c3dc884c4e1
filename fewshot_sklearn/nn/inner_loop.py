"""Gradient descent on the support set, differentiable with respect to where it starts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

Parameters = dict[str, Tensor]
TaskModel = Callable[[Parameters, Tensor], Tensor]
TaskLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
_STACKABLE = {
    nn.Sequential, nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.Dropout, nn.GroupNorm,
    nn.RMSNorm, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Conv2d, nn.MaxPool2d,
}  # fmt: skip


def should_loop(module: nn.Module, x: Tensor) -> bool:
    """Say whether tasks are run one after the other instead of stacked by ``vmap``.

    Stacking wins where the cost is Python and kernel launches; it loses for one task, and for
    convolutions on a CPU, whose batched form with a weight per task is a grouped convolution.
    Layers that are not known to have right second derivatives when stacked are run in turn:
    layer, instance and batch norm with adapted weights do not, and a user's own module may
    call them.
    """
    layers = list(module.modules())
    has_convolutions = any(isinstance(m, nn.modules.conv._ConvNd) for m in layers)
    stackable = all(type(m) in _STACKABLE or getattr(m, "stackable", False) for m in layers)
    return x.shape[0] == 1 or not stackable or (has_convolutions and x.device.type == "cpu")


def map_tasks(fn: Callable[..., object], loop: bool, in_dims: tuple[int | None, ...]) -> Callable:
    """Return ``fn`` of one task as a function of a batch of tasks.

    Parameters
    ----------
    fn : callable
        Works on one task; returns a tensor or a dict of tensors.
    loop : bool
        Whether the tasks are run in turn (True) or stacked by ``torch.func.vmap``.
    in_dims : tuple of (0 or None)
        Whether each argument has the task axis (0) or is the same for all tasks (None).
    """
    if not loop:
        return vmap(fn, in_dims=in_dims, randomness="different")

    def looped(*args: object) -> object:
        n_tasks = next(_length(a) for a, d in zip(args, in_dims, strict=True) if d is not None)
        results = [
            fn(*(a if d is None else _take(a, t) for a, d in zip(args, in_dims, strict=True)))
            for t in range(n_tasks)
        ]
        first = results[0]
        if isinstance(first, dict):
            return {name: torch.stack([r[name] for r in results]) for name in first}  # type: ignore[index]
        return torch.stack(results)  # type: ignore[arg-type]

    return looped


def gradient_descent(
    model: TaskModel,
    loss: TaskLoss,
    start: Parameters,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    *,
    n_steps: int,
    learning_rate: float,
    first_order: bool,
    loop: bool,
) -> Parameters:
    r"""Take ``n_steps`` of gradient descent on every task's support loss.

    .. math:: \theta_t^{(k+1)} = \theta_t^{(k)} - \alpha \nabla_\theta L_t(\theta_t^{(k)})

    Parameters
    ----------
    model : callable
        ``model(parameters, x)`` of one task: [S, *] -> [S, C].
    loss : callable
        ``loss(outputs, y, mask)`` of one task, a scalar.
    start : dict of Tensor
        Where every task starts; without the task axis.
    x, y, mask : Tensor of shape (T, S, *), (T, S, C), and (T, S) or None
    n_steps : int
        Zero returns ``start`` for every task.
    learning_rate : float
    first_order : bool
        Treat the inner gradients as constants in the outer derivative.
    loop : bool
        See :func:`should_loop`.

    Returns
    -------
    adapted : dict of Tensor
        As ``start``, with the task axis first.
    """
    if mask is None:
        mask = torch.ones(y.shape[:2], dtype=torch.bool, device=y.device)

    def support_loss(parameters: Parameters, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        return loss(model(parameters, x), y, mask)

    def descend(parameters: Parameters, x: Tensor, y: Tensor, mask: Tensor) -> Parameters:
        for _ in range(n_steps):
            with torch.no_grad() if first_order else nullcontext():
                gradient = grad(support_loss)(parameters, x, y, mask)
            parameters = {k: p - learning_rate * gradient[k] for k, p in parameters.items()}
        return parameters

    return map_tasks(descend, loop, (None, 0, 0, 0))(start, x, y, mask)


def _length(value: object) -> int:
    tensor = next(iter(value.values())) if isinstance(value, dict) else value
    return len(tensor)  # type: ignore[arg-type]


def _take(value: object, t: int) -> object:
    if isinstance(value, dict):
        return {name: tensor[t] for name, tensor in value.items()}
    return value[t]  # type: ignore[index]
