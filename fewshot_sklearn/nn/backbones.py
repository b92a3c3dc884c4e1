"""Backbone specifications: small, searchable descriptions that build an embedding network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv_block import ConvBlock, in_pieces
from .functional import split_rows

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class BackboneSpec:
    """Base of the specifications: parameters as scikit-learn reads them, and ``build``."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name, as scikit-learn's estimators do."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def set_params(self, **params: Any) -> BackboneSpec:
        """Set parameters by name; an unknown name raises a ValueError."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(
                    f"{type(self).__name__} has no parameter {name!r}; it has {sorted(known)}."
                )
            setattr(self, name, value)
        return self

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Return a new network for rows of ``input_shape``, embedding [N, *] as [N, D]."""
        raise NotImplementedError


@dataclass(kw_only=True)
class MLP(BackboneSpec):
    """A multilayer perceptron for flat rows; rows of more dimensions are flattened.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(64, 64)
        Widths of the hidden layers. Each is linear, then ``norm``, ``activation``, ``dropout``.
    activation : {"relu", "gelu", "silu", "tanh"}, default="relu"
        The nonlinearity.
    norm : {"layer", "rms", None}, default="layer"
        Normalisation of each row's hidden values. It keeps gradient steps bounded when features
        are not scaled.
    dropout : float, default=0.0
        Share of hidden values that are dropped in meta-training.
    embedding_size : int or None, default=None
        Width of a last, purely linear layer without bias. None: the last hidden layer is the
        embedding.

    Examples
    --------
    >>> from fewshot_sklearn import MLP
    >>> MLP(hidden_layer_sizes=(128,), norm=None).build((20,))
    MLPBackbone(
      (layers): Sequential(
        (0): Linear(in_features=20, out_features=128, bias=True)
        (1): ReLU()
      )
    )
    """

    hidden_layer_sizes: tuple[int, ...] = (64, 64)
    activation: str = "relu"
    norm: str | None = "layer"
    dropout: float = 0.0
    embedding_size: int | None = None

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Return a new network for rows of ``input_shape``, embedding [N, *] as [N, D]."""
        activation = _option("MLP", "activation", self.activation, _ACTIVATIONS)
        norm = _option("MLP", "norm", self.norm, _ROW_NORMS)
        width = int(torch.Size(input_shape).numel())
        layers: list[nn.Module] = []
        for size in self.hidden_layer_sizes:
            layers.append(nn.Linear(width, size))
            layers.extend(norm(size))
            layers.append(activation())
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            width = size
        if self.embedding_size is not None:
            # No bias: distances between embeddings would cancel it.
            layers.append(nn.Linear(width, self.embedding_size, bias=False))
        return MLPBackbone(layers)


@dataclass(kw_only=True)
class Conv4(BackboneSpec):
    """The four-block convolutional network of the few-shot literature.

    Each block is a 3x3 convolution, a normalisation, ReLU and 2x2 max-pooling [1]_.

    Parameters
    ----------
    image_shape : tuple (channels, height, width), default=(1, 28, 28)
        Shape of one image. Rows may come flat, with or without the channel axis.
    n_filters : int, default=64
        Filters of every block.
    n_blocks : int, default=4
        Number of blocks.
    n_pools : int or None, default=None
        How many blocks, from the first, end in the pooling that halves height and width; None:
        all. Two leave feature maps that a convolutional relation module can compare.
    norm : {"group", "batch", None}, default="group"
        "group" normalises each image by itself (8 groups, or as many as divide ``n_filters``),
        so that no prediction depends on the other rows. "batch" is batch normalisation: in
        meta-training the statistics of all rows of the batch of tasks, running averages
        afterwards.

    References
    ----------
    .. [1] Vinyals et al. (2016). "Matching networks for one shot learning." NeurIPS.

    Examples
    --------
    >>> import torch
    >>> from fewshot_sklearn import Conv4
    >>> Conv4(n_filters=32).build((784,))(torch.zeros(2, 784)).shape
    torch.Size([2, 32])
    """

    image_shape: tuple[int, int, int] = (1, 28, 28)
    n_filters: int = 64
    n_blocks: int = 4
    n_pools: int | None = None
    norm: str | None = "group"

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Return a new network for rows of ``input_shape``, embedding [N, *] as [N, D]."""
        shape = tuple(self.image_shape)
        one_channel = [shape[1:], (*shape[1:], 1)] if shape[0] == 1 else []
        known = [shape, (torch.Size(shape).numel(),), *one_channel]
        if len(shape) != 3 or tuple(input_shape) not in known:
            raise ValueError(
                f"Conv4(image_shape={shape}) needs (channels, height, width) of the rows of X, "
                f"flat or in this order of axes, but a row of X has the shape "
                f"{tuple(input_shape)}; set image_shape to the shape of your images, and move "
                "their channels first: X.transpose(0, 3, 1, 2)."
            )
        n_pools = self.n_blocks if self.n_pools is None else self.n_pools
        if not 0 <= n_pools <= self.n_blocks:
            raise ValueError(
                f"Conv4's n_pools must be None or from 0 to n_blocks={self.n_blocks}, "
                f"got {n_pools}."
            )
        if min(shape[1:]) < 2**n_pools:
            raise ValueError(
                f"Conv4 halves images {n_pools} times, so height and width must be at least "
                f"{2**n_pools}, but image_shape={shape}; lower n_blocks or n_pools."
            )
        norm = _option("Conv4", "norm", self.norm, _IMAGE_NORMS)
        return Conv4Backbone(shape, self.n_filters, self.n_blocks, n_pools, norm)


