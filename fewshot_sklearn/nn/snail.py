"""The blocks of SNAIL, causal layers whose rows look back at the rows before them.

A block has two verbs. ``read`` runs rows that follow each other, and returns what has to be known
of them later, the *past*: a dict of tensors with the task axis first. ``answer`` runs rows that
each come next after the past, so that they do not see each other.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Past = dict[str, Tensor]


class DenseBlock(nn.Module):
    r"""A dilated causal convolution of two taps with a gate, next to its input [1]_.

    .. math:: h_t' = [h_t, \tanh(W_f [h_t, h_{t-d}] + b_f) \odot \sigma(W_g [h_t, h_{t-d}] + b_g)]

    with :math:`h_t = 0` before the first row.

    Parameters
    ----------
    n_inputs : int
        Width of :math:`h`.
    n_filters : int
        How much wider :math:`h'` is.
    dilation : int
        d.

    References
    ----------
    .. [1] Mishra et al. (2018). "A simple neural attentive meta-learner." ICLR.
    """

    def __init__(self, n_inputs: int, n_filters: int, dilation: int) -> None:
        super().__init__()
        self.taps = nn.Linear(2 * n_inputs, 2 * n_filters)
        self.dilation = dilation
        self.n_outputs = n_inputs + n_filters

    def start(self, like: Tensor) -> Past:
        """Return the past before the first row of each task of ``like`` [T, *]."""
        return {"rows": like.new_zeros(len(like), self.dilation, self.taps.in_features // 2)}

    def read(self, h: Tensor, past: Past, seen: Tensor, n_new: Tensor) -> tuple[Tensor, Past]:
        """Run rows that follow each other.

        Parameters
        ----------
        h : Tensor of shape (T, N, n_inputs)
            Real rows first.
        past : dict of Tensor
        seen : bool Tensor of shape (T, S)
            Which of the rows so far are real.
        n_new : int Tensor of shape (T,)
            How many rows of ``h`` are real. The outputs of the others are of no use.

        Returns
        -------
        h : Tensor of shape (T, N, n_outputs)
        past : dict of Tensor
            The last d real rows.
        """
        rows = torch.cat([past["rows"], h], dim=1)
        last = n_new.unsqueeze(1) + torch.arange(self.dilation, device=h.device)
        kept = rows.take_along_dim(last.unsqueeze(-1), dim=1)
        return self._widen(h, rows[:, : h.shape[1]]), {"rows": kept}

    def answer(self, h: Tensor, past: Past, seen: Tensor) -> Tensor:
        """Run rows [T, Q, n_inputs] that each come next after the past; as in :meth:`read`."""
        return self._widen(h, past["rows"][:, :1])

    def _widen(self, h: Tensor, before: Tensor) -> Tensor:
        now, then = self.taps.weight.chunk(2, dim=1)
        f, g = (F.linear(h, now, self.taps.bias) + F.linear(before, then)).chunk(2, dim=-1)
        return torch.cat([h, f.tanh() * g.sigmoid()], dim=-1)


class AttentionBlock(nn.Module):
    r"""Causal attention, next to its input [1]_.

    .. math:: h_t' = \Bigl[h_t, \sum_{s \le t}
        \mathrm{softmax}_{s \le t} \bigl(q(h_t)^\top k(h_s) / \sqrt{K}\bigr) \, v(h_s)\Bigr]

    with affine q and v and linear k, as a shift of the keys would cancel in the softmax.

    Parameters
    ----------
    n_inputs : int
        Width of :math:`h`.
    key_size : int
        K, the width of a key.
    value_size : int
        Width of a value, and how much wider :math:`h'` is.

    References
    ----------
    .. [1] Mishra et al. (2018). "A simple neural attentive meta-learner." ICLR.
    """

    def __init__(self, n_inputs: int, key_size: int, value_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(n_inputs, key_size)
        self.key = nn.Linear(n_inputs, key_size, bias=False)
        self.value = nn.Linear(n_inputs, value_size)
        self.scale = 1 / math.sqrt(key_size)
        self.n_outputs = n_inputs + value_size

    def start(self, like: Tensor) -> Past:
        """Return the past before the first row of each task of ``like`` [T, *]."""
        sizes = {"keys": self.key.out_features, "values": self.value.out_features}
        return {name: like.new_zeros(len(like), 0, size) for name, size in sizes.items()}

    def keep(self, h: Tensor, past: Past) -> Past:
        """Return the past with rows [T, N, n_inputs], padding included."""
        return {
            "keys": torch.cat([past["keys"], self.key(h)], dim=1),
            "values": torch.cat([past["values"], self.value(h)], dim=1),
        }

    def read(self, h: Tensor, past: Past, seen: Tensor, n_new: Tensor) -> tuple[Tensor, Past]:
        """Run rows that follow each other; as in :meth:`DenseBlock.read`."""
        past = self.keep(h, past)
        # Real rows come first, so that none sees padding.
        causal = seen.new_ones(h.shape[1], h.shape[1]).tril().expand(len(h), -1, -1)
        visible = torch.cat([seen.unsqueeze(1).expand(-1, h.shape[1], -1), causal], dim=-1)
        scores = self._query(h) @ past["keys"].transpose(-1, -2)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        return torch.cat([h, weights @ past["values"]], dim=-1), past

    def answer(self, h: Tensor, past: Past, seen: Tensor) -> Tensor:
        """Run rows [T, Q, n_inputs] that each come next after the past; as in :meth:`read`."""
        query = self._query(h)
        scores = query @ past["keys"].transpose(-1, -2)
        scores = scores.masked_fill(~seen.unsqueeze(1), -torch.inf)
        own = (query * self.key(h)).sum(dim=-1, keepdim=True)
        weights = torch.cat([scores, own], dim=-1).softmax(dim=-1)
        read = weights[..., :-1] @ past["values"] + weights[..., -1:] * self.value(h)
        return torch.cat([h, read], dim=-1)

    def _query(self, h: Tensor) -> Tensor:
        return self.scale * self.query(h)
