"""Attention from one set of rows to another, with several heads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .dense import dense_network


class CrossAttention(nn.Module):
    r"""Weighted means of values, whose weights say how well a key matches a query [1]_.

    .. math::
        r_q = \sum_h W^O_h \sum_i
        \operatorname{softmax}_i \bigl((W^Q_h q)^\top W^K_h k_i / \sqrt{d}\bigr) W^V_h v_i

    Parameters
    ----------
    n_features : int
        D, width of queries, keys, values and results.
    n_heads : int
        Heads h, of d = D / n_heads features each.

    Raises
    ------
    ValueError
        When the heads do not divide the features.

    References
    ----------
    .. [1] Vaswani et al. (2017). "Attention is all you need." NeurIPS.
    """

    def __init__(self, n_features: int, n_heads: int) -> None:
        super().__init__()
        if n_features % n_heads:
            raise ValueError(
                f"the width of attention must be a multiple of its heads, but n_heads={n_heads} "
                f"does not divide n_hidden={n_features}; change one of them."
            )
        self.n_heads = n_heads
        # No bias: the softmax would cancel that of the keys.
        self.query = nn.Linear(n_features, n_features, bias=False)
        self.key = nn.Linear(n_features, n_features, bias=False)
        self.value = nn.Linear(n_features, n_features, bias=False)
        self.output = nn.Linear(n_features, n_features, bias=False)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from each query to all rows of its task.

        Parameters
        ----------
        queries : Tensor of shape (T, Q, D)
        keys, values : Tensor of shape (T, S, D)
        mask : bool Tensor of shape (T, S) or None
            False on padding rows.

        Returns
        -------
        results : Tensor of shape (T, Q, D)
        """
        q, k, v = self._split(self.query(queries)), self.key(keys), self.value(values)
        real = None if mask is None else mask[:, None, None]
        heads = F.scaled_dot_product_attention(q, self._split(k), self._split(v), attn_mask=real)
        return self.output(heads.transpose(1, 2).flatten(2))

    def _split(self, rows: Tensor) -> Tensor:
        """Return rows [T, N, D] as heads [T, h, N, d]."""
        return rows.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    r"""A layer in which the rows of a set look at each other [1]_.

    .. math::
        h_i = \mathrm{norm}(r_i + \mathrm{attention}(r_i, r, r)), \qquad
        r_i' = \mathrm{norm}(h_i + \mathrm{MLP}(h_i))

    Parameters
    ----------
    n_features : int
        D.
    n_heads : int

    References
    ----------
    .. [1] Vaswani et al. (2017). "Attention is all you need." NeurIPS.
    """

    def __init__(self, n_features: int, n_heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(n_features, n_heads)
        self.mlp = dense_network(n_features, n_features, 1, n_features)
        self.norms = nn.ModuleList([nn.LayerNorm(n_features), nn.LayerNorm(n_features)])

    def forward(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Return new features of the rows [T, S, D], of which the mask [T, S] leaves some out."""
        rows = self.norms[0](rows + self.attention(rows, rows, rows, mask))
        return self.norms[1](rows + self.mlp(rows))