class MLPBackbone(nn.Module):
    """The network of :class:`MLP`."""

    stackable = True

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Embed rows [N, *] as [N, D]."""
        return self.layers(x.flatten(1))


class Conv4Backbone(nn.Module):
    """The network of :class:`Conv4`.

    Attributes
    ----------
    map_shape : tuple (channels, height, width)
        Shape of the feature maps whose flat form is the embedding.
    """

    stackable = True

    def __init__(
        self,
        image_shape: tuple[int, ...],
        n_filters: int,
        n_blocks: int,
        n_pools: int,
        norm: Callable[[int], list[nn.Module]],
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.map_shape = (n_filters, *(side // 2**n_pools for side in image_shape[1:]))
        channels = [image_shape[0], *[n_filters] * n_blocks]
        self.blocks = nn.Sequential(*(
            ConvBlock(channels[i], n_filters, norm(n_filters), pools=i < n_pools)
            for i in range(n_blocks)
        ))  # fmt: skip
        self.rows_are_independent = not any(isinstance(m, nn.BatchNorm2d) for m in self.modules())
        self.bytes_per_row = 4 * n_filters * image_shape[1] * image_shape[2]

    def forward(self, x: Tensor) -> Tensor:
        """Embed rows [N, *] as [N, D]."""
        channels, height, width = self.image_shape
        x = x.reshape(-1, channels, height, width)
        # channels_last. Flattened in between: with one channel a plain permutation is contiguous
        # already and would keep strides that count as channels first.
        x = x.permute(0, 2, 3, 1).flatten(1).unflatten(1, (height, width, channels))
        x = x.permute(0, 3, 1, 2)
        if x.device.type == "cpu" and self.rows_are_independent:
            return torch.cat([self._embed(p) for p in split_rows(x, self.bytes_per_row)])
        return self.blocks(x).flatten(1)

    def _embed(self, x: Tensor) -> Tensor:
        """Embed images [N, C, H, W] as [N, D], each block in pieces of its own."""
        for block in self.blocks:
            x = in_pieces(block, x, self.map_shape[0])
        return x.flatten(1)


class RowNorm(nn.Module):
    """Layer normalisation of rows [N, D], written as one group of a group norm.

    ``torch.func.vmap`` over layer norm with adapted scale and shift gives wrong second-order
    gradients; over group norm they are right.
    """

    stackable = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows [N, D]."""
        return F.group_norm(x, 1, self.weight, self.bias)


def image_groups(n_filters: int) -> list[nn.Module]:
    """Return the group normalisation of an image by itself, in a list."""
    n_groups = next(g for g in (8, 4, 2, 1) if n_filters % g == 0)
    return [nn.GroupNorm(n_groups, n_filters)]


_ROW_NORMS: dict[str | None, Callable[[int], list[nn.Module]]] = {
    None: lambda size: [],
    "layer": lambda size: [RowNorm(size)],
    "rms": lambda size: [nn.RMSNorm(size)],
}
_IMAGE_NORMS: dict[str | None, Callable[[int], list[nn.Module]]] = {
    None: lambda size: [],
    "group": image_groups,
    "batch": lambda size: [nn.BatchNorm2d(size)],
}


def _option(owner: str, name: str, value: Any, options: dict[Any, Any]) -> Any:
    if value not in options:
        raise ValueError(f"{owner}'s {name} must be one of {list(options)}, got {value!r}.")
    return options[value]


def build_backbone(
    backbone: Any, input_shape: tuple[int, ...], *, name: str = "backbone"
) -> nn.Module:
    """Return a network for rows of ``input_shape`` from whatever the user gave.

    Parameters
    ----------
    backbone : None, BackboneSpec, nn.Module, or callable
        None: :class:`MLP` for flat rows, :class:`Conv4` for images (three axes a row). An
        ``nn.Module`` instance is copied; its weights are the starting point. A class or function
        is called with ``input_shape`` and must return an ``nn.Module``.
    input_shape : tuple of int
        Shape of one row of X.
    name : str, default="backbone"
        What errors call the parameter.

    Raises
    ------
    TypeError
        When ``backbone`` is none of these.
    """
    if backbone is None:
        images = len(input_shape) == 3
        backbone = Conv4(image_shape=input_shape) if images else MLP()  # type: ignore[arg-type]
    if isinstance(backbone, nn.Module):
        return copy.deepcopy(backbone)
    build = getattr(backbone, "build", backbone)
    if isinstance(backbone, type) and issubclass(backbone, BackboneSpec):
        raise TypeError(f"{name} must be a specification, not its class: {backbone.__name__}().")
    network = build(input_shape) if callable(build) else None
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"{name} must be a specification such as MLP(), an nn.Module, or a callable "
            f"that takes input_shape and returns an nn.Module; got {backbone!r}."
        )
    return network


def embedding_size(backbone: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return D, found by sending two zero rows through the network.

    Raises
    ------
    ValueError
        When the network does not return two rows of one axis.
    """
    training = backbone.training
    backbone.eval()
    like = next(backbone.parameters(), torch.empty(0))
    with torch.no_grad():
        z = backbone(torch.zeros(2, *input_shape, dtype=like.dtype, device=like.device))
    backbone.train(training)
    if z.ndim != 2 or z.shape[0] != 2:
        raise ValueError(
            "a backbone must embed rows [N, *] as [N, D], but this one returned the shape "
            f"{tuple(z.shape)} for two rows; flatten its output."
        )
    return int(z.shape[1])
