"""A block of a convolutional backbone, in the order of operations that the device favours."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .functional import split_rows

# What is computed of one piece of rows on a CPU is still in its cache when it is read again.
_CACHE_BYTES = 4 * 2**20
# Of smaller images the handling of the statistics costs more than their normalisation.
_MIN_PIXELS = 400


class ConvBlock(nn.Sequential):
    """A 3x3 convolution, a normalisation or none, 2x2 max-pooling or none, and ReLU.

    Pooling before ReLU gives the same values (both are monotone) four times cheaper. On a CPU
    pooling also comes before group normalisation, whose statistics alone need every pixel.

    Parameters
    ----------
    n_channels, n_filters : int
        Channels before and after.
    norm : list of nn.Module
        One normalisation of ``n_filters`` channels, or none.
    pools : bool
        Whether height and width are halved.
    """

    stackable = True

    def __init__(
        self, n_channels: int, n_filters: int, norm: list[nn.Module], *, pools: bool
    ) -> None:
        # A norm has its own shift; the convolution's would be redundant.
        conv = nn.Conv2d(n_channels, n_filters, 3, padding=1, bias=not norm)
        super().__init__(conv, *norm, *([nn.MaxPool2d(2)] if pools else []), nn.ReLU())
        self.pools_first = pools and any(isinstance(m, nn.GroupNorm) for m in norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps [N, n_filters, *, *] of images [N, n_channels, H, W]."""
        large = x.shape[2] * x.shape[3] >= _MIN_PIXELS
        # Reduced precision would not do for the difference of moments.
        full = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if self.pools_first and large and full and x.dtype in (torch.float32, torch.float64):
            return self._normalise_pooled(x)
        return super().forward(x)

    def _normalise_pooled(self, x: Tensor) -> Tensor:
        """Return the same, with the scale and shift applied to what pooling leaves."""
        layers: Any = self
        conv, norm, pool, relu = layers
        # Where a scale is negative, the largest of the scaled values is the smallest unscaled.
        sign = 1 - 2 * (norm.weight < 0).to(norm.weight.dtype)
        y = F.conv2d(x, conv.weight * sign.view(-1, 1, 1, 1), padding=1)
        mean, square = channel_moments(y)
        by_group = (len(y), norm.num_groups, -1)
        center = (sign * mean).view(by_group).mean(dim=-1, keepdim=True)
        variance = square.view(by_group).mean(dim=-1, keepdim=True) - center.square()
        scale = norm.weight.view(1, *by_group[1:]) / (variance.clamp_min(0) + norm.eps).sqrt()
        shift = norm.bias.view(1, *by_group[1:]) - scale * center
        scale = sign * scale.flatten(1)
        return relu(torch.addcmul(_image(shift.flatten(1)), pool(y), _image(scale)))


def in_pieces(block: nn.Module, x: Tensor, n_filters: int) -> Tensor:
    """Return the feature maps of a block, computed in pieces of rows that a cache holds.

    Parameters
    ----------
    block : nn.Module
        From images [N, n_channels, H, W] to feature maps; no row may look at another.
    x : Tensor of shape (N, n_channels, H, W)
    n_filters : int
        Channels of the feature maps.
    """
    bytes_per_row = x.element_size() * n_filters * x.shape[2] * x.shape[3]
    pieces = split_rows(x, bytes_per_row, most=_CACHE_BYTES)
    return torch.cat([block(piece) for piece in pieces]) if len(pieces) > 1 else block(x)


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the mean square of every channel of images.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)

    Returns
    -------
    mean, square : Tensor of shape (N, C)
    """
    return _ChannelMoments.apply(x)


class _ChannelMoments(torch.autograd.Function):
    """Moments whose derivative is one pass over the images, not one for each operation."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(dim=(2, 3)), (x * x).mean(dim=(2, 3))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        n_pixels = x.shape[2] * x.shape[3]
        of_mean, of_square = (_image(g / n_pixels) for g in gradients)
        return torch.addcmul(of_mean, x, 2 * of_square)


def _image(values: Tensor) -> Tensor:
    """Return values [N, C] as images of one pixel."""
    return values.unsqueeze(-1).unsqueeze(-1)
