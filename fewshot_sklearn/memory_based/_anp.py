"""Attentive neural processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..base import TaskSpec
from ..nn.cross_attention import CrossAttention, SelfAttention
from ..nn.dense import dense_network
from ..nn.learner import State
from ..nn.neural_process import LatentEncoder, PairEncoder
from ..utils._sklearn import Integral, Interval
from ._latent_np import LatentProcessRegressor, NPLearner
from ._shared import rows_or_backbone


class ANPLearner(NPLearner):
    r"""A neural process whose decoder also sees the support pairs that a query attends to [1]_.

    .. math::
        p(y \mid x, s) = \int N(y; g(x, r(x), z)) \, q(z \mid s) \, dz, \qquad
        r(x) = \operatorname{attention}\bigl(f(x), f(x_i), h(x_i, y_i)\bigr)

    Parameters
    ----------
    *parts
        Of :class:`NPLearner`, whose decoder gets rows of D + H features.
    encoder : PairEncoder
        h, pairs [T, S, D + C] to [T, S, H].
    embedding : nn.Module
        f, embeddings [..., D] to queries and keys [..., H].
    attention : CrossAttention
    **options
        Of :class:`NPLearner`.

    References
    ----------
    .. [1] Kim, Mnih, Schwarz et al. (2019). "Attentive neural processes." ICLR.
    """

    def __init__(
        self,
        *parts: Any,
        encoder: PairEncoder,
        embedding: nn.Module,
        attention: CrossAttention,
        **options: Any,
    ) -> None:
        super().__init__(*parts, **options)
        self.encoder = encoder
        self.embedding = embedding
        self.attention = attention

    def encode(self, rows: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Return q(z | s), and a key and an encoding [T, S, H] for each support row."""
        return super().encode(rows, y, mask) | {
            "keys": self.embedding(rows),
            "encodings": self.encoder(torch.cat([rows, y], dim=-1), mask),
            "real": y.new_ones(y.shape[:2], dtype=torch.bool) if mask is None else mask,
        }

    def read(self, state: State, rows: Tensor) -> Tensor:
        """Return each row with what it attends to [T, Q, D + H]."""
        queries = self.embedding(rows)
        r = self.attention(queries, state["keys"], state["encodings"], state["real"])
        return torch.cat([rows, r], dim=-1)


@dataclass(kw_only=True, eq=False, repr=False)
class ANPRegressor(LatentProcessRegressor):
    """Attentive neural process: a query attends to the support rows that tell of it [1]_.

    ``meta_fit`` learns a distribution over functions as NPRegressor does, and which support rows
    matter for a query; ``fit`` encodes the support rows. Prefer it to the other neural processes
    where predictions should pass through the support rows, and where these are many. ``predict``
    costs a pass for each latent sample, and an attention that grows with the support rows.

    Parameters
    ----------
    n_heads : int, default=8
        Heads of the attention; they must divide ``n_hidden``.
    n_self_attention_layers : int, default=0
        Layers in which the support rows look at each other, in the deterministic and in the
        latent path, before a query attends to them or the mean is taken.
    %(neural_process_parameters)s
    %(latent_process_parameters)s
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    The network sees the rows as they are unless a ``backbone`` is given. As in the authors' code
    for functions of one variable there is no self-attention by default, queries and keys are
    embedded by one network of two layers, and each path has an encoder of its own.

    Departures from the paper: the prediction averages over fixed points that stand for samples of
    the latent variable, so that it is a function of the support set, and its standard deviation
    is that of the mixture; the paper looks at single samples. ``min_std`` is 0.01, not 0.1. In
    meta-training the support set has half of its rows at least. Encoders and decoder have the
    same number of layers. Targets are standardised with the meta-training tasks' mean and scale
    unless ``normalize_y=False``.

    References
    ----------
    .. [1] Kim, Mnih, Schwarz et al. (2019). "Attentive neural processes." ICLR.

    Examples
    --------
    >>> from fewshot_sklearn import ANPRegressor, evaluate
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = ANPRegressor(max_iter=400, random_state=0).meta_fit(tasks)
    >>> unseen = make_sinusoid_tasks(50, random_state=1)
    >>> -evaluate(reg, unseen, scoring="neg_mean_squared_error").mean < 2.0
    True
    >>> X_support, y_support, X_query, y_query = unseen[0]
    >>> mean, std = reg.fit(X_support, y_support).predict(X_query, return_std=True)
    >>> std.shape
    (10,)
    """

    n_heads: int = 8
    n_self_attention_layers: int = 0

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **LatentProcessRegressor._parameter_constraints,
        "n_heads": [Interval(Integral, 1, None, closed="left")],
        "n_self_attention_layers": [Interval(Integral, 0, None, closed="left")],
    }

    def _make_learner(self, spec: TaskSpec) -> ANPLearner:
        backbone, width = rows_or_backbone(self, spec)
        return ANPLearner(
            backbone,
            LatentEncoder(self._encoder(width, spec), self.n_hidden, self.n_latent),
            self._decoder(width + self.n_hidden, self.n_latent, spec.n_outputs),
            self._points(),
            encoder=self._encoder(width, spec),
            embedding=dense_network(width, self.n_hidden, 1, self.n_hidden),
            attention=CrossAttention(self.n_hidden, self.n_heads),
            min_support_share=self.min_support_share,
        )

    def _encoder(self, width: int, spec: TaskSpec) -> PairEncoder:
        """Return a new encoder of pairs."""
        layers = [
            SelfAttention(self.n_hidden, self.n_heads) for _ in range(self.n_self_attention_layers)
        ]
        return PairEncoder(self._encoder_network(width + spec.n_outputs), *layers)
