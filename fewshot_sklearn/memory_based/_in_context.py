"""In-context learning of tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import FewShotClassifier, FewShotEstimator, ProbabilisticFewShotRegressor, TaskSpec
from ..nn import Learner, TableBlock, alike_tables, describe_columns, place_cells
from ..nn.functional import class_logsumexp, gaussian_nll, map_rows, masked_labels
from ..nn.learner import Loss, State
from ..nn.table_attention import padding_bias
from ..utils._sklearn import Integral, Interval
from ..utils._tags import FewShotTags

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch

# Tables that are read together in training: few, as their sizes differ.
_TABLES_AT_ONCE = 4
_MEMORIES = ("column_keys", "column_values", "row_keys", "row_values")
# In standard deviations of the support's targets.
_SMALLEST_STD = 1e-3


class InContextLearner(Learner):
    """A transformer that reads a table of labelled rows, and queries beside it [1]_ [2]_.

    The support rows attend to each other, queries to the support rows alone. The state is every
    layer's keys and values of the support rows, so that a query costs what it costs by itself.

    Parameters
    ----------
    size : int
        D, width of a cell.
    n_layers : int
        Blocks.
    n_heads : int
        Heads of each attention.
    loss : callable, optional
        As in :class:`Learner`.

    References
    ----------
    .. [1] Müller et al. (2022). "Transformers can do Bayesian inference." ICLR.
    .. [2] Hollmann et al. (2025). "Accurate predictions on small data with a tabular foundation
       model." Nature.
    """

    def __init__(self, size: int, n_layers: int, n_heads: int, **loss: Loss) -> None:
        super().__init__(**loss)
        self.cell = nn.Sequential(nn.Linear(2, size), nn.GELU(), nn.Linear(size, size))
        self.row = nn.Linear(3, size)
        self.role = nn.Parameter(0.1 * torch.randn(2, size))
        self.blocks = nn.ModuleList(TableBlock(size, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(size)
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size, size, bias=False)
        # At first rows that look alike have the same label.
        self.key.weight.data.copy_(self.query.weight.data)

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return the mean query loss; tables of like size are read together."""
        parts = list(alike_tables(batch, _TABLES_AT_ONCE))
        losses = [super(InContextLearner, self).meta_loss(part) * len(part) for part in parts]
        return torch.stack(losses).sum() / len(batch)

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Predict query rows, so many at a time that their cells stay within bounds."""
        x = x.flatten(2)
        n_numbers = x.shape[0] * (x.shape[2] + 1) * 2 * self.role.shape[1]
        return map_rows(lambda rows: self._answer(state, rows), x, n_numbers * x.element_size())

    def _answer(self, state: State, x: Tensor) -> Tensor:
        """Return the outputs of some query rows."""
        raise NotImplementedError

    def _read_support(
        self, x: Tensor, mask: Tensor | None, relation: Tensor, extra: Tensor, n_classes: Tensor
    ) -> State:
        """Return the state of support rows, to whose first cells ``extra`` [T, S, D] is added."""
        x = x.flatten(2)
        state = describe_columns(x, mask)
        sizes = [1 + state["varies"].sum(dim=1), state["n_rows"], n_classes]
        state["sizes"] = torch.stack([size.to(x.dtype).log() for size in sizes], dim=-1)
        state["real"] = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        h, present = self._start(x, state, 0)
        h, padding = h + extra.unsqueeze(1), padding_bias(mask, x)
        for i, block in enumerate(self.blocks):
            h, memories = block(h, present, padding, None, relation)
            tensors = [tensor for memory in memories for tensor in memory]
            state |= {f"{name}_{i}": t for name, t in zip(_MEMORIES, tensors, strict=True)}
        return state | {"keys": self._flat(self.key(self.norm(h)))}

    def _read_queries(self, x: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Return the cells of query rows [T, J, Q, D], and their scores of support rows."""
        h, present = self._start(x.flatten(2), state, 1)
        padding = padding_bias(state["real"], x)
        for i, block in enumerate(self.blocks):
            ck, cv, rk, rv = (state[f"{name}_{i}"] for name in _MEMORIES)
            h, _ = block(h, present, padding, ((ck, cv), (rk, rv)))
        h = self.norm(h)
        counted = present.to(h.dtype)
        scale = (h.shape[-1] * counted.sum(dim=1, keepdim=True)).rsqrt() * counted
        scores = self._flat(self.query(h) * scale[..., None, None]) @ state["keys"].mT
        return h, scores

    def _start(self, x: Tensor, state: State, role: int) -> tuple[Tensor, Tensor]:
        """Return the cells [T, J, N, D] before any attention, and the columns that count."""
        cells = self.cell(place_cells(x, state))
        token = self.row(state["sizes"])[:, None, None].expand(-1, 1, x.shape[1], -1)
        present = F.pad(state["varies"], (1, 0), value=True)
        return torch.cat([token, cells], dim=1) + self.role[role], present

    def _flat(self, z: Tensor) -> Tensor:
        """Return cells [T, J, N, D] as rows [T, N, J D]."""
        return z.transpose(1, 2).flatten(2)


