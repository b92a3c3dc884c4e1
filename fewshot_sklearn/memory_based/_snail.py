"""The simple neural attentive meta-learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._incremental import IncrementalClassifier
from ..base import TaskSpec
from ..nn import AttentionBlock, DenseBlock, IncrementalSequentialLearner, embedding_size
from ..nn.functional import map_rows
from ..nn.learner import State
from ..utils._sklearn import Integral, Interval
from ._shared import SequentialEstimator


class SNAILLearner(IncrementalSequentialLearner):
    r"""Causal convolutions and attention over the support rows and a query [1]_.

    The sequence is :math:`[f(x_i), y_i]`, the embedding and the one-hot label of each support row,
    then the query, whose label is zero. It runs through

    .. math::
        \mathrm{Attention}(K_1, V_1), \mathrm{TC}(T, F), \mathrm{Attention}(K_2, V_2), \dots,
        \mathrm{TC}(T, F), \mathrm{Attention}(K_n, V_n), \mathrm{linear}

    where a temporal convolution :math:`\mathrm{TC}(T, F)` is :math:`\lceil \log_2 T \rceil` dense
    blocks of F filters with dilations 1, 2, 4, ... What comes out at the query is the answer.

    Parameters
    ----------
    backbone : nn.Module
        f, rows [N, *] to embeddings [N, D].
    n_features : int
        D.
    n_classes : int
        C.
    sizes : sequence of (int, int)
        :math:`K_i, V_i`, the widths of a key and a value of each attention block.
    n_filters : int
        F.
    sequence_length : int
        T, over how many rows, the query included, the convolutions look back.
    n_orders : int, default=1
        As in :class:`~fewshot_sklearn.nn.SequentialLearner`.

    References
    ----------
    .. [1] Mishra et al. (2018). "A simple neural attentive meta-learner." ICLR.
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_classes: int,
        *,
        sizes: Sequence[tuple[int, int]],
        n_filters: int,
        sequence_length: int,
        n_orders: int = 1,
    ) -> None:
        super().__init__(n_orders=n_orders)
        self.backbone = backbone
        self.n_outputs = n_classes
        n_dilations = (sequence_length - 1).bit_length()
        width = n_features + n_classes
        blocks: list[Any] = []
        for i, (key_size, value_size) in enumerate(sizes):
            for j in range(n_dilations if i else 0):
                blocks.append(DenseBlock(width, n_filters, 2**j))
                width = blocks[-1].n_outputs
            blocks.append(AttentionBlock(width, key_size, value_size))
            width = blocks[-1].n_outputs
        self.blocks: Any = nn.ModuleList(blocks)
        self.output = nn.Linear(width, n_classes)

    def read(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Read the support rows from the beginning."""
        z = self.embed(self.backbone, x)
        state = {"seen": y.new_zeros(len(y), 0, dtype=torch.bool)}
        for i, block in enumerate(self.blocks):
            state |= _numbered(i, block.start(z))
        return self._read_embedded(state, z, y, mask)

    def read_on(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Read on from where the state stands in the sequence."""
        return self._read_embedded(state, self.embed(self.backbone, x), y, mask)

    def _read_embedded(self, state: State, z: Tensor, y: Tensor, mask: Tensor | None) -> State:
        real = y.new_ones(y.shape[:2], dtype=torch.bool) if mask is None else mask
        # Real rows first, in their order: what follows them does not reach them.
        order = (~real).byte().argsort(dim=1, stable=True).unsqueeze(-1)
        h = torch.cat([z, y], dim=-1).take_along_dim(order, dim=1)
        real = real.take_along_dim(order.squeeze(-1), dim=1)
        n_new, seen = real.sum(dim=1), state["seen"]
        state = dict(state, seen=torch.cat([seen, real], dim=1))
        *blocks, last = self.blocks
        for i, block in enumerate(blocks):
            h, past = block.read(h, _past(state, i), seen, n_new)
            state |= _numbered(i, past)
        i = len(blocks)
        return state | _numbered(i, last.keep(h, _past(state, i)))

    def answer(self, state: State, x: Tensor) -> Tensor:
        """Run each query row as the next one of the sequence."""
        z = self.embed(self.backbone, x)
        width = max(self.output.in_features, state["seen"].shape[1])
        bytes_per_row = len(z) * width * z.element_size()
        return map_rows(lambda rows: self._next(state, rows), z, bytes_per_row)

    def _next(self, state: State, z: Tensor) -> Tensor:
        h = torch.cat([z, z.new_zeros(*z.shape[:2], self.output.out_features)], dim=-1)
        for i, block in enumerate(self.blocks):
            h = block.answer(h, _past(state, i), state["seen"])
        return self.output(h)


def _numbered(i: int, past: State) -> State:
    """Return the past of block i as it stands in the state."""
    return {f"{i}_{name}": value for name, value in past.items()}


def _past(state: State, i: int) -> State:
    """Return what the state holds of block i."""
    return {k.partition("_")[2]: v for k, v in state.items() if k.startswith(f"{i}_")}


@dataclass(kw_only=True, eq=False, repr=False)
class SNAILClassifier(IncrementalClassifier, SequentialEstimator):
    """Simple neural attentive meta-learner: causal convolutions and attention over a task [1]_.

    ``meta_fit`` learns a network that reads the support rows with their labels as one sequence, of
    which a query is the next element; ``fit`` runs the sequence once and keeps what a query looks
    back at, and changes no weight. Prefer it where rows arrive one by one, or where many
    meta-training tasks are at hand and how to learn from a support set should itself be learned.
    It takes as many classes as the largest meta-training task had. ``predict`` costs one pass of
    the query rows; ``fit`` runs all support rows at once, and its memory grows with the square of
    their number.

    Parameters
    ----------
    attention_sizes : tuple of (int, int), default=((64, 32), (256, 128), (512, 256))
        The widths of a key and of a value of each attention block. There is a temporal convolution
        between each two of them.
    n_filters : int, default=128
        Filters of each dense block, of which the temporal convolutions consist.
    sequence_length : int, default=None
        The number of rows, the query included, over which temporal convolutions look back; their
        dilations are the powers of two below it. None: as many as the largest meta-training task
        has support rows, and the query. Longer sequences are read as well, by the attention.
    %(sequential_parameters)s
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    See Also
    --------
    MANNClassifier : Reads the rows one by one into a memory.

    Notes
    -----
    The loss is that of the query alone, as in the paper, and ``partial_fit`` reads on exactly.

    Departures from the paper: the dilations are 1, 2, 4, ..., while the paper's pseudocode begins
    at 2, with which no row would see the one before it; keys have no shift, which would cancel in
    the softmax; the backbone normalises each row by itself where the paper's uses batch
    normalisation, and has no linear layer behind it unless it is given one.

    References
    ----------
    .. [1] Mishra et al. (2018). "A simple neural attentive meta-learner." ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, SNAILClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=3, n_shot=2, n_query=2, random_state=0)
    >>> clf = SNAILClassifier(n_filters=16, max_iter=100, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.6
    True
    """

    attention_sizes: tuple[tuple[int, int], ...] = ((64, 32), (256, 128), (512, 256))
    n_filters: int = 128
    sequence_length: int | None = None

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **IncrementalClassifier._parameter_constraints,
        **SequentialEstimator._parameter_constraints,
        "attention_sizes": [tuple, list],
        "n_filters": [Interval(Integral, 1, None, closed="left")],
        "sequence_length": [Interval(Integral, 2, None, closed="left"), None],
    }

    def _make_learner(self, spec: TaskSpec) -> SNAILLearner:
        _check_sizes(self.attention_sizes)
        backbone = self._build_backbone(spec.input_shape)
        return SNAILLearner(
            backbone,
            embedding_size(backbone, spec.input_shape),
            spec.n_outputs,
            sizes=self.attention_sizes,
            n_filters=self.n_filters,
            sequence_length=self.sequence_length or spec.n_support + 1,
            n_orders=self.n_orders,
        )


def _check_sizes(sizes: Sequence[tuple[int, int]]) -> None:
    """Raise a ValueError unless the sizes are pairs of positive integers."""
    pairs = [pair for pair in sizes if isinstance(pair, (tuple, list)) and len(pair) == 2]
    numbers = [size for pair in pairs for size in pair]
    if not pairs or len(pairs) < len(sizes) or not all(_is_count(size) for size in numbers):
        raise ValueError(
            "attention_sizes must hold a pair (key size, value size) of positive integers for each "
            f"attention block, at least one, got {sizes!r}; ((64, 32), (256, 128)) is an example."
        )


def _is_count(size: Any) -> bool:
    return isinstance(size, Integral) and not isinstance(size, bool) and int(size) > 0
