r"""Layers of a multilayer perceptron with a weight per task, their derivatives written out.

A layer maps the rows of all tasks, h [T, N, I] to [T, N, O], with weights from a dict. For its
first derivatives it has ``backward`` (from :math:`\delta`, the derivative of the loss with respect
to its outputs, to that of its inputs) and ``gradients`` (to that of its weights). For products of
the Hessian with a direction v it has their derivatives along v, which [1]_ writes as
:math:`R\{\cdot\}`: ``tangent`` (:math:`R\{h\}`), ``tangent_backward`` (:math:`R\{\delta\}`) and
``products`` (:math:`R` of the gradients). ``kept`` is what a layer remembers of its forward pass. A
tangent that is None is zero.

References
----------
.. [1] Pearlmutter (1994). "Fast exact multiplication by the Hessian." Neural Computation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .activations import ACTIVATIONS, Activation
from .backbones import MLPBackbone, RowNorm
from .learner import State

Kept = Any


class RowSum:
    r"""A sum over rows :math:`\sum_i a_i b_i^T`, kept as the rows until it is added to something.

    Parameters
    ----------
    *pairs : (Tensor of shape (T, N, O), Tensor of shape (T, N, I))
        All of them are summed, to [T, O, I].
    """

    def __init__(self, *pairs: tuple[Tensor, Tensor]) -> None:
        self.pairs = pairs

    def dense(self) -> Tensor:
        """Return the sum."""
        (a, b), *others = self.pairs
        return _add_rows(torch.bmm(a.mT, b), others, 1.0)

    def taken_from(self, weight: Tensor, scale: float, *, in_place: bool = False) -> Tensor:
        """Return a weight minus ``scale`` times the sum."""
        if in_place:
            return _add_rows(weight, self.pairs, -scale)
        (a, b), *others = self.pairs
        return _add_rows(torch.baddbmm(weight, a.mT, b, alpha=-scale), others, -scale)


def _add_rows(total: Tensor, pairs: Iterable[tuple[Tensor, Tensor]], scale: float) -> Tensor:
    for a, b in pairs:
        total.baddbmm_(a.mT, b, alpha=scale)
    return total


# The derivatives with respect to weights by name.
Gradients = dict[str, "Tensor | RowSum"]


class WeightedLayer:
    """A layer with a weight, and perhaps a bias that is added to all of its rows."""

    def __init__(self, weight: str, bias: str | None) -> None:
        self.weight, self.bias = weight, bias

    def names(self) -> list[str]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def _with_bias(self, of_weight: Tensor | RowSum, delta: Tensor) -> Gradients:
        if self.bias is None:
            return {self.weight: of_weight}
        return {self.weight: of_weight, self.bias: delta.sum(dim=1)}


class LinearLayer(WeightedLayer):
    """:math:`h W^T + b`."""

    def forward(self, w: State, h: Tensor) -> tuple[Tensor, Kept]:
        return self._add_bias(w, h, w[self.weight].mT), h

    def backward(self, w: State, kept: Kept, delta: Tensor) -> Tensor:
        return torch.bmm(delta, w[self.weight])

    def gradients(self, w: State, kept: Kept, delta: Tensor) -> Gradients:
        return self._with_bias(RowSum((delta, kept)), delta)

    def tangent(self, w: State, v: State, kept: Kept, r: Tensor | None) -> Tensor | None:
        parts = []
        if self.weight in v:
            parts.append(torch.bmm(kept, v[self.weight].mT))
        if r is not None:
            parts.append(torch.bmm(r, w[self.weight].mT))
        if self.bias in v:
            parts.append(v[self.bias].unsqueeze(1))
        return _sum(parts)

    def tangent_backward(
        self, w: State, v: State, kept: Kept, r: Tensor | None, delta: Tensor, r_delta: Tensor
    ) -> Tensor:
        result = torch.bmm(r_delta, w[self.weight])
        return torch.baddbmm(result, delta, v[self.weight]) if self.weight in v else result

    def products(
        self, w: State, v: State, kept: Kept, r: Tensor | None, delta: Tensor, r_delta: Tensor
    ) -> Gradients:
        pairs = [(r_delta, kept)] if r is None else [(r_delta, kept), (delta, r)]
        return self._with_bias(RowSum(*pairs), r_delta)

    def _add_bias(self, w: State, h: Tensor, matrix: Tensor) -> Tensor:
        if self.bias is None:
            return torch.bmm(h, matrix)
        return torch.baddbmm(w[self.bias].unsqueeze(1), h, matrix)


class LowRankLayer(LinearLayer):
    r"""The first layer on the support rows X, its weight :math:`W_t = W + D_t^T X_t` kept as D.

    Every gradient with respect to the weight is :math:`\delta^T X`, so that steps of gradient
    descent are steps of D along :math:`\delta`, and :math:`X W_t^T = X W^T + X X^T D`: the shared
    weight and the rows meet once, whatever the number of steps. In the dict of weights D [T, S, O]
    stands under ``update`` and :math:`X W^T` [T, S, O] under ``base``; the layer's input is
    :math:`X X^T`.

    A direction of D comes from what an outer loss changes with D, which is not what it changes with
    W: ``tangent`` and ``products`` are the transposes of ``gradients`` and ``forward``.
    """

    def __init__(self, update: str, base: str, bias: str | None) -> None:
        super().__init__(update, bias)
        self.base = base

    def names(self) -> list[str]:
        return [self.base, *super().names()]

    def forward(self, w: State, h: Tensor) -> tuple[Tensor, Kept]:
        base = w[self.base]
        if self.bias is not None:
            base = base + w[self.bias].unsqueeze(1)
        return torch.baddbmm(base, h, w[self.weight]), h

    def gradients(self, w: State, kept: Kept, delta: Tensor) -> Gradients:
        return self._with_bias(delta, delta)

    def tangent(self, w: State, v: State, kept: Kept, r: Tensor | None) -> Tensor | None:
        parts = [v[self.weight]] if self.weight in v else []
        if self.bias in v:
            parts.append(v[self.bias].unsqueeze(1))
        return _sum(parts)

    def products(
        self, w: State, v: State, kept: Kept, r: Tensor | None, delta: Tensor, r_delta: Tensor
    ) -> Gradients:
        return {self.base: r_delta} | self._with_bias(RowSum((kept, r_delta)), r_delta)


class LowRankQueryLayer(LowRankLayer):
    r"""The same layer on other rows: its input is their product with the support rows, Z X^T.

    Its ``gradients`` are those of any layer, not the steps of D.
    """

    def gradients(self, w: State, kept: Kept, delta: Tensor) -> Gradients:
        return {self.base: delta} | self._with_bias(RowSum((kept, delta)), delta)


class NormLayer(WeightedLayer):
    r""":math:`\gamma \hat h + \beta`, with :math:`\hat h` a row over its deviation or its size.

    :math:`\langle \cdot \rangle` is the mean over a row, :math:`m = \langle h \rangle` (layer norm)
    or 0 (RMS norm), :math:`s^2 = \langle (h - m)^2 \rangle + \epsilon`, and

    .. math:: \hat h = (h - m) / s, \qquad R\{\hat h\} = J R\{h\}, \qquad
        J u = (u - [\langle u \rangle] - \hat h \langle \hat h u \rangle) / s ,

    where the term in brackets belongs to layer norm. J is symmetric, so it is the backward pass
    too.
    """

    def __init__(self, weight: str, bias: str | None, *, centred: bool, eps: float | None) -> None:
        super().__init__(weight, bias)
        self.centred, self.eps = centred, eps

    def forward(self, w: State, h: Tensor) -> tuple[Tensor, Kept]:
        if self.centred:
            h = h - h.mean(dim=-1, keepdim=True)
        eps = torch.finfo(h.dtype).eps if self.eps is None else self.eps
        inverse = (_row_mean(h, h) + eps).rsqrt()
        normal = h * inverse
        scale = w[self.weight].unsqueeze(1)
        if self.bias is None:
            return normal * scale, (normal, inverse)
        return torch.addcmul(w[self.bias].unsqueeze(1), normal, scale), (normal, inverse)

    def backward(self, w: State, kept: Kept, delta: Tensor) -> Tensor:
        return self._jacobian(kept, delta * w[self.weight].unsqueeze(1))

    def gradients(self, w: State, kept: Kept, delta: Tensor) -> Gradients:
        return self._with_bias((delta * kept[0]).sum(dim=1), delta)

    def tangent(self, w: State, v: State, kept: Kept, r: Tensor | None) -> Tensor | None:
        parts = []
        if r is not None:
            parts.append(self._jacobian(kept, r) * w[self.weight].unsqueeze(1))
        if self.weight in v:
            parts.append(kept[0] * v[self.weight].unsqueeze(1))
        if self.bias in v:
            parts.append(v[self.bias].unsqueeze(1))
        return _sum(parts)

    def tangent_backward(
        self, w: State, v: State, kept: Kept, r: Tensor | None, delta: Tensor, r_delta: Tensor
    ) -> Tensor:
        normal, inverse = kept
        u = delta * w[self.weight].unsqueeze(1)
        r_u = r_delta * w[self.weight].unsqueeze(1)
        if self.weight in v:
            r_u = torch.addcmul(r_u, delta, v[self.weight].unsqueeze(1))
        result = self._jacobian(kept, r_u)
        if r is None:
            return result
        r_normal = self._jacobian(kept, r)
        change = r_normal * _row_mean(normal, u) + normal * _row_mean(r_normal, u)
        change = change + self._jacobian(kept, u) * _row_mean(normal, r)
        return torch.addcmul(result, change, inverse, value=-1)

    def products(
        self, w: State, v: State, kept: Kept, r: Tensor | None, delta: Tensor, r_delta: Tensor
    ) -> Gradients:
        of_weight = r_delta * kept[0]
        if r is not None:
            of_weight = torch.addcmul(of_weight, delta, self._jacobian(kept, r))
        return self._with_bias(of_weight.sum(dim=1), r_delta)

    def _jacobian(self, kept: Kept, u: Tensor) -> Tensor:
        normal, inverse = kept
        if self.centred:
            u = u - u.mean(dim=-1, keepdim=True)
        return torch.addcmul(u, normal, _row_mean(normal, u), value=-1) * inverse


Layer = LinearLayer | Activation | NormLayer


def _row_mean(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).mean(dim=-1, keepdim=True)


def _sum(parts: list[Tensor]) -> Tensor | None:
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def written_out(backbone: nn.Module, *, training: bool) -> list[Layer] | None:
    """Return the layers of a backbone, or None where one of them is not written out here.

    Parameters
    ----------
    backbone : nn.Module
        With layers in a row, alone, in an ``nn.Sequential`` or as built by
        :class:`~fewshot_sklearn.MLP`. No two of them share a weight, and none has hooks.
    training : bool
        Whether dropout is at work.
    """
    modules = _in_a_row("backbone", backbone)
    weights = [id(w) for _, module in modules for w in module.parameters()]
    if len(set(weights)) < len(weights) or any(map(_has_hooks, backbone.modules())):
        return None
    layers: list[Layer] = []
    for name, module in modules:
        layer = [] if type(module) is nn.Dropout and not training else _layer(name, module)
        late = type(module) is nn.Flatten and any(before.names() for before in layers)
        if layer is None or late:  # rows are flat from the first layer on
            return None
        layers.extend(layer)
    return layers


def _in_a_row(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    if type(module) is MLPBackbone:
        return [(name, nn.Flatten()), *_in_a_row(f"{name}.layers", module.layers)]
    if type(module) is nn.Sequential:
        return [
            inner
            for k, child in zip(module._modules, module, strict=True)  # one may stand there twice
            for inner in _in_a_row(f"{name}.{k}", child)
        ]
    return [(name, module)]


def _has_hooks(module: nn.Module) -> bool:
    hooks = module._forward_hooks, module._forward_pre_hooks
    return any((*hooks, module._backward_hooks, module._backward_pre_hooks))


def _layer(name: str, module: nn.Module) -> list[Layer] | None:
    """Return the layer of a module, none for one that passes rows on, or None if unknown."""
    kind = type(module)
    if kind in ACTIVATIONS and getattr(module, "approximate", "none") == "none":
        return [ACTIVATIONS[kind]]
    bias = f"{name}.bias" if getattr(module, "bias", None) is not None else None
    if kind is nn.Linear:
        return [LinearLayer(f"{name}.weight", bias)]
    if kind is RowNorm:
        return [NormLayer(f"{name}.weight", bias, centred=True, eps=1e-5)]
    if isinstance(module, nn.RMSNorm) and kind is nn.RMSNorm and _is_row_norm(module):
        return [NormLayer(f"{name}.weight", None, centred=False, eps=module.eps)]
    return [] if kind in (nn.Identity, nn.Flatten) else None


def _is_row_norm(norm: nn.RMSNorm) -> bool:
    return norm.elementwise_affine and len(norm.normalized_shape) == 1
