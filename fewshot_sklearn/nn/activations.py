"""Activations as layers of :mod:`~fewshot_sklearn.nn.written_out`: with two derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .learner import State


class Activation:
    r""":math:`\sigma(h)`, entry by entry.

    Parameters
    ----------
    function : callable
        sigma.
    slope, bend : callable
        Its first and second derivative, of the inputs and the outputs. ``bend=None`` is zero.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        slope: Callable[[Tensor, Tensor], Tensor],
        bend: Callable[[Tensor, Tensor], Tensor] | None,
    ) -> None:
        self.function, self.slope, self.bend = function, slope, bend

    def names(self) -> list[str]:
        return []

    def forward(self, w: State, h: Tensor) -> tuple[Tensor, Any]:
        out = self.function(h)
        return out, (h, out)

    def backward(self, w: State, kept: Any, delta: Tensor) -> Tensor:
        return delta * self.slope(*kept)

    def gradients(self, w: State, kept: Any, delta: Tensor) -> State:
        return {}

    def tangent(self, w: State, v: State, kept: Any, r: Tensor | None) -> Tensor | None:
        return None if r is None else r * self.slope(*kept)

    def tangent_backward(
        self, w: State, v: State, kept: Any, r: Tensor | None, delta: Tensor, r_delta: Tensor
    ) -> Tensor:
        result = r_delta * self.slope(*kept)
        if self.bend is None or r is None:
            return result
        return torch.addcmul(result, delta * r, self.bend(*kept))

    def products(
        self, w: State, v: State, kept: Any, r: Tensor | None, delta: Tensor, r_delta: Tensor
    ) -> State:
        return {}


def _normal_density(h: Tensor) -> Tensor:
    return torch.exp(-0.5 * h.square()) * 0.3989422804014327


def _gelu_slope(h: Tensor, out: Tensor) -> Tensor:
    return torch.special.ndtr(h) + h * _normal_density(h)


def _silu_slope(h: Tensor, out: Tensor) -> Tensor:
    s = torch.sigmoid(h)
    return s + out * (1 - s)


def _silu_bend(h: Tensor, out: Tensor) -> Tensor:
    s = torch.sigmoid(h)
    return s * (1 - s) * (2 + h * (1 - 2 * s))


def _gelu_bend(h: Tensor, out: Tensor) -> Tensor:
    return _normal_density(h) * (2 - h * h)


def _relu_slope(h: Tensor, out: Tensor) -> Tensor:
    return out.sign()


def _tanh_slope(h: Tensor, out: Tensor) -> Tensor:
    return 1 - out * out


def _tanh_bend(h: Tensor, out: Tensor) -> Tensor:
    return -2 * out * (1 - out * out)


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: Activation(torch.relu, _relu_slope, None),
    nn.Tanh: Activation(torch.tanh, _tanh_slope, _tanh_bend),
    nn.GELU: Activation(F.gelu, _gelu_slope, _gelu_bend),
    nn.SiLU: Activation(F.silu, _silu_slope, _silu_bend),
}
