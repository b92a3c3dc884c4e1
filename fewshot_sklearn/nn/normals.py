"""Normal distributions with a diagonal covariance, as means and logarithms of variances."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .dense import dense_network
from .functional import map_rows

# Log-variances stay between minus and plus this, so that no variance is zero or infinite.
_LARGEST_LOG_VARIANCE = 10.0
_NOISE_ROWS = 16

Normal = tuple[Tensor, Tensor]


def bounded_log_variance(raw: Tensor) -> Tensor:
    """Return numbers smoothly bounded to between -10 and 10, small ones next to unchanged."""
    return _LARGEST_LOG_VARIANCE * torch.tanh(raw / _LARGEST_LOG_VARIANCE)


class NormalNetwork(nn.Module):
    """A residual network from vectors to a normal distribution.

    A dense layer, two more beside a skip connection, and one for mean and log-variance, with ReLU
    in between. Log-variances are bounded to between -10 and 10.

    Parameters
    ----------
    n_inputs : int
        Width of all inputs together.
    n_hidden : int
        Width of the hidden layers.
    n_outputs : int
        D, dimensions of the distribution.
    """

    def __init__(self, n_inputs: int, n_hidden: int, n_outputs: int) -> None:
        super().__init__()
        self.enter = nn.Linear(n_inputs, n_hidden)
        self.block = dense_network(n_hidden, n_hidden, 1, n_hidden)
        self.leave = nn.Linear(n_hidden, 2 * n_outputs)

    def forward(self, *inputs: Tensor) -> Normal:
        """Return mean and log-variance [..., D] from inputs that are put side by side."""
        e = self.enter(torch.cat(inputs, dim=-1)).relu()
        mean, log_variance = self.leave((e + self.block(e)).relu()).chunk(2, dim=-1)
        return mean, bounded_log_variance(log_variance)


def sample(normal: Normal, noise: Tensor) -> Tensor:
    """Return mean plus standard deviation times noise [..., D]."""
    mean, log_variance = normal
    return mean + (log_variance / 2).exp() * noise


def normal_kl(p: Normal, q: Normal) -> Tensor:
    r"""Return the Kullback-Leibler divergence of normals, summed over their dimensions.

    .. math::
        D(p \,\|\, q) = \frac{1}{2} \sum_d \log \frac{v_q}{v_p}
            + \frac{v_p + (\mu_p - \mu_q)^2}{v_q} - 1

    Parameters
    ----------
    p, q : (mean, log-variance), each Tensor of shape (..., D)

    Returns
    -------
    divergences : Tensor of shape (...)
    """
    difference = p[1] - q[1]
    distance = (p[0] - q[0]).square() * (-q[1]).exp()
    return 0.5 * (difference.exp() - difference - 1 + distance).sum(dim=-1)


def pairwise_normal_kl(p: Normal, q: Normal) -> Tensor:
    """Return the divergence of every p from every q.

    Parameters
    ----------
    p : (mean, log-variance), each Tensor of shape (T, C, D)
    q : (mean, log-variance), each Tensor of shape (T, Q, D)

    Returns
    -------
    divergences : Tensor of shape (T, Q, C)
    """
    p = (p[0].unsqueeze(1), p[1].unsqueeze(1))

    def of_rows(rows: Tensor) -> Tensor:
        mean, log_variance = rows.unsqueeze(2).chunk(2, dim=-1)
        return normal_kl(p, (mean, log_variance))

    return map_rows(of_rows, torch.cat(q, dim=-1), 2 * p[0].nbytes)


def normal_log_density(x: Tensor, normal: Normal) -> Tensor:
    """Return the log-density of rows [..., D], summed over their dimensions."""
    mean, log_variance = normal
    scaled = (x - mean).square() * (-log_variance).exp()
    return -0.5 * (scaled + log_variance + math.log(2 * math.pi)).sum(dim=-1)


def row_noise(n_rows: int, width: int, like: Tensor, seed: int) -> Tensor:
    """Return standard normal noise [N, D] whose first rows do not depend on how many there are."""
    generator = torch.Generator(device=like.device).manual_seed(seed)
    blocks = [
        torch.randn(_NOISE_ROWS, width, generator=generator, dtype=like.dtype, device=like.device)
        for _ in range(0, n_rows, _NOISE_ROWS)
    ]
    return torch.cat(blocks)[:n_rows]
