"""A function of one task as a function of a batch of tasks: stacked, or one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

_STACKABLE = {
    nn.Sequential, nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.Dropout, nn.GroupNorm,
    nn.RMSNorm, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Conv2d, nn.MaxPool2d,
}  # fmt: skip


def has_convolutions(module: nn.Module) -> bool:
    """Say whether a layer is a convolution, whose rows are images or the like."""
    return any(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules())


def should_loop(module: nn.Module, x: Tensor) -> bool:
    """Say whether tasks are run one after the other instead of stacked by ``vmap``.

    Stacking wins where the cost is Python and kernel launches; it loses for one task, and for
    convolutions on a CPU, whose batched form with a weight per task is a grouped convolution.
    Layers that are not known to have right second derivatives when stacked are run in turn:
    layer, instance and batch norm with adapted weights do not, and a user's own module may
    call them.
    """
    layers = list(module.modules())
    stackable = all(type(m) in _STACKABLE or getattr(m, "stackable", False) for m in layers)
    return x.shape[0] == 1 or not stackable or (x.device.type == "cpu" and has_convolutions(module))


def map_tasks(fn: Callable[..., Any], loop: bool, in_dims: tuple[Any, ...]) -> Callable[..., Any]:
    """Return ``fn`` of one task as a function of a batch of tasks.

    Parameters
    ----------
    fn : callable
        Works on one task; returns tensors, alone or in dicts, lists and tuples.
    loop : bool
        Whether the tasks are run in turn (True) or stacked by ``torch.func.vmap``.
    in_dims : tuple of (0, None, or a dict of them)
        Whether each argument has the task axis (0) or is the same for all tasks (None). A dict
        of tensors has one for all or a dict of them.
    """
    if not loop:
        return vmap(fn, in_dims=in_dims, randomness="different")

    def looped(*args: Any) -> Any:
        split = [_split(a, d) for a, d in zip(args, in_dims, strict=True)]
        n_tasks = next(n for n in map(_length, split) if n is not None)
        return _stack([fn(*(_take(a, t) for a in split)) for t in range(n_tasks)])

    return looped


class _PerTask(tuple):
    """The parts of one tensor that belong to each task."""


def _split(value: Any, dim: Any) -> Any:
    if isinstance(value, dict):
        dims = dim if isinstance(dim, dict) else dict.fromkeys(value, dim)
        return {name: _split(part, dims[name]) for name, part in value.items()}
    # The derivative of unbinding is one stack; that of indexing a sum over whole batches.
    return value if dim is None else _PerTask(value.unbind())


def _length(split: Any) -> int | None:
    if isinstance(split, dict):
        return next((n for n in map(_length, split.values()) if n is not None), None)
    return len(split) if isinstance(split, _PerTask) else None


def _take(split: Any, t: int) -> Any:
    if isinstance(split, dict):
        return {name: _take(part, t) for name, part in split.items()}
    return split[t] if isinstance(split, _PerTask) else split


def _stack(results: list[Any]) -> Any:
    first = results[0]
    if isinstance(first, dict):
        return {name: _stack([r[name] for r in results]) for name in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_stack(list(parts)) for parts in zip(*results, strict=True))
    return torch.stack(results)
