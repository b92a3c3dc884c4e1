"""A memory of rare events: keys that are read by nearest neighbour and written by age."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._incremental import IncrementalClassifier
from ..base import TaskSpec
from ..nn import IncrementalSequentialLearner, embedding_size
from ..nn.functional import class_logsumexp, join_masks, task_mean
from ..nn.learner import State
from ..utils._sklearn import Integral, Interval, Real
from ..utils._tags import FewShotTags
from ._shared import SequentialEstimator

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch

# The value of a slot that holds no key, and what such a slot is.
EMPTY = -1
OLDER_THAN_ALL = 2**62


class MemoryModuleLearner(IncrementalSequentialLearner):
    r"""Ask a memory of keys, values and ages, and write to it, row by row [1]_.

    A query :math:`q`, of length one as the keys are, is answered by its nearest keys, with the
    confidences :math:`\mathrm{softmax}_i(q \cdot K[n_i] / \tau)` in their values. A row with the
    value :math:`v` is then written:

    .. math::
        V[n_1] = v &: \quad K[n_1] \leftarrow \frac{q + K[n_1]}{\lVert q + K[n_1] \rVert}, \quad
            A[n_1] \leftarrow 0 \\
        \text{otherwise} &: \quad n' = \arg\max_i A[i], \quad
            K[n'] \leftarrow q, \quad V[n'] \leftarrow v, \quad A[n'] \leftarrow 0

    and all other ages grow by one. A slot that was never written is older than any other.

    Parameters
    ----------
    backbone : nn.Module
        Rows [N, *] to embeddings [N, D].
    n_features : int
        D.
    key_size : int
        Width of a key.
    n_slots : int or None
        M; None: one for each row that was read.
    n_neighbors : int
        k, the nearest keys that answer.
    temperature : float
        tau; the paper writes t for its inverse.
    margin : float
        alpha of the memory loss.
    n_orders : int
        As in :class:`SequentialLearner`.

    References
    ----------
    .. [1] Kaiser et al. (2017). "Learning to remember rare events." ICLR.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        n_features: int,
        key_size: int,
        n_slots: int | None,
        n_neighbors: int,
        temperature: float,
        margin: float,
        n_orders: int,
    ) -> None:
        super().__init__(n_orders=n_orders)
        self.backbone = backbone
        self.key = nn.Linear(n_features, key_size, bias=False)
        self.n_slots = n_slots
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.margin = margin

    def query(self, x: Tensor) -> Tensor:
        """Return q, of length one, of every row: [T, N, *] -> [T, N, key_size]."""
        return unit(self.key(self.embed(self.backbone, x)).to(x.dtype))

    def read(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Write the support rows to an empty memory."""
        q = self.query(x)
        return self._write_all(self._with_room(None, q, y), q, y, mask)

    def read_on(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Write more support rows."""
        q = self.query(x)
        return self._write_all(self._with_room(state, q, y), q, y, mask)

    def _with_room(self, memory: State | None, q: Tensor, y: Tensor) -> State:
        """Return a copy of a memory, with slots for more rows and columns for more classes."""
        memory = empty_memory(q, y, 0) if memory is None else memory
        n_slots, n_classes = memory["keys"].shape[1], memory["classes"].shape[1]
        more = empty_memory(q, y, q.shape[1] if self.n_slots is None else self.n_slots - n_slots)
        more["classes"] = more["classes"][:, n_classes:]
        return {name: torch.cat([memory[name], more[name]], dim=1) for name in more}

    def _write_all(self, memory: State, q: Tensor, y: Tensor, mask: Tensor | None) -> State:
        for row in in_turn(q.detach(), y, mask):
            write(memory, *row)
        return memory

    def answer(self, state: State, x: Tensor) -> Tensor:
        """Return the logarithm of the confidence that the nearest keys have in each class."""
        similarity = similarities(state, self.query(x))
        n_slots, k = similarity.shape[-1], self.n_neighbors
        values = F.one_hot(state["values"] + 1, state["classes"].shape[-1] + 1)[..., 1:]
        scores = similarity / self.temperature
        if k < n_slots:
            far = similarity < similarity.topk(k, dim=-1).values[..., -1:]
            scores = scores.masked_fill(far, torch.finfo(scores.dtype).min / 2)
        return class_logsumexp(scores, values.to(scores.dtype))

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        r"""Return the mean memory loss of the support rows, as each is read, and the queries.

        .. math:: \bigl[q \cdot K[n_b] - q \cdot K[n_p] + \alpha\bigr]_+

        with the nearest key :math:`n_p` that has the row's value and the nearest :math:`n_b` that
        has another; where there is none, the zeros of an empty slot. Keys are constants.
        """
        rows = batch.x_support, batch.x_query
        q, q_query = (self.query(x) for x in rows)
        memory, seen = self._with_room(None, q.detach(), batch.y_support), []
        for row in in_turn(q.detach(), batch.y_support, batch.support_mask):
            seen.append(neighbours(memory, *row[:2]))
            write(memory, *row)
        seen.append(neighbours(memory, q_query.detach(), batch.y_query.argmax(dim=-1)))
        positive, negative = (torch.cat(keys, dim=1) for keys in zip(*seen, strict=True))
        gap = (torch.cat([q, q_query], dim=1) * (negative - positive)).sum(dim=-1)
        mask = join_masks((batch.support_mask, batch.query_mask), rows)
        return task_mean((gap + self.margin).relu(), mask).mean()


def unit(x: Tensor) -> Tensor:
    """Return vectors of length one; zero stays zero."""
    # A floor would make the gradient at a zero row huge.
    length = x.norm(dim=-1, keepdim=True)
    return x / torch.where(length > 0, length, 1.0)


def in_turn(
    q: Tensor, y: Tensor, mask: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield the query [T, 1, W], value [T, 1] and, if there is padding, mask [T, 1] of each row."""
    values = y.argmax(dim=-1)
    for t in range(q.shape[1]):
        row = slice(t, t + 1)
        yield q[:, row], values[:, row], None if mask is None else mask[:, row]


def empty_memory(q: Tensor, y: Tensor, n_slots: int) -> State:
    """Return slots without keys, for keys like q's [T, N, W] and classes like y's [T, N, C]."""
    slots = len(q), n_slots
    return {
        "keys": q.new_zeros(*slots, q.shape[-1]),
        "values": q.new_full(slots, EMPTY, dtype=torch.long),
        "ages": q.new_zeros(slots, dtype=torch.long),
        "classes": y.new_zeros(len(y), y.shape[-1], dtype=torch.bool),
    }


def similarities(memory: State, q: Tensor) -> Tensor:
    """Return the cosines [T, N, M] of queries [T, N, W] with the keys; -2 for an empty slot."""
    cosines = q @ memory["keys"].transpose(-1, -2)
    return cosines.masked_fill((memory["values"] == EMPTY).unsqueeze(-2), -2.0)


def neighbours(memory: State, q: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest key with the value of a row, and the nearest with another.

    Parameters
    ----------
    memory : dict of Tensor
    q : Tensor of shape (T, N, W)
    values : int Tensor of shape (T, N)

    Returns
    -------
    positive, negative : Tensor of shape (T, N, W)
        Zero where there is none.
    """
    cosines = similarities(memory, q)
    right = memory["values"].unsqueeze(-2) == values.unsqueeze(-1)

    def nearest(among: Tensor) -> Tensor:
        best, at = cosines.masked_fill(~among, -2.0).max(dim=-1, keepdim=True)
        return torch.where(best > -2.0, memory["keys"].take_along_dim(at, dim=1), 0.0)

    return nearest(right), nearest(~right)


def write(memory: State, q: Tensor, value: Tensor, real: Tensor | None) -> None:
    """Write one row of each task to its memory, in place.

    Parameters
    ----------
    memory : dict of Tensor
    q : Tensor of shape (T, 1, W)
    value : int Tensor of shape (T, 1)
    real : bool Tensor of shape (T, 1) or None
        False where the row is padding.
    """
    keys, values, ages = memory["keys"], memory["values"], memory["ages"]
    nearest = similarities(memory, q).argmax(dim=-1)
    right = values.gather(1, nearest) == value
    oldest = ages.masked_fill(values == EMPTY, OLDER_THAN_ALL).argmax(dim=-1, keepdim=True)
    slot = torch.where(right, nearest, oldest)
    before = keys.take_along_dim(slot.unsqueeze(-1), dim=1)
    key = torch.where(right.unsqueeze(-1), unit(q + before), q)
    age, young = ages + 1, torch.zeros_like(slot)
    if real is not None:
        key = torch.where(real.unsqueeze(-1), key, before)
        value = torch.where(real, value, values.gather(1, slot))
        age, young = torch.where(real, age, ages), torch.where(real, young, ages.gather(1, slot))
    keys.scatter_(1, slot.unsqueeze(-1).expand_as(key), key)
    values.scatter_(1, slot, value)
    ages.copy_(age).scatter_(1, slot, young)


@dataclass(kw_only=True, eq=False, repr=False)
class MemoryModuleClassifier(IncrementalClassifier, SequentialEstimator):
    """Memory module: nearest neighbours among keys that a memory of bounded size keeps [1]_.

    ``meta_fit`` learns an embedding in which rows of a class are nearest to each other. ``fit``
    writes the support rows to an empty memory, in their order: a row that its nearest key answers
    rightly is merged into that key, any other takes the oldest slot. It changes no weight. Prefer
    it where rows arrive one by one, in any number and of ever new classes, and memory must not
    grow with them (``n_slots``). It costs one pass through the backbone and a comparison of every
    row with all keys, one row after the other.

    Parameters
    ----------
    n_slots : int or None, default=None
        Slots of the memory. None: as many as rows have been read, so that nothing is overwritten.
    key_size : int, default=128
        Width of a key.
    n_neighbors : int, default=256
        How many keys, the nearest, answer a query. With 1 the value of the nearest key is certain.
        An adaptation parameter.
    temperature : float, default=0.025
        Divides the cosine similarities before the softmax. An adaptation parameter.
    margin : float, default=0.1
        By how much the loss wants the nearest key of a row's class to be nearer than all others.
    %(sequential_parameters)s
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    See Also
    --------
    MatchingNetClassifier : Keeps every row, and does not depend on their order.

    Notes
    -----
    A memory is empty when a task begins, in meta-training too. The paper's memory lives on through
    training for its large tasks; on Omniglot the authors' program empties it for every episode.

    Departures from the paper: among slots of the same age the first is taken, where the paper adds
    noise to ages so that parallel workers choose different ones. The probability of a class is
    the sum of the confidences of its keys among the nearest, so that the prediction is the
    heaviest class and not always the value of the nearest key; ``n_neighbors=1`` answers with
    that. Query rows are asked after the whole support set and never written. A row whose value no
    key has is compared with the zeros of an empty slot, as in the authors' program, from which
    the linear map to the keys is too.

    References
    ----------
    .. [1] Kaiser et al. (2017). "Learning to remember rare events." ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, MemoryModuleClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = MemoryModuleClassifier(max_iter=50, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.6
    True
    """

    n_slots: int | None = None
    key_size: int = 128
    n_neighbors: int = 256
    temperature: float = 0.025
    margin: float = 0.1

    _adaptation_parameters: ClassVar[frozenset[str]] = (
        SequentialEstimator._adaptation_parameters | {"n_neighbors", "temperature"}
    )
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **IncrementalClassifier._parameter_constraints,
        **SequentialEstimator._parameter_constraints,
        "n_slots": [Interval(Integral, 1, None, closed="left"), None],
        "key_size": [Interval(Integral, 1, None, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "margin": [Interval(Real, 0, None, closed="left")],
    }

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(order_dependent=True)

    def _make_learner(self, spec: TaskSpec) -> MemoryModuleLearner:
        backbone = self._build_backbone(spec.input_shape)
        return MemoryModuleLearner(
            backbone,
            n_features=embedding_size(backbone, spec.input_shape),
            key_size=self.key_size,
            n_slots=self.n_slots,
            n_neighbors=self.n_neighbors,
            temperature=self.temperature,
            margin=self.margin,
            n_orders=self.n_orders,
        )
