"""Feature-wise linear modulation: a backbone whose normalisations follow a task vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .backbones import RowNorm
from .task_map import map_tasks, should_loop

_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    RowNorm,
)


def modulated_layers(backbone: nn.Module) -> dict[str, nn.Module]:
    """Return a network's normalisations that have a learned scale a channel, by name."""
    return {
        name: layer
        for name, layer in backbone.named_modules()
        if isinstance(layer, _NORMS) and layer.weight is not None and layer.weight.ndim == 1
    }


class FiLM(nn.Module):
    r"""Adaptation networks from a task vector to the scale and shift of every normalisation [1]_.

    To modulate a normalisation's output :math:`w \odot \hat x + b` by :math:`\gamma` and
    :math:`\beta` is to give it the parameters

    .. math:: w_t = \gamma_t \odot w, \qquad b_t = \gamma_t \odot b + \beta_t .

    Parameters
    ----------
    backbone : nn.Module
        The network to modulate; not held. Of a normalisation without shift, such as
        ``nn.RMSNorm``, the scale alone is modulated.
    n_features : int
        E, width of a task vector.

    References
    ----------
    .. [1] Requeima, Gordon, Bronskill, Nowozin, Turner (2019). "Fast and flexible multi-task
       classification using conditional neural adaptive processes." NeurIPS.
    """

    def __init__(self, backbone: nn.Module, n_features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            FiLMLayer(n_features, len(layer.weight), shifts=_shift(layer) is not None)  # type: ignore[arg-type]
            for layer in modulated_layers(backbone).values()
        )

    def forward(self, backbone: nn.Module, task: Tensor) -> dict[str, Tensor]:
        """Return the parameters w_t and b_t [T, width] by their names, for vectors [T, E]."""
        adapted = {}
        norms = modulated_layers(backbone)
        for (name, norm), film in zip(norms.items(), self.layers, strict=True):
            scale, shift = film(task)
            prefix = f"{name}." if name else ""
            adapted[f"{prefix}weight"] = scale * norm.weight
            if shift is not None:
                adapted[f"{prefix}bias"] = scale * norm.bias + shift
        return adapted

    def penalty(self) -> Tensor:
        """Return the sum of squares of the strengths r; see :class:`FiLMLayer`."""
        strengths = (p for name, p in self.named_parameters() if name.endswith("strength"))
        return torch.stack([p.square().sum() for p in strengths]).sum()


class FiLMLayer(nn.Module):
    r"""The adaptation network of one normalisation.

    .. math::
        h = \mathrm{relu}(V t + v), \qquad
        \gamma = 1 + r_\gamma \odot g_\gamma(h), \qquad \beta = r_\beta \odot g_\beta(h)

    Each g is three dense layers with residual connections. The strengths r are learned from
    zero, so that every task begins with the network as it is.

    Parameters
    ----------
    n_features : int
        Width of a task vector t.
    width : int
        Channels of the normalisation.
    shifts : bool
        Whether there is a beta.
    """

    def __init__(self, n_features: int, width: int, *, shifts: bool) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(n_features, width), nn.ReLU())
        self.scale, self.shift = _residual_network(width), None
        self.scale_strength = nn.Parameter(torch.zeros(width))
        if shifts:
            self.shift = _residual_network(width)
            self.shift_strength = nn.Parameter(torch.zeros(width))

    def forward(self, task: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return gamma and beta [T, width] for task vectors [T, E]."""
        hidden = self.shared(task)
        scale = 1 + self.scale_strength * self.scale(hidden)
        return scale, None if self.shift is None else self.shift_strength * self.shift(hidden)


class Residual(nn.Linear):
    """A dense layer added to its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the input [..., width] plus the layer's output."""
        return x + super().forward(x)


def _residual_network(width: int) -> nn.Sequential:
    first, second, third = (Residual(width, width) for _ in range(3))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def _shift(norm: nn.Module) -> Tensor | None:
    return getattr(norm, "bias", None)


def embed_modulated(backbone: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """Send each task's rows through the backbone with parameters of the task's own.

    Parameters
    ----------
    backbone : nn.Module
        Rows [N, *] to embeddings [N, D].
    parameters : dict of Tensor
        Some of its parameters by name, with the task axis first. Tasks share the others.
    x : Tensor of shape (T, N, *)

    Returns
    -------
    z : Tensor of shape (T, N, D)
    """

    def embed(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(backbone, parameters, (x,))

    return map_tasks(embed, should_loop(backbone, x), (0, 0))(parameters, x)
