"""Neural processes with a latent variable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..base import TaskSpec
from ..nn import Learner
from ..nn.functional import all_rows, gaussian_nll, map_rows, mixture_moments
from ..nn.learner import State
from ..nn.neural_process import (
    LatentEncoder,
    PairEncoder,
    normal_divergence,
    normal_points,
    random_rows,
)
from ..utils._sklearn import Integral, Interval
from ._neural_process import NeuralProcessRegressor
from ._shared import rows_or_backbone

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


class NPLearner(Learner):
    r"""Decode a target from its row and a latent variable that the support set tells of [1]_.

    .. math::
        p(y \mid x, s) = \int N(y; g(x, z)) \, q(z \mid s) \, dz

    Parameters
    ----------
    backbone : nn.Module
        Rows [N, *] to embeddings [N, D], which take the place of x.
    latent : LatentEncoder
        q, of pairs [..., D + C].
    decoder : GaussianDecoder
        g, of embedded rows with z.
    points : Tensor of shape (L, Z)
        What stands for samples of a standard normal distribution outside of meta-training.
    min_support_share : float
        The smallest share of the support rows that meta-training conditions on.

    References
    ----------
    .. [1] Garnelo, Schwarz, Rosenbaum et al. (2018). "Neural processes." ICML workshop on
       theoretical foundations and applications of deep generative models.
    """

    points: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        latent: LatentEncoder,
        decoder: nn.Module,
        points: Tensor,
        *,
        min_support_share: float,
    ) -> None:
        super().__init__(gaussian_nll)
        self.backbone = backbone
        self.latent = latent
        self.decoder = decoder
        self.min_support_share = min_support_share
        self.register_buffer("points", points, persistent=False)

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Return the mean and the standard deviation [T, Z] of q(z | s)."""
        return self.encode(self.embed(self.backbone, x), y, mask)

    def encode(self, rows: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Return what a set of embedded rows [T, N, D] and their targets tell."""
        mean, std = self.latent(torch.cat([rows, y], dim=-1), mask)
        return {"mean": mean, "std": std}

    def read(self, state: State, rows: Tensor) -> Tensor:
        """Return what the decoder sees of embedded query rows [T, Q, D] beside z."""
        return rows

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the mean and the standard deviation of a new target over q(z | s)."""
        z = _samples(state["mean"], state["std"], self.points)
        seen = self.read(state, self.embed(self.backbone, x))
        return map_rows(lambda rows: mixture_moments(self.decoder(rows, z)), seen, z.nbytes)

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return minus the lower bound of the evidence for all rows given some of the support."""
        x, y, mask = all_rows(batch)
        rows, y_support = self.embed(self.backbone, x), batch.y_support
        known = random_rows(y_support, batch.support_mask, self.min_support_share)
        state = self.encode(rows[:, : y_support.shape[1]], y_support, known)
        mean, std = self.latent(torch.cat([rows, y], dim=-1), mask)
        noise = torch.randn_like(mean).unsqueeze(1) if self.training else self.points
        outputs = self.decoder(self.read(state, rows), _samples(mean, std, noise))
        losses = self.loss(outputs, y.unsqueeze(1), None if mask is None else mask.unsqueeze(1))
        n_rows = y.shape[1] if mask is None else mask.sum(dim=1)
        divergence = normal_divergence((mean, std), (state["mean"], state["std"]))
        return (losses.mean(dim=1) + divergence / (n_rows * y.shape[-1])).mean()


def _samples(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """Return samples of z [T, L, Z]."""
    return mean.unsqueeze(1) + std.unsqueeze(1) * noise


@dataclass(kw_only=True, eq=False, repr=False)
class LatentProcessRegressor(NeuralProcessRegressor):
    """A neural process that has a latent variable."""

    n_latent: int = 128
    n_latent_samples: int = 32

    _adaptation_parameters: ClassVar[frozenset[str]] = (
        NeuralProcessRegressor._adaptation_parameters | {"n_latent_samples"}
    )
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **NeuralProcessRegressor._parameter_constraints,
        "n_latent": [Interval(Integral, 1, None, closed="left")],
        "n_latent_samples": [Interval(Integral, 1, None, closed="left")],
    }

    def _points(self) -> Tensor:
        """Return what stands for samples of a standard normal distribution."""
        return normal_points(self.n_latent_samples, self.n_latent).to(torch.get_default_dtype())


@dataclass(kw_only=True, eq=False, repr=False)
class NPRegressor(LatentProcessRegressor):
    """Neural process: a latent variable says which function it is, and a network decodes it [1]_.

    ``meta_fit`` learns a distribution over functions; ``fit`` finds which of them go with the
    support set, as a normal distribution of the latent variable. Prefer it to CNPRegressor where
    tasks differ in few numbers that a few rows leave open. ``fit`` is one forward pass,
    ``predict`` one for each of the ``n_latent_samples``.

    Parameters
    ----------
    %(neural_process_parameters)s
    %(latent_process_parameters)s
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    The network sees the rows as they are unless a ``backbone`` is given. Meta-training takes one
    sample of the latent variable for each task. A prediction is the mean of the mixture over
    fixed points that stand for samples, and its standard deviation that of the mixture, so that
    it is a function of the support set.

    Departures from the paper: the prediction just said; the paper looks at single samples. The
    decoder has a standard deviation for each target, of at least ``min_std``, as in the attentive
    process. In meta-training the support set has half of its rows at least. The latent
    distributions of different tasks are told apart from the start, without which 700 iterations
    on sine waves left ten times the squared error. Encoder and decoder have the same number of
    layers. Targets are standardised with the meta-training tasks' mean and scale unless
    ``normalize_y=False``.

    References
    ----------
    .. [1] Garnelo, Schwarz, Rosenbaum et al. (2018). "Neural processes." ICML workshop on
       theoretical foundations and applications of deep generative models.

    Examples
    --------
    >>> from fewshot_sklearn import NPRegressor, evaluate
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = NPRegressor(max_iter=400, random_state=0).meta_fit(tasks)
    >>> unseen = make_sinusoid_tasks(50, random_state=1)
    >>> -evaluate(reg, unseen, scoring="neg_mean_squared_error").mean < 2.0
    True
    >>> X_support, y_support, X_query, y_query = unseen[0]
    >>> mean, std = reg.fit(X_support, y_support).predict(X_query, return_std=True)
    >>> std.shape
    (10,)
    """

    def _make_learner(self, spec: TaskSpec) -> NPLearner:
        backbone, width = rows_or_backbone(self, spec)
        encoder = PairEncoder(self._encoder_network(width + spec.n_outputs))
        return NPLearner(
            backbone,
            LatentEncoder(encoder, self.n_hidden, self.n_latent),
            self._decoder(width, self.n_latent, spec.n_outputs),
            self._points(),
            min_support_share=self.min_support_share,
        )
