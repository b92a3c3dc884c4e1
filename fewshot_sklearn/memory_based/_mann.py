"""Memory-augmented neural networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..nn import LRUMemoryCell
from ..utils._sklearn import Interval, Real
from ._shared import MemoryCellEstimator, ProbabilisticRecurrentRegressor, RecurrentClassifier


@dataclass(kw_only=True, eq=False, repr=False)
class _MANNEstimator(MemoryCellEstimator):
    """What classifier and regressor share."""

    n_hidden: int = 200
    slot_size: int = 40
    n_read_heads: int = 4
    usage_decay: float = 0.99

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **MemoryCellEstimator._parameter_constraints,
        "usage_decay": [Interval(Real, 0, 1, closed="both")],
    }

    def _make_cell(self, n_inputs: int) -> LRUMemoryCell:
        return LRUMemoryCell(n_inputs, usage_decay=self.usage_decay, **self._sizes())


@dataclass(kw_only=True, eq=False, repr=False)
class MANNClassifier(_MANNEstimator, RecurrentClassifier):
    """Memory-augmented neural network: an LSTM that stores the support set in a memory [1]_.

    ``meta_fit`` learns what to write and how to read; ``fit`` reads the support rows in their
    order, each label one step after its row, and changes no weight. Prefer it where rows arrive
    one by one. It takes as many classes as the largest meta-training task had, and its cost
    grows with the number of support rows.

    Parameters
    ----------
    %(memory_cell_parameters)s
    n_read_heads : int, default=4
        Keys read and written at every step.
    usage_decay : float, default=0.99
        Share of its usage that a slot keeps at every step; the least used slots are overwritten.
    %(sequential_parameters)s
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    The network sees the rows as they are unless a ``backbone`` is given, as in the paper. The
    meta-training loss counts every presentation of the episode, the ones before any label was
    seen included, as in the paper.

    Departures from the paper: a query is answered from the state after the whole support set,
    and its own label is never fed, so that queries do not see each other; labels are one-hot; Adam
    with a one-cycle schedule trains it, where the paper has RMSProp.

    References
    ----------
    .. [1] Santoro et al. (2016). "Meta-learning with memory-augmented neural networks." ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, MANNClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=3, n_shot=2, n_query=2, random_state=0)
    >>> clf = MANNClassifier(max_iter=20, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).predict_proba(X_query).shape
    (6, 3)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **RecurrentClassifier._parameter_constraints,
        **_MANNEstimator._parameter_constraints,
    }


@dataclass(kw_only=True, eq=False, repr=False)
class MANNRegressor(_MANNEstimator, ProbabilisticRecurrentRegressor):
    """Memory-augmented neural network for regression, with a spread [1]_.

    ``meta_fit`` learns what to write and how to read; ``fit`` reads the support rows in their
    order, each target one step after its row, and changes no weight. ``predict`` has
    ``return_std=True``. Prefer it where rows arrive one by one and nothing is known of the
    functions but examples of them. Its cost grows with the number of support rows.

    Parameters
    ----------
    %(memory_cell_parameters)s
    n_read_heads : int, default=4
        Keys read and written at every step.
    usage_decay : float, default=0.99
        Share of its usage that a slot keeps at every step; the least used slots are overwritten.
    %(sequential_parameters)s
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    The outputs are mean and standard deviation of a normal distribution, and its negative
    log-likelihood at every row, before its target is shown, is the loss. With several orders they
    are those of the mixture.

    Departures from the paper: those of :class:`MANNClassifier`; targets are standardised with the
    meta-training tasks' mean and scale unless ``normalize_y=False``.

    References
    ----------
    .. [1] Santoro et al. (2016). "Meta-learning with memory-augmented neural networks." ICML.

    Examples
    --------
    >>> from fewshot_sklearn import MANNRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = MANNRegressor(max_iter=20, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> y, y_std = reg.fit(X_support, y_support).predict(X_query, return_std=True)
    >>> y.shape, bool((y_std > 0).all())
    ((10,), True)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ProbabilisticRecurrentRegressor._parameter_constraints,
        **_MANNEstimator._parameter_constraints,
    }
