"""Linear systems of many weights, one a task, solved through products with a vector alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .learner import State


def conjugate_gradients(product: Callable[[State], State], b: State, n_steps: int) -> State:
    r"""Solve :math:`A_t x_t = b_t` for every task by conjugate gradients from :math:`x_t = b_t`.

    .. math::
        \alpha = \frac{r^T r}{p^T A p}, \quad x \leftarrow x + \alpha p, \quad
        r' = r - \alpha A p, \quad p \leftarrow r' + \frac{r'^T r'}{r^T r} \, p

    A task stops early where its residual is down to rounding, or where it meets a direction with
    :math:`p^T A p \le 0`, which shows that its A is not positive definite.

    Parameters
    ----------
    product : callable
        :math:`v \mapsto A_t v_t` of all tasks, on a dict of tensors as ``b``.
    b : dict of Tensor of shape (T, ...)
    n_steps : int

    Returns
    -------
    x : dict of Tensor
        As ``b``. Exact after as many steps as a task has unknowns, to rounding; ``b`` after none.
    """
    if not n_steps:
        return b
    x, residual = b, _add(b, product(b), -1.0)
    direction, size = residual, _dot(residual, residual)
    rounding = torch.finfo(size.dtype).eps ** 2 * _dot(b, b)
    active = torch.ones_like(size, dtype=torch.bool)
    for _ in range(n_steps):
        image = product(direction)
        curvature = _dot(direction, image)
        active = active & (curvature > 0) & (size > rounding)
        step = torch.where(active, size / curvature, 0.0)
        x, residual = _add(x, direction, step), _add(residual, image, -step)
        size, before = _dot(residual, residual), size
        direction = _add(residual, direction, torch.where(active, size / before, 0.0))
    return x


def _dot(a: State, b: State) -> Tensor:
    """Return the inner product of each task's tensors [T]."""
    return torch.stack([(a[name] * b[name]).flatten(1).sum(dim=1) for name in a]).sum(dim=0)


def _add(a: State, b: State, factor: Tensor | float) -> State:
    """Return ``a + factor b``, with a factor for each task or one for all."""
    if isinstance(factor, float):
        return {name: a[name] + factor * b[name] for name in a}
    return {
        name: torch.addcmul(a[name], factor.view(-1, *[1] * (b[name].ndim - 1)), b[name])
        for name in a
    }
