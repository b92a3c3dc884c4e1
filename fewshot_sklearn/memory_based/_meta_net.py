"""Meta networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..base import FewShotClassifier, TaskSpec
from ..nn import Learner, embedding_size
from ..nn.fast_weights import CoordinateLSTM, CoordinateMLP, DenseStack, uniform_
from ..nn.functional import (
    map_rows,
    mask_absent_classes,
    masked_labels,
    pairwise_cosine,
    present_classes,
)
from ..nn.learner import State
from ..utils._sklearn import Integral, Interval, StrOptions
from ..utils._tags import FewShotTags

# How far apart the contrastive loss wants rows of different classes.
MARGIN = 1.0


class MetaNetLearner(Learner):
    r"""Generate fast weights from loss gradients and read them by attention [1]_.

    Of the representation u and the base learner b, with slow weights Q and W, the loss gradients
    on the support set become fast weights of the task and of each support row:

    .. math::
        Q^* &= d(G, \{\nabla_Q L_c\}_c), \qquad
            L_c = \mathrm{mean}_{i : y_i = c} \mathrm{loss}_{emb}(u(Q, x_i), y_i) \\
        W_i^* &= m(Z, \nabla_W \mathrm{loss}_{task}(b(W, x_i), y_i)), \qquad
            r_i = u(Q, Q^*, x_i)

    A query reads its own fast weights from the memory of all :math:`W_i^*`:

    .. math::
        W^* = \sum_i \mathrm{softmax}_i(\cos(u(Q, Q^*, x), r_i)) \, W_i^*, \qquad
        p(y \mid x) = b(W, W^*, x)

    Parameters
    ----------
    base, embedding : nn.Module
        The slow layers of b and of u below the augmented ones, rows [N, *] to [N, D].
    n_features : int
        D.
    hidden_layer_sizes : tuple of int
        Widths of the augmented layers. The last one of u is r.
    n_outputs : int
        C.
    n_units : int
        Width of d and m.
    contrastive : bool
        Whether the representation loss is contrastive, and not the cross-entropy of a softmax
        layer.

    References
    ----------
    .. [1] Munkhdalai and Yu (2017). "Meta networks." ICML.
    """

    def __init__(
        self,
        base: nn.Module,
        embedding: nn.Module,
        *,
        n_features: int,
        hidden_layer_sizes: tuple[int, ...],
        n_outputs: int,
        n_units: int,
        contrastive: bool,
    ) -> None:
        super().__init__()
        self.base, self.embedding = base, embedding
        sizes = n_features, *hidden_layer_sizes
        rectified = [True] * len(hidden_layer_sizes)
        self.b = DenseStack([*sizes, n_outputs], [*rectified, False])
        self.u = DenseStack(sizes, rectified)
        self.softmax = None if contrastive else nn.Linear(sizes[-1], n_outputs, bias=False)
        if self.softmax is not None:
            uniform_(self.softmax)
        self.d = CoordinateLSTM(n_units)
        self.m = CoordinateMLP(n_units)
        self.n_outputs = n_outputs

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Generate fast weights, and remember those of each row by its representation."""
        y, present = masked_labels(y, mask), present_classes(y, mask)
        h = self.embed(self.embedding, x)
        slow = self.u(h)
        q_star = self.d(self.u.gradients(slow, self._embedding_delta(slow[-1], y)), present)
        # alg. 1, lines 7 to 14: the memory M and its index R.
        activations = self.b(self.embed(self.base, x))
        probabilities = mask_absent_classes(activations[-1], present).softmax(dim=-1)
        w_star = self.m(self.b.gradients(activations, probabilities - y))
        return {"Q*": q_star, "M": w_star, "R": self._represent(h, q_star), "real": y.any(dim=-1)}

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Run the base learner with the fast weights that each query reads."""
        r = self._represent(self.embed(self.embedding, x), state["Q*"])
        attention = pairwise_cosine(r, state["R"])
        attention = attention.masked_fill(~state["real"].unsqueeze(-2), -torch.inf).softmax(dim=-1)
        h = self.embed(self.base, x)
        both = torch.cat([h, attention], dim=-1)

        def classify(rows: Tensor) -> Tensor:
            h, a = rows.split([rows.shape[-1] - state["M"].shape[1], state["M"].shape[1]], dim=-1)
            return self.b(h, a @ state["M"])[-1]

        return map_rows(classify, both, 4 * state["M"][:, 0].numel())

    def _represent(self, h: Tensor, q_star: Tensor) -> Tensor:
        return self.u(h, q_star.unsqueeze(1))[-1]

    def _embedding_delta(self, r: Tensor, y: Tensor) -> Tensor:
        """Return the gradient [T, C, S, n] of each class's mean loss with respect to all r."""
        share = (y / y.sum(dim=1, keepdim=True).clamp_min(1)).transpose(1, 2)  # [T, C, S]
        if self.softmax is None:
            return contrastive_delta(r, y, share)
        logits = mask_absent_classes(self.softmax(r), y.any(dim=1))
        delta = (logits.softmax(dim=-1) - y) @ self.softmax.weight
        return share.unsqueeze(-1) * delta.unsqueeze(1)


