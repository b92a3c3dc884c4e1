"""Differentiable neural computers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..nn import DNCCell
from ._shared import MemoryCellEstimator, RecurrentClassifier


@dataclass(kw_only=True, eq=False, repr=False)
class DNCClassifier(MemoryCellEstimator, RecurrentClassifier):
    """Differentiable neural computer: a memory that is allocated, freed and read in order [1]_.

    ``meta_fit`` learns what to write, what to free, and whether to read by content or in the
    order of writing; ``fit`` reads the support rows in their order, each label one step after
    its row, and changes no weight. Prefer it where what came next to each other belongs together;
    :class:`MANNClassifier` is cheaper. It takes as many classes as the largest meta-training
    task had. Its cost grows with the number of support rows and the square of ``n_slots``.

    Parameters
    ----------
    %(memory_cell_parameters)s
    n_read_heads : int, default=4
        Places read at every step.
    %(sequential_parameters)s
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    There is one write head, as in the paper. Allocation counts a slot as used by at least one in
    a million, so that its products have gradients, as in the authors' code.

    Departures from the paper, whose tasks are sequences and not sets of rows: as in
    :class:`MANNClassifier` a row comes with the label of the row before, a query is answered from
    the state after the whole support set, and the loss counts every presentation. The controller
    is one layer. Adam with a one-cycle schedule trains it, where the paper has RMSProp.

    References
    ----------
    .. [1] Graves et al. (2016). "Hybrid computing using a neural network with dynamic external
       memory." Nature.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import DNCClassifier, EpisodicTasks
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=3, n_shot=2, n_query=2, random_state=0)
    >>> clf = DNCClassifier(max_iter=20, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).predict_proba(X_query).shape
    (6, 3)
    """

    n_slots: int = 64
    n_read_heads: int = 4

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **RecurrentClassifier._parameter_constraints,
        **MemoryCellEstimator._parameter_constraints,
    }

    def _make_cell(self, n_inputs: int) -> DNCCell:
        return DNCCell(n_inputs, **self._sizes())