class InContextClassifierLearner(InContextLearner):
    r"""Support rows vote for their classes.

    .. math:: p(y = k \mid x, S) \propto \sum_i y_{ik}
        \exp\Bigl(\sum_j \frac{q_j(x)^\top k_{ij}}{\sqrt{J D}}\Bigr)

    The labels enter only by whether two support rows have the same, so that permuted classes
    permute the probabilities, and there may be any number of them.
    """

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Read the support rows."""
        y = masked_labels(y, mask)
        n_classes = y.any(dim=1).sum(dim=1)
        extra = x.new_zeros(*x.shape[:2], 1)
        return self._read_support(x, mask, y @ y.mT, extra, n_classes) | {"y": y}

    def _answer(self, state: State, x: Tensor) -> Tensor:
        """Return the logarithm of each class's votes."""
        return class_logsumexp(self._read_queries(x, state)[1], state["y"])


class InContextRegressorLearner(InContextLearner):
    r"""Support rows vote with their targets, and the token of the query corrects the mean.

    .. math:: \mu(x) = \sum_i a_i(x) \, y_i + w^\top h_0(x), \qquad
        \sigma(x) = \mathrm{softplus}(u^\top h_0(x)), \qquad
        a_i(x) \propto \exp\Bigl(\sum_j \frac{q_j(x)^\top k_{ij}}{\sqrt{J D}}\Bigr)

    in units of the support's targets. Every cell of a support row knows its target. Several targets
    are as many tasks.

    Parameters
    ----------
    size, n_layers, n_heads : as in :class:`InContextLearner`
    """

    def __init__(self, size: int, n_layers: int, n_heads: int) -> None:
        super().__init__(size, n_layers, n_heads, loss=gaussian_nll)
        self.target = nn.Linear(1, size, bias=False)
        self.head = nn.Linear(size, 2)

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Read the support rows, once for each target."""
        n_tasks, n_rows, n_targets = y.shape
        y = y.mT.reshape(-1, n_rows, 1)
        x = x.repeat_interleave(n_targets, dim=0)
        mask = None if mask is None else mask.repeat_interleave(n_targets, dim=0)
        of_y = describe_columns(y, mask)
        centre, scale = (of_y[name].unsqueeze(1) for name in ("centre", "scale"))
        y = masked_labels((y - centre) / scale, mask)
        likeness = (-0.5 * (y - y.mT).square()).exp()
        n_classes = of_y["n_rows"].new_ones(len(y))
        state = self._read_support(x, mask, likeness, self.target(y), n_classes)
        state |= {"y": y, "centre_y": centre, "scale_y": scale}
        return {name: part.unflatten(0, (n_tasks, n_targets)) for name, part in state.items()}

    def _answer(self, state: State, x: Tensor) -> Tensor:
        """Return the mean and the standard deviation of new targets."""
        n_tasks, n_targets = state["y"].shape[:2]
        state = {name: part.flatten(0, 1) for name, part in state.items()}
        h, scores = self._read_queries(x.repeat_interleave(n_targets, dim=0), state)
        scores = scores.masked_fill(~state["real"].unsqueeze(1), torch.finfo(scores.dtype).min / 2)
        shift, spread = self.head(h[:, 0]).split(1, dim=-1)
        mean = scores.softmax(dim=-1) @ state["y"] + shift
        std = F.softplus(spread) + _SMALLEST_STD
        scale = state["scale_y"]
        parts = (state["centre_y"] + scale * mean, scale * std)
        mean, std = (part.squeeze(-1).unflatten(0, (n_tasks, n_targets)).mT for part in parts)
        return torch.cat([mean, std], dim=-1)


@dataclass(kw_only=True, eq=False, repr=False)
class _InContextEstimator(FewShotEstimator):
    """What the classifier and the regressor share."""

    embedding_size: int = 32
    n_layers: int = 2
    n_heads: int = 2
    meta_learning_rate: float = 3e-3
    schedule: str = "one_cycle"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotEstimator._parameter_constraints,
        "backbone": [None],
        "embedding_size": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
        "n_heads": [Interval(Integral, 1, None, closed="left")],
    }

    def _sizes(self) -> tuple[int, int, int]:
        if self.embedding_size % self.n_heads:
            raise ValueError(
                f"n_heads must divide embedding_size={self.embedding_size}, got "
                f"n_heads={self.n_heads}; each head is a part of a cell's embedding."
            )
        return self.embedding_size, self.n_layers, self.n_heads


@dataclass(kw_only=True, eq=False, repr=False)
class InContextClassifier(FewShotClassifier, _InContextEstimator):
    """A transformer that reads labelled rows and new ones in one pass, of any table [1]_ [2]_.

    ``meta_fit`` learns how tables tend to be learned; ``fit`` reads the support rows and changes
    no weight. Every cell of a table is a token, so a task may have any number of features, which
    need not be those of ``meta_fit``, and any number of classes. Prefer it for small tables of
    unlike features, also where there are no old tasks, since
    :func:`~fewshot_sklearn.datasets.make_prior_tasks` generates some. ``fit`` costs time quadratic
    in the support rows and linear in the features.

    Parameters
    ----------
    embedding_size : int, default=32
        Width of the embedding of a cell.
    n_layers : int, default=2
        Blocks of attention within columns, within rows and between rows.
    n_heads : int, default=2
        Heads of each attention, which divide ``embedding_size``.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    See Also
    --------
    InContextRegressor : The same for real targets.

    Notes
    -----
    The order of rows, of features and of classes means nothing, exactly, and units mean nothing: a
    cell is its standard score and its rank among the support rows. There is no ``backbone``.

    Departures from the papers: labels enter by whether two support rows have the same, and
    queries are answered by the votes of support rows, where the papers embed labels and have an
    output of ten classes at most; columns have no marks, so that columns with the same values are
    alike; attention between rows is tied over columns. The papers train for days on GPUs, on
    richer priors.

    References
    ----------
    .. [1] Müller et al. (2022). "Transformers can do Bayesian inference." ICLR.
    .. [2] Hollmann et al. (2025). "Accurate predictions on small data with a tabular foundation
       model." Nature.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fewshot_sklearn import InContextClassifier
    >>> from fewshot_sklearn.datasets import make_prior_tasks
    >>> tasks = make_prior_tasks(1000, n_features=3, n_classes=2, random_state=0)
    >>> clf = InContextClassifier(n_layers=1, max_iter=20, random_state=0).meta_fit(tasks)
    >>> X, y = load_iris(return_X_y=True)
    >>> clf.fit(X[::5], y[::5]).score(X, y) > 0.8
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotClassifier._parameter_constraints,
        **_InContextEstimator._parameter_constraints,
    }

    def _make_learner(self, spec: TaskSpec) -> InContextClassifierLearner:
        return InContextClassifierLearner(*self._sizes())

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(any_features=True)


