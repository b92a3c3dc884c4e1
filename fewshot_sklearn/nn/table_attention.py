"""Attention over the cells of a table, which knows neither the order of rows nor of columns.

Shape letters beside the usual ones: J columns, the first of which is a token of the row itself;
N rows, of the support or of queries; H heads. Cells are [T, J, N, D].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .functional import split_rows

# Keys and values of the support rows, of one attention.
Memory = tuple[Tensor, Tensor]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    r"""Return :math:`\mathrm{softmax}(q k^\top + b) \, v`, some rows at a time.

    Parameters
    ----------
    q : Tensor of shape (..., N, E)
    k : Tensor of shape (..., S, E)
    v : Tensor of shape (..., S, V)
    bias : Tensor that broadcasts to (..., N, S), or None

    Returns
    -------
    values : Tensor of shape (..., N, V)
    """
    bytes_per_row = k[..., 0].numel() * k.element_size()
    pieces = split_rows(q, bytes_per_row, dim=-2)
    if bias is None:
        biases: list[Tensor | None] = [None] * len(pieces)
    else:
        n_rows = [piece.shape[-2] for piece in pieces]
        biases = list(bias.expand(*bias.shape[:-2], q.shape[-2], -1).split(n_rows, dim=-2))
    read = []
    for piece, own in zip(pieces, biases, strict=True):
        scores = piece @ k.mT
        read.append((scores if own is None else scores + own).softmax(dim=-1) @ v)
    return torch.cat(read, dim=-2) if len(read) > 1 else read[0]


def padding_bias(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return what keeps attention from padding rows: [T, 1, 1, 1, S], or None without any."""
    if mask is None:
        return None
    floor = torch.finfo(like.dtype).min / 2
    return (~mask).to(like.dtype)[:, None, None, None] * floor


class RowAttention(nn.Module):
    r"""Rows attend to the support rows, in every column by itself or in all columns alike.

    With :math:`q_{ij}, k_{ij}, v_{ij}` linear in the cell of row i and column j,

    .. math::
        h_{ij} \leftarrow h_{ij} + W \sum_s a_{is} v_{sj}, \qquad
        a_{is} = \mathrm{softmax}_s \Bigl(\frac{q_{ij}^\top k_{sj}}{\sqrt{E}} + b R_{is}\Bigr)

    for each of the heads. Where they are tied [1]_, :math:`\sum_j q_{ij}^\top k_{sj} / \sqrt{J E}`
    takes the place of the product: two rows are then compared as a whole. R says how alike the
    labels of two support rows are; a query has none.

    Parameters
    ----------
    size : int
        D.
    n_heads : int
        H, which divides D.
    tied : bool
        Whether all columns have the weights in common.

    References
    ----------
    .. [1] Rao et al. (2021). "MSA transformer." ICML.
    """

    def __init__(self, size: int, n_heads: int, *, tied: bool) -> None:
        super().__init__()
        self.n_heads, self.tied = n_heads, tied
        self.norm = nn.LayerNorm(size)
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size, size, bias=False)
        self.value = nn.Linear(size, size, bias=False)
        self.out = nn.Linear(size, size)
        # Some heads start among rows of like labels, some among the others.
        self.likeness = nn.Parameter(torch.linspace(2.0, -2.0, n_heads))

    def forward(
        self,
        h: Tensor,
        present: Tensor,
        padding: Tensor | None,
        memory: Memory | None = None,
        relation: Tensor | None = None,
    ) -> tuple[Tensor, Memory]:
        """Return the cells after attention, and the memory that was attended to.

        Parameters
        ----------
        h : Tensor of shape (T, J, N, D)
        present : bool Tensor of shape (T, J)
            False for columns that are to count for nothing.
        padding : Tensor of shape (T, 1, 1, 1, S) or None
            From :func:`padding_bias`.
        memory : (keys, values) of the support rows, or None
            None: ``h`` are the support rows.
        relation : Tensor of shape (T, N, S) or None
            R.
        """
        z = self.norm(h)
        if memory is None:
            memory = self._split(self.key(z)), self._split(self.value(z))
        q = self.query(z) * self._scale(present, z)
        bias = padding
        if relation is not None:
            bias = self.likeness[:, None, None] * relation[:, None, None]
            bias = bias if padding is None else bias + padding
        read = self._join(attend(self._split(q), *memory, bias), h.shape[1])
        return h + self.out(read), memory

    def _scale(self, present: Tensor, z: Tensor) -> Tensor:
        """Return what multiplies queries [T, J, 1, 1]; with tied heads it leaves columns out."""
        width = z.shape[-1] // self.n_heads
        if not self.tied:
            return z.new_full((1, 1, 1, 1), width**-0.5)
        counted = present.to(z.dtype)
        scale = (width * counted.sum(dim=1, keepdim=True)).rsqrt() * counted
        return scale[..., None, None]

    def _split(self, z: Tensor) -> Tensor:
        """Return heads [T, J, H, N, E], or tied ones [T, 1, H, N, J E]."""
        z = z.unflatten(-1, (self.n_heads, -1))
        if self.tied:
            return z.permute(0, 3, 2, 1, 4).flatten(-2).unsqueeze(1)
        return z.transpose(2, 3)

    def _join(self, z: Tensor, n_columns: int) -> Tensor:
        """Return cells [T, J, N, D] from heads."""
        if self.tied:
            z = z.squeeze(1).unflatten(-1, (n_columns, -1)).permute(0, 3, 2, 1, 4)
            return z.flatten(-2)
        return z.transpose(2, 3).flatten(-2)


