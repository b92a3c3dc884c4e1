"""Conditional neural processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .._incremental import IncrementalClassifier
from ..base import TaskSpec
from ..nn import Learner
from ..nn.functional import all_rows, gaussian_nll, mean_row, update_class_means
from ..nn.learner import State
from ..nn.neural_process import random_rows
from ..utils._tags import FewShotTags
from ._neural_process import NeuralProcess, NeuralProcessRegressor
from ._shared import rows_or_backbone

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


class CNPLearner(Learner):
    r"""Decode a target from its row and the mean encoding of the support pairs [1]_.

    .. math::
        r_i = h(x_i, y_i), \qquad r = \frac{1}{n} \sum_i r_i, \qquad
        (\mu, \sigma) = g(x, r)

    Parameters
    ----------
    backbone : nn.Module
        Rows [N, *] to embeddings [N, D], which take the place of x.
    encoder : nn.Module
        h, pairs [..., D + C] to [..., H].
    decoder : GaussianDecoder
        g, of embedded rows with r.
    min_support_share : float
        The smallest share of the support rows that meta-training conditions on.

    References
    ----------
    .. [1] Garnelo, Rosenbaum, Maddison et al. (2018). "Conditional neural processes." ICML.
    """

    def __init__(
        self,
        backbone: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        min_support_share: float,
    ) -> None:
        super().__init__(gaussian_nll)
        self.backbone = backbone
        self.encoder = encoder
        self.decoder = decoder
        self.min_support_share = min_support_share

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Return the mean encoding r [T, H] of the support pairs."""
        return self._encode(self.embed(self.backbone, x), y, mask)

    def _encode(self, rows: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Return the mean encoding of embedded rows (eq. 1 and 2)."""
        return {"r": mean_row(self.encoder(torch.cat([rows, y], dim=-1)), mask)}

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the mean and the standard deviation of a new target."""
        return self._decode(state, self.embed(self.backbone, x))

    def _decode(self, state: State, rows: Tensor) -> Tensor:
        """Return the outputs of embedded rows (eq. 3)."""
        return self.decoder(rows, state["r"].unsqueeze(1)).squeeze(1)

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return minus the log-likelihood of all rows given some of the support (eq. 4)."""
        x, y, mask = all_rows(batch)
        rows, y_support = self.embed(self.backbone, x), batch.y_support
        known = random_rows(y_support, batch.support_mask, self.min_support_share)
        state = self._encode(rows[:, : y_support.shape[1]], y_support, known)
        return self.loss(self._decode(state, rows), y, mask).mean()


class CNPClassifierLearner(Learner):
    r"""Decode a class from a row and the mean encodings of all classes, one after the other [1]_.

    .. math::
        r_k = \frac{1}{n_k} \sum_{i : y_i = k} h(x_i), \qquad
        (l_1, \dots, l_C) = g(x, r_1, \dots, r_C)

    Parameters
    ----------
    backbone : nn.Module
        Rows [N, *] to embeddings [N, D], which take the place of x.
    encoder : nn.Module
        h, embeddings [..., D] to [..., H].
    decoder : JointNetwork
        g, of embedded rows with all mean encodings, to C logits.
    n_hidden, n_outputs : int
        H and C.

    References
    ----------
    .. [1] Garnelo, Rosenbaum, Maddison et al. (2018). "Conditional neural processes." ICML.
    """

    def __init__(
        self,
        backbone: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        n_hidden: int,
        n_outputs: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder
        self.decoder = decoder
        self.n_hidden = n_hidden
        self.n_outputs = n_outputs

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Return the mean encoding and the number of rows of each class."""
        counts = y.new_zeros(len(y), y.shape[-1])
        means = counts.unsqueeze(-1).expand(-1, -1, self.n_hidden)
        return self.update({"r": means, "n": counts}, x, y, mask)

    def update(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Carry the means on with more rows."""
        encodings = self.encoder(self.embed(self.backbone, x))
        means, counts = update_class_means(state["r"], state["n"], encodings, y, mask)
        return {"r": means, "n": counts}

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the logit of each class."""
        r = state["r"].flatten(1).unsqueeze(1)
        return self.decoder(self.embed(self.backbone, x), r).squeeze(1)


@dataclass(kw_only=True, eq=False, repr=False)
class CNPRegressor(NeuralProcessRegressor):
    """Conditional neural process: a network that reads the mean of the encoded examples [1]_.

    ``meta_fit`` learns to encode a labelled row and to decode the target of a new one, with its
    standard deviation, from the mean of the encodings; ``fit`` takes that mean. Prefer it where
    there are many tasks to learn from and a new one must be learned at once, from any number of
    rows: ``fit`` is one forward pass, without steps and without matrices to factorise.

    Parameters
    ----------
    %(neural_process_parameters)s
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    The network sees the rows as they are unless a ``backbone`` is given.

    Departures from the paper: ``min_std`` is 0.01 and not the 0.1 of the authors' code, which is
    more than the error on a function without noise. In meta-training the support set has half of
    its rows at least, in the paper none at least. Encoder and decoder have the same number of
    layers. Targets are standardised with the meta-training tasks' mean and scale unless
    ``normalize_y=False``.

    References
    ----------
    .. [1] Garnelo, Rosenbaum, Maddison et al. (2018). "Conditional neural processes." ICML.

    Examples
    --------
    >>> from fewshot_sklearn import CNPRegressor, evaluate
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = CNPRegressor(max_iter=400, random_state=0).meta_fit(tasks)
    >>> unseen = make_sinusoid_tasks(50, random_state=1)
    >>> -evaluate(reg, unseen, scoring="neg_mean_squared_error").mean < 2.0
    True
    >>> X_support, y_support, X_query, y_query = unseen[0]
    >>> mean, std = reg.fit(X_support, y_support).predict(X_query, return_std=True)
    >>> std.shape
    (10,)
    """

    def _make_learner(self, spec: TaskSpec) -> CNPLearner:
        backbone, width = rows_or_backbone(self, spec)
        return CNPLearner(
            backbone,
            self._encoder_network(width + spec.n_outputs),
            self._decoder(width, self.n_hidden, spec.n_outputs),
            min_support_share=self.min_support_share,
        )


@dataclass(kw_only=True, eq=False, repr=False)
class CNPClassifier(IncrementalClassifier, NeuralProcess):
    """Conditional neural process: a network that reads the mean encoding of each class [1]_.

    ``meta_fit`` learns to encode a row and to decode the class of a new one from the mean
    encodings of all classes, one after the other; ``fit`` takes the means. Prefer it where the
    classes are the same in every task, or their number is at least; ProtoNet takes any number and
    has less to learn. ``fit`` is one forward pass, and ``partial_fit`` carries the means on.

    Parameters
    ----------
    n_hidden : int, default=128
        Width of the encodings and of all hidden layers.
    n_layers : int, default=3
        Hidden layers of encoder and decoder.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    It takes as many classes as the largest meta-training task had. The mean encoding of a class
    without rows is zero. The network sees the rows as they are unless a ``backbone`` is given.

    Departures from the paper: decoder and encoder look at a row through the same backbone. Encoder
    and decoder have the same number of layers. Meta-training conditions on the whole support set,
    and its loss counts the query rows alone.

    References
    ----------
    .. [1] Garnelo, Rosenbaum, Maddison et al. (2018). "Conditional neural processes." ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import CNPClassifier, EpisodicTasks
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=2, n_shot=3, n_query=5, random_state=0)
    >>> clf = CNPClassifier(max_iter=300, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.7
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **IncrementalClassifier._parameter_constraints,
        **NeuralProcess._parameter_constraints,
    }

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(permutes_classes=False)

    def _make_learner(self, spec: TaskSpec) -> CNPClassifierLearner:
        backbone, width = rows_or_backbone(self, spec)
        n_classes = spec.n_outputs
        return CNPClassifierLearner(
            backbone,
            self._encoder_network(width),
            self._decoder_network(width, n_classes * self.n_hidden, n_classes),
            n_hidden=self.n_hidden,
            n_outputs=n_classes,
        )