def contrastive_delta(r: Tensor, y: Tensor, share: Tensor) -> Tensor:
    r"""Return the gradients of weighted sums of contrastive losses with respect to all rows.

    The loss of a row is the mean over the other rows j of

    .. math::
        \tfrac12 \lVert r_i - r_j \rVert^2 \text{ for the same class,} \qquad
        \tfrac12 (1 - \lVert r_i - r_j \rVert)_+^2 \text{ for another.}

    Parameters
    ----------
    r : Tensor of shape (T, S, n)
    y : Tensor of shape (T, S, C)
        One-hot labels, zero on padding rows.
    share : Tensor of shape (T, C, S)
        The weights of the rows' losses in each of the sums.

    Returns
    -------
    delta : Tensor of shape (T, C, S, n)
    """
    gap = r.unsqueeze(2) - r.unsqueeze(1)
    square = gap.square().sum(dim=-1)
    apart = torch.where(square > 0, square, 1.0).sqrt()
    same = y @ y.transpose(1, 2)
    real = y.sum(dim=-1)
    pair = real.unsqueeze(2) * real.unsqueeze(1)
    pull = same - (pair - same) * (square > 0) * (MARGIN / apart - 1).relu()
    others = (real.sum(dim=1) - 1).clamp_min(1).view(-1, 1, 1)
    # The loss of i moves i, and each j that it looks at.
    weight = (share.unsqueeze(-1) + share.unsqueeze(-2)) * (pull / others).unsqueeze(1)
    return weight.sum(dim=-1, keepdim=True) * r.unsqueeze(1) - weight @ r.unsqueeze(1)


@dataclass(kw_only=True, eq=False, repr=False)
class MetaNetClassifier(FewShotClassifier):
    """Meta network: weights that a network generates from the gradients on the support set [1]_.

    ``meta_fit`` learns two networks, a representation and a base learner, and two small ones that
    turn their loss gradients into *fast weights* beside their own. ``fit`` takes these gradients
    once, stores the fast weights of each support row in a memory, and takes no gradient step;
    each query reads weights of its own from the memory, by the similarity of representations.
    Prefer it where what a task changes is more than a classifier on fixed features, and a few
    gradient steps are too many. It takes as many classes as the largest meta-training task had.
    ``fit`` costs two forward passes, and a small network for every augmented weight and support
    row, whose fast weights all stay in memory.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(64, 64)
        Widths of the layers that are augmented with fast weights, on top of the backbone; the
        softmax layer of the base learner is the last of them.
    n_units : int, default=20
        Width of the two networks that generate weights.
    representation_loss : {"cross_entropy", "contrastive"}, default="cross_entropy"
        Whose gradients make the fast weights of the representation. The paper takes the first
        where tasks have one row a class, the second where they have more.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    See Also
    --------
    MAMLClassifier : Takes gradient steps in place of generating weights.
    MatchingNetClassifier : Reads labels, not weights, by attention.

    Notes
    -----
    Both networks have the backbone's architecture and weights of their own, of which only the
    slow ones stand below the augmented layers. With ``Conv4`` these are the paper's three last
    layers: its fifth convolution sees a map of one pixel, where a convolution is a dense layer.
    The meta-gradient goes through the gradients that are read, second derivatives included.

    Departures from the paper: the network d reads, class by class, the gradient of the mean
    representation loss of the class's rows, in place of the gradients of sampled rows, so that
    ``fit`` is deterministic and takes the support rows in any order; with one row a class and as
    many samples as rows that is the same. The representation loss is a parameter and the same for
    any number of rows, since d can read the gradients only of the loss it was trained with. The
    contrastive loss has the form with a margin, and counts the pairs of a row with all others.
    The augmented layers have no biases. The backbone starts as its layers do by default, the
    rest from the paper's uniform distribution between -0.1 and 0.1, except that the last biases of
    d and m start positive: weights that are all negative are lost in the ReLU.

    References
    ----------
    .. [1] Munkhdalai and Yu (2017). "Meta networks." ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, MetaNetClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=3, n_shot=1, n_query=2, random_state=0)
    >>> clf = MetaNetClassifier(hidden_layer_sizes=(16,), max_iter=20, random_state=0)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.meta_fit(tasks).fit(X_support, y_support).predict_proba(X_query).shape
    (6, 3)
    """

    hidden_layer_sizes: tuple[int, ...] = (64, 64)
    n_units: int = 20
    representation_loss: str = "cross_entropy"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotClassifier._parameter_constraints,
        "hidden_layer_sizes": [tuple, list],
        "n_units": [Interval(Integral, 1, None, closed="left")],
        "representation_loss": [StrOptions({"cross_entropy", "contrastive"})],
    }

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(permutes_classes=False)

    def _make_learner(self, spec: TaskSpec) -> MetaNetLearner:
        if len(self.hidden_layer_sizes) == 0:
            raise ValueError(
                "hidden_layer_sizes must have at least one width, that of the representation, got "
                "(); for example (64,)."
            )
        base, embedding = (self._build_backbone(spec.input_shape) for _ in range(2))
        return MetaNetLearner(
            base,
            embedding,
            n_features=embedding_size(base, spec.input_shape),
            hidden_layer_sizes=tuple(self.hidden_layer_sizes),
            n_outputs=spec.n_outputs,
            n_units=self.n_units,
            contrastive=self.representation_loss == "contrastive",
        )
