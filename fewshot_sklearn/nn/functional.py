"""Pure tensor functions shared by the learners.

Shape letters: T tasks, S support rows, Q query rows, C classes or outputs, D embedding width.
A mask is a boolean tensor that is False on padding rows; ``None`` means that there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch

# The allocator of a CPU maps larger blocks of memory anew at every use.
BLOCK_BYTES = 32 * 2**20


def split_rows(
    x: Tensor, bytes_per_row: int, dim: int = 0, *, most: int | None = None
) -> tuple[Tensor, ...]:
    """Return pieces of rows, so that what is computed of a piece stays within bounds.

    Parameters
    ----------
    x : Tensor
    bytes_per_row : int
        Size of the largest tensor that is computed of one row.
    dim : int, default=0
        The axis of the rows.
    most : int, default=None
        The bytes that may be computed of a piece. None: ``BLOCK_BYTES``.

    Returns
    -------
    pieces : tuple of Tensor
        Views of at least one row each, or one of none.
    """
    most = BLOCK_BYTES if most is None else most
    return x.split(max(1, most // max(1, bytes_per_row)), dim)


def map_rows(compute: Callable[[Tensor], Tensor], x: Tensor, bytes_per_row: int) -> Tensor:
    """Return what is computed of each row [..., N, D] -> [..., N, C], in pieces of rows.

    Parameters
    ----------
    compute : callable
    x : Tensor of shape (..., N, D)
    bytes_per_row : int
        As in :func:`split_rows`.
    """
    pieces = [compute(piece) for piece in split_rows(x, bytes_per_row, dim=-2)]
    return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]


def to_wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float64 where its device has that, with its gradient."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def join_masks(masks: Sequence[Tensor | None], rows: Sequence[Tensor]) -> Tensor | None:
    """Return the mask of several sets of rows one after the other.

    Parameters
    ----------
    masks : sequence of (bool Tensor of shape (T, N), or None)
    rows : sequence of Tensor of shape (T, N, *)
        The rows that each is of.

    Returns
    -------
    mask : bool Tensor, or None
        None where no row is padding.
    """
    if all(mask is None for mask in masks):
        return None
    both = zip(masks, rows, strict=True)
    full = [x.new_ones(x.shape[:2], dtype=torch.bool) if m is None else m for m, x in both]
    return torch.cat(full, dim=1)


def all_rows(batch: TaskBatch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the support and query rows of each task as one set: x, y and mask."""
    x = torch.cat([batch.x_support, batch.x_query], dim=1)
    y = torch.cat([batch.y_support, batch.y_query], dim=1)
    masks = (batch.support_mask, batch.query_mask)
    return x, y, join_masks(masks, (batch.x_support, batch.x_query))