@dataclass(kw_only=True, eq=False, repr=False)
class InContextRegressor(ProbabilisticFewShotRegressor, _InContextEstimator):
    """A transformer that reads rows with their targets and new rows in one pass, of any table.

    As :class:`InContextClassifier`, for real targets [1]_ [2]_: ``fit`` changes no weight, a task
    may have any number of features, and ``predict`` has ``return_std``. Several targets are as many
    tasks.

    Parameters
    ----------
    embedding_size : int, default=32
        Width of the embedding of a cell.
    n_layers : int, default=2
        Blocks of attention within columns, within rows and between rows.
    n_heads : int, default=2
        Heads of each attention, which divide ``embedding_size``.
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    See Also
    --------
    InContextClassifier : The same for classes.

    Notes
    -----
    Targets are standardised by the support rows of their task. Departures from the papers: the
    prediction is a normal distribution, whose mean is a vote of support rows and a correction,
    where the papers have a histogram; the others are those of :class:`InContextClassifier`.

    References
    ----------
    .. [1] Müller et al. (2022). "Transformers can do Bayesian inference." ICLR.
    .. [2] Hollmann et al. (2025). "Accurate predictions on small data with a tabular foundation
       model." Nature.

    Examples
    --------
    >>> from fewshot_sklearn import InContextRegressor
    >>> from fewshot_sklearn.datasets import make_prior_tasks
    >>> tasks = make_prior_tasks(1000, kind="regression", random_state=0)
    >>> reg = InContextRegressor(n_layers=1, max_iter=20, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, _ = tasks[0]
    >>> mean, std = reg.fit(X_support, y_support).predict(X_query, return_std=True)
    >>> mean.shape, bool((std > 0).all())
    ((16,), True)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ProbabilisticFewShotRegressor._parameter_constraints,
        **_InContextEstimator._parameter_constraints,
    }

    def _make_learner(self, spec: TaskSpec) -> InContextRegressorLearner:
        return InContextRegressorLearner(*self._sizes())

    def __fewshot_tags__(self) -> FewShotTags:
        return FewShotTags(spread=True, any_features=True)
