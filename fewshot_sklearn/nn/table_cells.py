"""Cells of a table as numbers without units: where each lies among the support rows."""

from __future__ import annotations

import torch
from torch import Tensor

from .learner import State

# Standard deviations beyond which a cell is as far as it can be; its rank is not clipped.
_FARTHEST = 5.0


def describe_columns(x: Tensor, mask: Tensor | None) -> State:
    """Return what the support rows say of every column, for :func:`place_cells`.

    Parameters
    ----------
    x : Tensor of shape (T, S, F)
        The support rows.
    mask : bool Tensor of shape (T, S) or None
        False on padding rows.

    Returns
    -------
    columns : dict of Tensor
        ``centre`` and ``scale`` [T, F], mean and standard deviation, which is one where a column
        does not vary; ``varies`` [T, F], whether it does; ``sorted`` [T, F, S], padding last;
        ``n_rows`` [T].
    """
    real = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    real, n_rows = real.unsqueeze(-1), real.sum(dim=1).to(x.dtype)
    low = torch.where(real, x, torch.inf).amin(dim=1)
    high = torch.where(real, x, -torch.inf).amax(dim=1)
    # In units of the range no square overflows or vanishes.
    spread = torch.where(high > low, high / 2 - low / 2, 1.0)
    within = torch.where(real, (x - low.unsqueeze(1)) / spread.unsqueeze(1), 0.0)
    mean = within.sum(dim=1) / n_rows.unsqueeze(-1)
    deviation = torch.where(real, within - mean.unsqueeze(1), 0.0)
    std = (deviation.square().sum(dim=1) / n_rows.unsqueeze(-1)).sqrt()
    varies = (high > low) & (std > 0)
    return {
        "centre": low + spread * mean,
        "scale": torch.where(varies, spread * std, 1.0),
        "varies": varies,
        "sorted": torch.where(real, x, torch.inf).mT.contiguous().sort(dim=-1).values,
        "n_rows": n_rows,
    }


def place_cells(x: Tensor, columns: State) -> Tensor:
    r"""Return where rows lie in each column: standardised, and by rank.

    .. math::
        z = \mathrm{clip}\Bigl(\frac{x - \mu}{\sigma}, -5, 5\Bigr), \qquad
        r = \frac{\#\{i : x_i < x\} + \#\{i : x_i \le x\}}{S} - 1

    Parameters
    ----------
    x : Tensor of shape (T, N, F)
        Any rows.
    columns : dict of Tensor
        From :func:`describe_columns`.

    Returns
    -------
    places : Tensor of shape (T, F, N, 2)
        Zero in columns that do not vary.
    """
    z = (x - columns["centre"].unsqueeze(1)) / columns["scale"].unsqueeze(1)
    z = z.clamp(-_FARTHEST, _FARTHEST).mT
    cells = x.mT.contiguous()
    n_rows = columns["n_rows"][:, None, None]
    below, up_to = (
        torch.searchsorted(columns["sorted"], cells, right=right).to(x.dtype)
        for right in (False, True)
    )
    rank = (below + up_to.minimum(n_rows)) / n_rows - 1
    places = torch.stack([z, rank], dim=-1)
    return torch.where(columns["varies"][..., None, None], places, 0.0)