class RowToken(nn.Module):
    r"""The token of a row attends to the cells of its row, whatever their order.

    .. math:: h_{i0} \leftarrow h_{i0} + W \sum_j
        \mathrm{softmax}_j (q_{i0}^\top k_{ij} / \sqrt{E}) \, v_{ij}

    Parameters
    ----------
    size : int
        D.
    n_heads : int
        H.
    """

    def __init__(self, size: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(size)
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size, size, bias=False)
        self.value = nn.Linear(size, size, bias=False)
        self.out = nn.Linear(size, size)

    def forward(self, h: Tensor, present: Tensor) -> Tensor:
        """Return the cells [T, J, N, D], of which the first column changed."""
        z = self.norm(h)
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1))
            for part in (self.query(z[:, :1]), self.key(z), self.value(z))
        )
        scores = (q * k).sum(dim=-1) * k.shape[-1] ** -0.5
        scores = scores.masked_fill(~present[:, :, None, None], torch.finfo(scores.dtype).min / 2)
        weights = scores.softmax(dim=1).unsqueeze(-1)
        token = h[:, :1] + self.out((weights * v).sum(dim=1, keepdim=True).flatten(-2))
        return torch.cat([token, h[:, 1:]], dim=1)


class CellUpdate(nn.Module):
    r"""Each cell is changed by a small network, which sees the token of its row too.

    .. math:: h_{ij} \leftarrow h_{ij} + W_2 \, \mathrm{gelu}(W_1 h_{ij} + U h_{i0})

    Parameters
    ----------
    size : int
        D.
    n_hidden : int
        Width of the hidden layer.
    """

    def __init__(self, size: int, n_hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.hidden = nn.Linear(size, n_hidden)
        self.from_row = nn.Linear(size, n_hidden, bias=False)
        self.out = nn.Linear(n_hidden, size)

    def forward(self, h: Tensor) -> Tensor:
        """Return the cells [T, J, N, D] after it."""
        z = self.norm(h)
        hidden = nn.functional.gelu(self.hidden(z) + self.from_row(z[:, :1]))
        return h + self.out(hidden)


class TableBlock(nn.Module):
    """One layer: columns by themselves, rows by themselves, rows as a whole, cells by themselves.

    Parameters
    ----------
    size : int
        D.
    n_heads : int
        H of each attention.
    """

    def __init__(self, size: int, n_heads: int) -> None:
        super().__init__()
        self.within_columns = RowAttention(size, n_heads, tied=False)
        self.within_rows = RowToken(size, n_heads)
        self.between_rows = RowAttention(size, n_heads, tied=True)
        self.update = CellUpdate(size, 2 * size)

    def forward(
        self,
        h: Tensor,
        present: Tensor,
        padding: Tensor | None,
        memories: tuple[Memory, Memory] | None = None,
        relation: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Memory, Memory]]:
        """Return the cells after the layer, and what of the support rows was attended to.

        Parameters
        ----------
        h, present, padding, relation : as in :class:`RowAttention`
        memories : pair of memories, or None
            None: ``h`` are the support rows.
        """
        first, second = (None, None) if memories is None else memories
        h, first = self.within_columns(h, present, padding, first, relation)
        h = self.within_rows(h, present)
        h, second = self.between_rows(h, present, padding, second, relation)
        return self.update(h), (first, second)
