"""End-to-end memory networks over the support set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._incremental import IncrementalClassifier
from ..base import TaskSpec
from ..nn import LinearStartLearner, SupportRowsLearner, ages, embedding_size, memory_hops
from ..nn import noisy_ages as draw_ages
from ..nn.learner import State
from ..utils._sklearn import Integral, Interval, Real, StrOptions
from ..utils._tags import FewShotTags


class MemN2NLearner(LinearStartLearner, SupportRowsLearner):
    r"""Read the labelled support rows in several hops [1]_.

    Of the embedded support rows :math:`z_i` with one-hot labels :math:`y_i`, the memory has

    .. math::
        m_i^k = A^k z_i + T_A^k(i), \qquad c_i^k = C^k z_i + T_C^k(i) + s E y_i

    where E embeds each class by a unit vector of its own that is orthogonal to all others and
    to the embedded rows. With :math:`u^1 = B z` of a query,

    .. math::
        u^{k+1} = H u^k + \sum_i \mathrm{Softmax}_i(u^{k\top} m_i^k) c_i^k, \qquad
        p(y \mid x) = \mathrm{Softmax}(W u^{K+1}), \quad W = s E^\top

    Adjacent tying: :math:`m_i^{k+1} = c_i^k`, B = A^1, H = I. Layer-wise tying: A and C are those
    of all hops, and B and H are matrices of their own; H leaves classes as they are.

    Parameters
    ----------
    backbone : nn.Module
        Rows [N, *] to embeddings z [N, D].
    n_features : int
        D.
    size : int
        Width of A z.
    n_hops : int
        K.
    layer_wise : bool
        Layer-wise tying in place of adjacent.
    linear_start_iter : int
        Iterations without the softmax.
    n_ages : int
        Rows that T tells apart, the newest; 0 leaves T out.
    time_noise : float
        Share of empty rows that are put among the support rows in training.

    References
    ----------
    .. [1] Sukhbaatar, Szlam, Weston, Fergus (2015). "End-to-end memory networks." NeurIPS.
    """

    time: nn.Parameter | None
    carry: nn.Linear | None

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        size: int,
        *,
        n_hops: int,
        layer_wise: bool,
        linear_start_iter: int,
        n_ages: int,
        time_noise: float,
    ) -> None:
        super().__init__(backbone)
        self.n_hops, self.size, self.layer_wise = n_hops, size, layer_wise
        self.time_noise = time_noise
        self.start_linear(linear_start_iter)
        # What the last hop reads of the rows besides their labels is never asked for.
        n_maps = min(n_hops, 2) if layer_wise else n_hops
        self.maps = nn.Linear(n_features, n_maps * size, bias=False)
        self.query_map = nn.Linear(n_features, size, bias=False) if layer_wise else None
        self.carry = nn.Linear(size, size, bias=False) if layer_wise and n_hops > 1 else None
        self.label_scale = nn.Parameter(torch.tensor(2.0))
        self.time = nn.Parameter(0.1 * torch.randn(n_ages, n_maps, size)) if n_ages else None

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the logits W u^{K+1}."""
        return self._hops(state, x)[0]

    def _hops(self, state: State, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits [T, Q, C], and what every hop attended to [T, Q, S]."""
        z = self.embed(self.backbone, x)
        if self.query_map is None:
            z = F.linear(z, self.maps.weight[: self.size])
        else:
            z = self.query_map(z)
        n_classes = state["y"].shape[-1]
        mask = state["y"].any(dim=-1)
        u, attention = memory_hops(
            F.pad(z, (0, n_classes)),
            self._memories(state, mask),
            mask,
            linear=self.linear,
            carry=self._carry,
        )
        return self.label_scale * u[..., self.size :], attention

    def _carry(self, u: Tensor) -> Tensor:
        """Return H u, which leaves the classes as they are."""
        if self.carry is None:
            return u
        return torch.cat([self.carry(u[..., : self.size]), u[..., self.size :]], dim=-1)

    def _memories(self, state: State, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return m and c [T, S, size + C] of every hop."""
        rows = self.maps(state["z"]).unflatten(-1, (-1, self.size))
        if self.time is not None:
            noisy = self.training and self.time_noise
            age = draw_ages(mask, self.time_noise) if noisy else ages(mask)
            rows = rows + self.time[age.clamp(0, len(self.time) - 1)]
        labels = self.label_scale * state["y"]
        first, *others = rows.unbind(dim=-2)
        m = torch.cat([first, torch.zeros_like(labels)], dim=-1)
        c = [torch.cat([row, labels], dim=-1) for row in (*others, torch.zeros_like(first))]
        if self.layer_wise:
            return [(m, c[0])] * (self.n_hops - 1) + [(m, c[-1])]
        return list(zip([m, *c], c, strict=False))


@dataclass(kw_only=True, eq=False, repr=False)
class MemN2NClassifier(IncrementalClassifier):
    """End-to-end memory network over the support set [1]_.

    ``meta_fit`` learns to look things up in several hops: what a hop reads from the labelled
    support rows decides, together with the query, what the next one looks for. ``fit`` stores the
    embedded rows, which costs one pass through the backbone; ``predict`` compares every query with
    every support row ``n_hops`` times. Prefer it to :class:`MatchingNetClassifier`, which is about
    its first hop, where the label of a row depends on other rows of the task. It takes any number
    of classes and rows. For stories see :class:`StoryMemN2NClassifier`.

    Parameters
    ----------
    n_hops : int, default=3
        How often the memory is read.
    embedding_size : int, default=64
        Width of the memory vectors, without the labels.
    tying : {"adjacent", "layer_wise"}, default="adjacent"
        What hops share: the output vectors of a hop are the input vectors of the next one, or
        all hops have the same, and the state passes a linear layer between them.
    linear_start_iter : int, default=0
        Meta-iterations without the softmax in the memory, before those with it. When
        meta-training ends earlier, or the best validated weights are from then, predictions are
        without it too.
    temporal_encoding : bool, default=False
        Add a learned vector that says how many support rows are newer. The order of the support
        rows then matters.
    n_ages : int, default=50
        How many rows temporal encoding tells apart; all older ones get the same vector.
    time_noise : float, default=0.1
        With temporal encoding, the share of empty rows that meta-training puts among the
        support rows at random.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    See Also
    --------
    StoryMemN2NClassifier : Questions about stories, as in the paper.
    MatchingNetClassifier : One look at the support rows.

    Notes
    -----
    The paper is about stories; here a support row is a sentence, its embedding the sum of its
    words, and its label a word more, which only the output vectors have in the first hop. The
    vectors of these label words are not learned, as those of words are: they are orthogonal to each
    other and to the rows', and as long as one learned number says. So classes are alike, there
    may be any number of them, and the answer matrix, which the paper ties to the last output
    embedding, gives each class the attention that its rows got, summed over all hops. Adam trains
    it, where the paper has stochastic gradient descent; the linear start has a fixed length, where
    the paper waits for the validation loss to stop falling.

    References
    ----------
    .. [1] Sukhbaatar, Szlam, Weston, Fergus (2015). "End-to-end memory networks." NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot_sklearn import EpisodicTasks, MemN2NClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(np.arange(60), 10)
    >>> X = rng.normal(size=(60, 8))[y] + 0.5 * rng.normal(size=(600, 8))
    >>> seen = y < 50
    >>> tasks = EpisodicTasks(X[seen], y[seen], n_way=5, n_shot=3, n_query=5, random_state=0)
    >>> clf = MemN2NClassifier(max_iter=100, random_state=0).meta_fit(tasks)
    >>> clf.fit(X[~seen][::2], y[~seen][::2]).score(X[~seen][1::2], y[~seen][1::2]) > 0.8
    True
    """

    n_hops: int = 3
    embedding_size: int = 64
    tying: str = "adjacent"
    linear_start_iter: int = 0
    temporal_encoding: bool = False
    n_ages: int = 50
    time_noise: float = 0.1

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **IncrementalClassifier._parameter_constraints,
        "n_hops": [Interval(Integral, 1, None, closed="left")],
        "embedding_size": [Interval(Integral, 1, None, closed="left")],
        "tying": [StrOptions({"adjacent", "layer_wise"})],
        "linear_start_iter": [Interval(Integral, 0, None, closed="left")],
        "temporal_encoding": ["boolean"],
        "n_ages": [Interval(Integral, 1, None, closed="left")],
        "time_noise": [Interval(Real, 0, 1, closed="both")],
    }

    def _make_learner(self, spec: TaskSpec) -> MemN2NLearner:
        backbone = self._build_backbone(spec.input_shape)
        return MemN2NLearner(
            backbone,
            embedding_size(backbone, spec.input_shape),
            self.embedding_size,
            n_hops=self.n_hops,
            layer_wise=self.tying == "layer_wise",
            linear_start_iter=self.linear_start_iter,
            n_ages=self.n_ages if self.temporal_encoding else 0,
            time_noise=self.time_noise,
        )

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(order_dependent=self.temporal_encoding)
