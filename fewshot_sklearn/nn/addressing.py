"""Where a memory is read and written: by content, and by moving on from the last place.

Shape letters: N sequences, M memory slots, W memory width, H heads, K shifts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def content_weights(memory: Tensor, keys: Tensor, strengths: Tensor | None = None) -> Tensor:
    r"""Weigh the slots by how alike they are to a key.

    .. math::
        K(k, M(i)) = \frac{k \cdot M(i)}{\lVert k \rVert \lVert M(i) \rVert}, \quad
        w(i) = \frac{\exp \beta K(k, M(i))}{\sum_j \exp \beta K(k, M(j))}

    Parameters
    ----------
    memory : Tensor of shape (N, M, W)
    keys : Tensor of shape (N, H, W)
    strengths : Tensor of shape (N, H), optional
        beta of every head; one if it is left out.

    Returns
    -------
    weights : Tensor of shape (N, H, M)
    """
    return _ContentWeights.apply(memory, keys, strengths)


class _ContentWeights(torch.autograd.Function):
    """:func:`content_weights` with its gradient written out, which passes over the memory twice."""

    @staticmethod
    def forward(ctx: Any, memory: Tensor, keys: Tensor, strengths: Tensor | None) -> Tensor:
        """Return the weights."""
        per_slot, per_key = _inverse_norms(memory), _inverse_norms(keys)
        scale = per_key.unsqueeze(-1) * per_slot.unsqueeze(-2)
        cosines = (keys @ memory.transpose(-1, -2)).mul_(scale)
        scores = cosines if strengths is None else strengths.unsqueeze(-1) * cosines
        weights = scores.softmax(dim=-1)
        ctx.save_for_backward(memory, keys, strengths, per_slot, per_key, cosines, weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        r"""Return the gradients, with :math:`\hat a` for :math:`a / \lVert a \rVert`.

        .. math:: \frac{d K}{d M} = \frac{\hat k - K \hat M}{\lVert M \rVert}, \quad
            \frac{d K}{d k} = \frac{\hat M - K \hat k}{\lVert k \rVert}
        """
        memory, keys, strengths, per_slot, per_key, cosines, weights = ctx.saved_tensors
        scores = weights * (gradient - (weights * gradient).sum(dim=-1, keepdim=True))
        along = scores * cosines
        d_strengths = None
        if strengths is not None:
            d_strengths = along.sum(dim=-1)
            scores, along = (d * strengths.unsqueeze(-1) for d in (scores, along))
        products = scores * (per_key.unsqueeze(-1) * per_slot.unsqueeze(-2))
        shrink = along.sum(dim=-2).mul_(per_slot.square()).unsqueeze(-1)
        d_memory = torch.baddbmm(memory * shrink, products.transpose(-1, -2), keys, beta=-1)
        shrink = along.sum(dim=-1).mul_(per_key.square()).unsqueeze(-1)
        d_keys = torch.baddbmm(keys * shrink, products, memory, beta=-1)
        return d_memory, d_keys, d_strengths


def _inverse_norms(rows: Tensor) -> Tensor:
    """Return one over the norms of rows [..., D], and zero for a zero row, which has cosines 0."""
    norms = rows.norm(dim=-1)
    return torch.where(norms > 0, norms.reciprocal(), 0)


def circular_shift(weights: Tensor, shifts: Tensor) -> Tensor:
    r"""Move weights around the slots (Graves et al. 2014, eq. 8).

    .. math:: \tilde w(i) = \sum_j w(j) s(i - j), \text{ indices modulo } M

    Parameters
    ----------
    weights : Tensor of shape (N, H, M)
    shifts : Tensor of shape (N, H, K)
        s for the shifts -r, ..., r, of which there are K = 2 r + 1; K is at most M.

    Returns
    -------
    weights : Tensor of shape (N, H, M)
    """
    r = shifts.shape[-1] // 2
    n_slots = weights.shape[-1]
    around = torch.cat([weights[..., n_slots - r :], weights, weights[..., :r]], dim=-1)
    windows = around.unfold(-1, 2 * r + 1, 1)
    return (windows @ shifts.flip(-1).unsqueeze(-1)).squeeze(-1)


def sharpen(weights: Tensor, gammas: Tensor) -> Tensor:
    r"""Raise weights to a power (Graves et al. 2014, eq. 9).

    .. math:: w(i) = \frac{\tilde w(i)^\gamma}{\sum_j \tilde w(j)^\gamma}

    Parameters
    ----------
    weights : Tensor of shape (N, H, M)
    gammas : Tensor of shape (N, H)

    Returns
    -------
    weights : Tensor of shape (N, H, M)
        Never 0 / 0, however large gamma is.
    """
    logs = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    return (gammas.unsqueeze(-1) * logs).softmax(dim=-1)


def erase_and_add(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    r"""Write with several heads (Graves et al. 2014, eqs. 3 and 4; Graves et al. 2016).

    .. math:: M_t(i) = M_{t-1}(i) \prod_h (1 - w_h(i) e_h) + \sum_h w_h(i) a_h

    Parameters
    ----------
    memory : Tensor of shape (N, M, W)
    weights : Tensor of shape (N, H, M)
    erase, add : Tensor of shape (N, H, W)

    Returns
    -------
    memory : Tensor of shape (N, M, W)
    """
    slots = weights.transpose(-1, -2)
    if weights.shape[1] == 1:
        kept = memory - memory * (slots * erase)
    else:
        kept = memory * (1 - slots.unsqueeze(-1) * erase.unsqueeze(1)).prod(dim=2)
    return kept + slots @ add