def masked_labels(y: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``y`` [T, S, C] with the padding rows set to zero."""
    return y if mask is None else y * mask.unsqueeze(-1)


def present_classes(y: Tensor, mask: Tensor | None) -> Tensor:
    """Return which classes occur in the support set.

    Parameters
    ----------
    y : Tensor of shape (T, S, C)
        One-hot labels.
    mask : Tensor of shape (T, S) or None
        False on padding rows.

    Returns
    -------
    present : bool Tensor of shape (T, C)
    """
    return masked_labels(y, mask).any(dim=-2)


def mask_absent_classes(logits: Tensor, present: Tensor | None) -> Tensor:
    """Give classes that a task does not have the lowest finite logit.

    Parameters
    ----------
    logits : Tensor of shape (T, Q, C)
    present : bool Tensor of shape (T, C) or None
        None means that every task has every class.
    """
    if present is None:
        return logits
    # A finite floor: zero times minus infinity would be NaN in second-order gradients.
    return logits.masked_fill(~present.unsqueeze(-2), torch.finfo(logits.dtype).min / 2)


def class_means(z: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    r"""Return the mean embedding of every class.

    .. math:: c_k = \frac{\sum_i y_{ik} z_i}{\sum_i y_{ik}}

    Parameters
    ----------
    z : Tensor of shape (T, S, D)
    y : Tensor of shape (T, S, C)
        One-hot labels.
    mask : Tensor of shape (T, S) or None

    Returns
    -------
    means : Tensor of shape (T, C, D)
        Zero for a class without rows.
    """
    no_rows = z.new_zeros(len(z), 0)
    return update_class_means(z.new_zeros(len(z), 0, z.shape[-1]), no_rows, z, y, mask)[0]


def update_class_means(
    means: Tensor, counts: Tensor, z: Tensor, y: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    r"""Return the mean embedding of every class after more rows.

    .. math::
        n_k' = n_k + \sum_i y_{ik}, \qquad c_k' = \frac{n_k c_k + \sum_i y_{ik} z_i}{n_k'}

    Parameters
    ----------
    means : Tensor of shape (T, C, D)
        Of the rows so far. C may be smaller than the C of ``y``, whose last columns then are new
        classes.
    counts : Tensor of shape (T, C)
        The number of rows of each class so far.
    z : Tensor of shape (T, S, D)
    y : Tensor of shape (T, S, C)
        One-hot labels.
    mask : Tensor of shape (T, S) or None

    Returns
    -------
    means : Tensor of shape (T, C, D)
        Zero for a class without rows.
    counts : Tensor of shape (T, C)
    """
    weights = masked_labels(y, mask)
    sums, total = weights.transpose(-1, -2) @ z, weights.sum(dim=-2)
    n_old = counts.shape[-1]
    if n_old:
        n_new = y.shape[-1] - n_old
        sums = sums + F.pad(counts.unsqueeze(-1) * means, (0, 0, 0, n_new))
        total = total + F.pad(counts, (0, n_new))
    return sums / total.clamp_min(1).unsqueeze(-1), total


def pairwise_sqeuclidean(a: Tensor, b: Tensor) -> Tensor:
    r"""Return :math:`\lVert a_q - b_k \rVert^2`.

    Parameters
    ----------
    a : Tensor of shape (T, Q, D)
    b : Tensor of shape (T, C, D)

    Returns
    -------
    distances : Tensor of shape (T, Q, C)

    Notes
    -----
    The difference is formed explicitly: the expansion ``a² - 2ab + b²`` loses every digit when
    two far-away rows are close to each other, and C is small in few-shot tasks.
    """
    others = b.unsqueeze(-3)
    return map_rows(lambda rows: (rows.unsqueeze(-2) - others).square().sum(-1), a, b.nbytes)


def pairwise_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine similarity of every row of ``a`` with every row of ``b``.

    Parameters
    ----------
    a : Tensor of shape (T, Q, D)
    b : Tensor of shape (T, C, D)

    Returns
    -------
    similarities : Tensor of shape (T, Q, C)
        Between -1 and 1; zero for a zero row.
    """
    norms = a.norm(dim=-1).unsqueeze(-1) * b.norm(dim=-1).unsqueeze(-2)
    # A floor would shrink the cosines of small rows, and make the gradient at a zero row huge.
    return (a @ b.transpose(-1, -2)) / torch.where(norms > 0, norms, 1.0)


def class_logsumexp(scores: Tensor, y: Tensor) -> Tensor:
    r"""Return the logarithm of each class's sum of exponential scores.

    .. math:: l_{qk} = \log \sum_i y_{ik} \exp(s_{qi})

    Parameters
    ----------
    scores : Tensor of shape (T, Q, S)
        A score of every support row for every query.
    y : Tensor of shape (T, S, C)
        One-hot labels of the support rows; zero on padding rows.

    Returns
    -------
    logits : Tensor of shape (T, Q, C)
        Hugely negative, but finite, for a class without rows.
    """
    bytes_per_query = y.numel() * scores.element_size()
    return map_rows(lambda s: _by_class(s, y).logsumexp(dim=-2), scores, bytes_per_query)


def class_max(scores: Tensor, y: Tensor) -> Tensor:
    r"""Return each class's largest score.

    .. math:: l_{qk} = \max_{i : y_{ik} = 1} s_{qi}

    Parameters
    ----------
    scores : Tensor of shape (T, Q, S)
    y : Tensor of shape (T, S, C)
        One-hot labels of the support rows; zero on padding rows.

    Returns
    -------
    logits : Tensor of shape (T, Q, C)
        Hugely negative, but finite, for a class without rows.
    """
    bytes_per_query = y.numel() * scores.element_size()
    return map_rows(lambda s: _by_class(s, y).amax(dim=-2), scores, bytes_per_query)


def _by_class(scores: Tensor, y: Tensor) -> Tensor:
    """Return scores [T, Q, S, C] that are hugely negative where a row is not of the class."""
    other = (y == 0).to(scores.dtype).unsqueeze(-3)
    # Added, not filled in: where every score overflowed to minus infinity, so do all logits,
    # and the prediction is refused in place of being a tie.
    return scores.unsqueeze(-1) + other * (torch.finfo(scores.dtype).min / 2)


def cholesky_or_nan(matrices: Tensor) -> Tensor:
    """Return the lower Cholesky factors [..., D, D], NaN where a matrix has none.

    So that numbers that diverged reach the loss, where meta-training says so and stops.
    """
    factors, failures = torch.linalg.cholesky_ex(matrices)
    return factors.masked_fill(failures[..., None, None] != 0, torch.nan)


def task_mean(losses: Tensor, mask: Tensor | None) -> Tensor:
    """Average losses [..., Q] over the rows of each task, padding left out: [...]."""
    if mask is None:
        return losses.mean(dim=-1)
    # torch.where, not a product: a padding row may hold an infinite loss.
    total = torch.where(mask, losses, 0.0).sum(dim=-1)
    return total / mask.sum(dim=-1).clamp_min(1)


def mean_row(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean [T, D] of the rows [T, S, D] that the mask [T, S] has."""
    return task_mean(rows.transpose(-1, -2), None if mask is None else mask.unsqueeze(1))


def cross_entropy(logits: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Return every task's mean cross-entropy.

    Parameters
    ----------
    logits : Tensor of shape (..., Q, C)
    y : Tensor of shape (..., Q, C)
        One-hot labels.
    mask : Tensor of shape (..., Q) or None

    Returns
    -------
    losses : Tensor of shape (...)
    """
    losses = -(y * F.log_softmax(logits, dim=-1)).sum(dim=-1)
    return task_mean(losses, mask)


def squared_error(outputs: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Return every task's mean squared error, averaged over its C outputs.

    Parameters
    ----------
    outputs, y : Tensor of shape (..., Q, C)
    mask : Tensor of shape (..., Q) or None

    Returns
    -------
    losses : Tensor of shape (...)
    """
    return task_mean((outputs - y).square().mean(dim=-1), mask)


def gaussian_nll(outputs: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    r"""Return every task's mean negative log-likelihood under independent normal distributions.

    .. math:: \frac{(y - \mu)^2}{2 \sigma^2} + \log \sigma + \frac{1}{2} \log 2 \pi

    Parameters
    ----------
    outputs : Tensor of shape (..., Q, 2 C)
        The means, then the standard deviations, which are above zero.
    y : Tensor of shape (..., Q, C)
    mask : Tensor of shape (..., Q) or None

    Returns
    -------
    losses : Tensor of shape (...)
    """
    mean, std = outputs.chunk(2, dim=-1)
    losses = F.gaussian_nll_loss(mean, y, std.square(), full=True, reduction="none")
    return task_mean(losses.mean(dim=-1), mask)


def mixture_moments(outputs: Tensor) -> Tensor:
    r"""Return mean and standard deviation of an even mixture of normal distributions.

    .. math:: \mu = \operatorname{E}_l \mu_l, \qquad
        \sigma^2 = \operatorname{E}_l \sigma_l^2 + \operatorname{Var}_l \mu_l

    Parameters
    ----------
    outputs : Tensor of shape (T, L, Q, 2 C)
        Means, then standard deviations, of L components.

    Returns
    -------
    outputs : Tensor of shape (T, Q, 2 C)
    """
    mean, std = outputs.chunk(2, dim=-1)
    variance = std.square().mean(dim=1) + mean.var(dim=1, correction=0)
    return torch.cat([mean.mean(dim=1), variance.sqrt()], dim=-1)
