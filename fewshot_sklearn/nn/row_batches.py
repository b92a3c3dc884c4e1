"""Random minibatches of the rows of many tasks at once."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_row_batches(mask: Tensor, n_batches: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Draw minibatches of every task's rows from passes over them, each in a new random order.

    A pass goes on in the next batch. A task that has at most ``batch_size`` rows has all of them
    in every batch. The draws come from torch's default generator.

    Parameters
    ----------
    mask : bool Tensor of shape (T, N)
        False on padding rows.
    n_batches : int
        B.
    batch_size : int
        M.

    Returns
    -------
    rows : int64 Tensor of shape (T, B, M)
        Numbers of rows.
    drawn : bool Tensor of shape (T, B, M)
        False where a task has fewer rows than a batch has places.
    """
    (n_tasks, n_rows), device = mask.shape, mask.device
    noise = torch.rand(n_tasks, n_batches, n_rows, device=device)
    # Padding comes last in every pass.
    passes = noise.masked_fill(~mask.unsqueeze(1), 2.0).argsort(dim=-1)
    n_own = mask.sum(dim=1).clamp_min(1).view(-1, 1, 1)
    n_drawn = n_own.clamp_max(batch_size)
    places = torch.arange(batch_size, device=device)
    position = torch.arange(n_batches, device=device).view(-1, 1) * n_drawn + places
    number = (position // n_own).clamp_max(n_batches - 1) * n_rows + position % n_own
    rows = passes.flatten(1).gather(1, number.flatten(1)).view_as(number)
    return rows, (places < n_drawn).expand_as(rows)
