"""What neural processes are made of: sets of pairs, latent variables, Gaussian predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from .cross_attention import SelfAttention
from .dense import dense_network
from .functional import mean_row
from .normals import normal_kl

# Of a latent variable, as in the authors' code.
_LEAST_LATENT_STD = 0.1
# Where its distribution starts: the logit of the standard deviation above its bound, and how many
# times wider than those of another layer the weights of the mean are.
_FIRST_LOGIT, _FIRST_SPREAD = -4.0, 5.0


class PairEncoder(nn.Module):
    """Encode each pair by itself, then let those of a task look at each other.

    Parameters
    ----------
    network : nn.Module
        Pairs [..., N] to encodings [..., H].
    *layers : SelfAttention
        None: pairs do not look at each other.
    """

    def __init__(self, network: nn.Module, *layers: SelfAttention) -> None:
        super().__init__()
        self.network = network
        self.layers = nn.ModuleList(layers)

    def forward(self, pairs: Tensor, mask: Tensor | None) -> Tensor:
        """Encode pairs [T, S, N], of which the mask [T, S] leaves some out, as [T, S, H]."""
        encodings = self.network(pairs)
        for layer in self.layers:
            encodings = layer(encodings, mask)
        return encodings


class LatentEncoder(nn.Module):
    r"""The distribution of a latent variable, given a set of pairs.

    .. math::
        s = \frac{1}{n} \sum_i h(x_i, y_i), \qquad
        z \sim N(\mu(s), \sigma(s)^2), \qquad \sigma(s) \in (0.1, 1)

    At the start the means of different sets differ by more than the standard deviation, which is
    near its bound; otherwise a decoder sees but noise, and learns to leave z out.

    Parameters
    ----------
    encoder : PairEncoder
        h, pairs [T, S, N] to [T, S, H].
    n_hidden : int
        H.
    n_latent : int
        Z, width of z.
    """

    def __init__(self, encoder: PairEncoder, n_hidden: int, n_latent: int) -> None:
        super().__init__()
        self.encoder = encoder
        last = nn.Linear(n_hidden, 2 * n_latent)
        with torch.no_grad():
            last.weight[:n_latent] *= _FIRST_SPREAD
            last.bias[n_latent:] += _FIRST_LOGIT
        self.head = nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.ReLU(), last)

    def forward(self, pairs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [T, Z] from pairs [T, S, N] and their mask [T, S]."""
        mean, raw = self.head(mean_row(self.encoder(pairs, mask), mask)).chunk(2, dim=-1)
        return mean, _LEAST_LATENT_STD + (1 - _LEAST_LATENT_STD) * raw.sigmoid()


class JointNetwork(nn.Module):
    """A multilayer perceptron of rows and contexts side by side, each pair of them.

    Parameters
    ----------
    n_row, n_context : int
        Their widths D and P.
    n_hidden, n_layers, n_outputs : int
        As in :func:`dense_network`.
    """

    def __init__(
        self, n_row: int, n_context: int, *, n_hidden: int, n_layers: int, n_outputs: int
    ) -> None:
        super().__init__()
        self.n_row = n_row
        self.first = nn.Linear(n_row + n_context, n_hidden)
        self.rest = nn.Sequential(
            nn.ReLU(), *dense_network(n_hidden, n_hidden, n_layers - 1, n_outputs)
        )

    def forward(self, rows: Tensor, contexts: Tensor) -> Tensor:
        """Return the outputs of each row with each context of its task.

        Parameters
        ----------
        rows : Tensor of shape (T, Q, D)
        contexts : Tensor of shape (T, L, P)

        Returns
        -------
        outputs : Tensor of shape (T, L, Q, n_outputs)
        """
        # The first layer is a sum, so that it need not be computed for each pair.
        of_rows, of_contexts = self.first.weight.tensor_split([self.n_row], dim=1)
        hidden = F.linear(rows, of_rows).unsqueeze(1)
        return self.rest(hidden + F.linear(contexts, of_contexts, self.first.bias).unsqueeze(2))


class GaussianDecoder(nn.Module):
    r"""A network whose outputs are means and standard deviations, which have a lower bound.

    .. math:: \sigma = \sigma_0 + (1 - \sigma_0) \, \mathrm{softplus}(g_\sigma)

    Parameters
    ----------
    network : JointNetwork
        With 2 C outputs.
    min_std : float
        The bound :math:`\sigma_0`.
    """

    def __init__(self, network: JointNetwork, min_std: float) -> None:
        super().__init__()
        self.network = network
        self.min_std = min_std

    def forward(self, rows: Tensor, contexts: Tensor) -> Tensor:
        """Return C means and, behind them, standard deviations [T, L, Q, 2 C].

        They are of each row [T, Q, D] with each context [T, L, P] of its task.
        """
        mean, raw = self.network(rows, contexts).chunk(2, dim=-1)
        std = self.min_std + (1 - self.min_std) * F.softplus(raw)
        return torch.cat([mean, std], dim=-1)


def random_rows(y: Tensor, mask: Tensor | None, min_share: float) -> Tensor:
    """Draw how many of the rows of each task are kept, and which.

    Their number is uniform between the smallest share of the rows, at least one, and all of them.
    The rows kept follow each other, the first one after the last. Tasks share one draw of how far
    between the two numbers theirs is, and of where the rows begin.

    Parameters
    ----------
    y : Tensor of shape (T, S, *)
        Only its shape and device are looked at.
    mask : bool Tensor of shape (T, S) or None
    min_share : float
        Between 0 and 1.

    Returns
    -------
    mask : bool Tensor of shape (T, S)
    """
    between, start = torch.rand(2, dtype=torch.float64).tolist()
    real = y.new_ones(y.shape[:2], dtype=torch.bool) if mask is None else mask
    n_rows = real.sum(dim=1, keepdim=True)
    rank = real.cumsum(dim=1) - 1
    fewest = (min_share * n_rows).ceil().clamp_min(1)
    n_kept = fewest + (between * (n_rows - fewest + 1)).floor()
    first = (start * n_rows).floor()
    return real & ((rank - first) % n_rows.clamp_min(1) < n_kept)


def normal_points(n_points: int, n_dims: int) -> Tensor:
    """Return points [n_points, n_dims] that stand for samples of a standard normal distribution.

    They are normal quantiles of a Sobol sequence with a fixed scramble, shifted and scaled so that
    in every dimension the mean is zero and the variance one. A single point is zero.
    """
    points = SobolEngine(n_dims, scramble=True, seed=0).draw(n_points, dtype=torch.float64)
    points = torch.special.ndtri(points.clamp(1e-6, 1 - 1e-6))
    points = points - points.mean(dim=0)
    return points / points.square().mean(dim=0).sqrt().clamp_min(1e-12)


def normal_divergence(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    r"""Return the Kullback-Leibler divergence of independent normal distributions.

    .. math::
        \sum_d \log \frac{\sigma_p}{\sigma_q}
        + \frac{\sigma_q^2 + (\mu_q - \mu_p)^2}{2 \sigma_p^2} - \frac{1}{2}

    Parameters
    ----------
    q, p : tuple of Tensor of shape (T, Z)
        Mean and standard deviation.

    Returns
    -------
    divergence : Tensor of shape (T,)
    """
    return normal_kl(*((mean, 2 * std.log()) for mean, std in (q, p)))
