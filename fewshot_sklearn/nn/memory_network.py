r"""Memory networks: read a memory several times, each time with what was read before.

The leading axes are tasks T or stories N. Other letters: Q queries, M memory items, J words of a
sentence, K hops, D embedding, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .learner import Learner

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


def attend(
    u: Tensor, m: Tensor, c: Tensor, mask: Tensor | None = None, *, linear: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Read a memory once (Sukhbaatar et al. 2015, eqs. 1 and 2).

    .. math:: p_i = \mathrm{Softmax}_i(u^\top m_i), \qquad o = \sum_i p_i c_i

    Parameters
    ----------
    u : Tensor of shape (..., Q, D)
        The state of every query.
    m, c : Tensor of shape (..., M, D)
        The input and the output vectors of the memory.
    mask : bool Tensor of shape (..., M) or None
        False on places without an item. A memory without any item reads as zero.
    linear : bool, default=False
        Leave the softmax out: :math:`p_i = u^\top m_i`.

    Returns
    -------
    o : Tensor of shape (..., Q, D)
    p : Tensor of shape (..., Q, M)
    """
    p = u @ m.transpose(-1, -2)
    if mask is not None:
        # A finite floor: a memory without an item would have the softmax 0 / 0.
        p = p.masked_fill(~mask.unsqueeze(-2), 0.0 if linear else torch.finfo(p.dtype).min)
    if not linear:
        p = p.softmax(dim=-1)
        if mask is not None:
            p = p * mask.unsqueeze(-2)
    return p @ c, p


def memory_hops(
    u: Tensor,
    memories: Iterable[tuple[Tensor, Tensor]],
    mask: Tensor | None = None,
    *,
    linear: bool = False,
    carry: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    r"""Read a memory K times (Sukhbaatar et al. 2015, eq. 4).

    .. math:: u^{k+1} = H u^k + o^k

    Parameters
    ----------
    u : Tensor of shape (..., Q, D)
        The queries, u^1.
    memories : iterable of (Tensor, Tensor), each of shape (..., M, D)
        The input and the output vectors :math:`m_i^k, c_i^k` of every hop.
    mask : bool Tensor of shape (..., M) or None
        False on places without an item.
    linear : bool, default=False
        Leave the softmax out of all hops.
    carry : callable or None
        H; None is the identity.

    Returns
    -------
    u : Tensor of shape (..., Q, D)
        u^{K+1}.
    attention : list of Tensor of shape (..., Q, M)
        p of every hop.
    """
    attention = []
    for m, c in memories:
        o, p = attend(u, m, c, mask, linear=linear)
        u = (u if carry is None else carry(u)) + o
        attention.append(p)
    return u, attention


def encode_sentences(x: Tensor, words: Tensor, *, position_encoding: bool = True) -> Tensor:
    r"""Return the vectors of sentences (Sukhbaatar et al. 2015, section 4.1).

    .. math::
        m = \sum_j l_j \odot A x_j, \qquad l_{kj} = (1 - j / J) - (k / d) (1 - 2 j / J)

    with j = 1, ..., J the place of a word in its sentence of J words and k = 1, ..., d that of an
    element in its embedding. A bag of words has l = 1.

    Parameters
    ----------
    x : int Tensor of shape (..., J)
        The numbers of the words of each sentence; 0 where there is none.
    words : Tensor of shape (V, R, D)
        R embeddings A of every word.
    position_encoding : bool, default=True
        False takes bags of words.

    Returns
    -------
    m : Tensor of shape (..., R, D)
        Zero for a sentence without words.
    """
    # The weights are linear in k, so two counts of the words of each sentence say everything; a
    # product with these is several times faster than a sum of gathered embeddings.
    is_word = x > 0
    counted = is_word.to(words.dtype).unsqueeze(-2)
    if position_encoding:
        j = counted.cumsum(dim=-1) / counted.sum(dim=-1, keepdim=True).clamp_min(1)
        counted = torch.cat([1 - j, 1 - 2 * j], dim=-2) * counted
    present, places = x.unique(return_inverse=True)
    bags = counted.new_zeros(*counted.shape[:-1], len(present))
    bags = bags.scatter_add(-1, places.unsqueeze(-2).expand_as(counted), counted)
    embedded = words[present]
    if position_encoding:
        size = words.shape[-1]
        k = torch.arange(1, size + 1, device=x.device, dtype=words.dtype) / size
        embedded = torch.cat([embedded, -k * embedded])
    return (bags.flatten(-2) @ embedded.flatten(1)).unflatten(-1, words.shape[1:])


def ages(mask: Tensor) -> Tensor:
    """Return how many items of each memory [..., M] are newer; items stand in their order."""
    return mask.sum(dim=-1, keepdim=True) - mask.cumsum(dim=-1)


def noisy_ages(mask: Tensor, noise: float) -> Tensor:
    """Return the ages when some empty items are put between the others at random.

    Parameters
    ----------
    mask : bool Tensor of shape (N, M)
        False on places without an item; items stand in their order, the newest last.
    noise : float
        A memory of n items gets 0 to ``ceil(noise * n)`` empty ones, each number as likely.

    Returns
    -------
    ages : Tensor of shape (N, M)
    """
    n_items = mask.sum(dim=-1, keepdim=True)
    most = (noise * n_items).ceil()
    n_empty = (torch.rand(most.shape, device=mask.device) * (most + 1)).floor()
    places = torch.arange(int((n_items + most).max()), device=mask.device)
    draws = torch.rand(len(mask), len(places), device=mask.device)
    draws = draws.masked_fill(places >= n_items + n_empty, 2.0)
    taken = draws.argsort(dim=-1).argsort(dim=-1) < n_items  # n of the n + empty places
    # The age of the item that is a-th newest is the a-th of the places that were taken.
    of_rank = torch.where(taken, places, len(places)).sort(dim=-1).values
    return of_rank.gather(-1, ages(mask).clamp(0, len(places) - 1))


class LinearStartLearner(Learner):
    """A learner whose first iterations leave the softmax of its memory out.

    A subclass calls :meth:`start_linear` when it is made.

    Attributes
    ----------
    linear_start_iter : int
        How many iterations.
    """

    n_meta_iter: Tensor
    linear_start_iter: int

    def start_linear(self, linear_start_iter: int) -> None:
        """Say for how many iterations, and begin to count them."""
        self.linear_start_iter = linear_start_iter
        # A buffer, so that weights from the linear iterations stay those of a linear network.
        self.register_buffer("n_meta_iter", torch.zeros((), dtype=torch.int64))

    @property
    def linear(self) -> bool:
        """Whether the softmax is left out."""
        return int(self.n_meta_iter) < self.linear_start_iter

    def meta_gradient(self, batch: TaskBatch) -> Tensor:
        """Add the gradient to every parameter's ``grad``, and count the iteration."""
        loss = super().meta_gradient(batch)
        self.n_meta_iter += 1
        return loss
