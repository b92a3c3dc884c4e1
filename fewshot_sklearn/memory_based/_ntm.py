"""Neural Turing machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..nn import NTMCell
from ..utils._sklearn import Integral, Interval
from ._shared import MemoryCellEstimator, RecurrentClassifier, RecurrentRegressor


@dataclass(kw_only=True, eq=False, repr=False)
class _NTMEstimator(MemoryCellEstimator):
    """What classifier and regressor share."""

    n_write_heads: int = 1
    shift_range: int = 1

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **MemoryCellEstimator._parameter_constraints,
        "n_write_heads": [Interval(Integral, 1, None, closed="left")],
        "shift_range": [Interval(Integral, 0, None, closed="left")],
    }

    def _make_cell(self, n_inputs: int) -> NTMCell:
        return NTMCell(
            n_inputs,
            n_write_heads=self.n_write_heads,
            shift_range=self.shift_range,
            **self._sizes(),
        )


@dataclass(kw_only=True, eq=False, repr=False)
class NTMClassifier(_NTMEstimator, RecurrentClassifier):
    """Neural Turing machine: a network that reads and writes a tape by attention [1]_.

    ``meta_fit`` learns what to write where and how to find it again, by content or by moving on
    from the last place; ``fit`` reads the support rows in their order, each label one step after
    its row, and changes no weight. Prefer :class:`MANNClassifier` for few-shot classification;
    this one where the order of the rows means something. It takes as many classes as the largest
    meta-training task had, and its cost grows with the number of support rows.

    Parameters
    ----------
    %(memory_cell_parameters)s
    n_read_heads : int, default=1
        Places read at every step.
    n_write_heads : int, default=1
        Places written at every step.
    shift_range : int, default=1
        How far a head can move on at every step, in both directions.
    %(sequential_parameters)s
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    The write heads address the memory first and write; the read heads address and read what is
    there then. Heads begin at the first slot; where they begin and what was read before the first
    row are learned. The memory begins with the same small number everywhere.

    Departures from the paper, whose tasks are sequences and not sets of rows: as in
    :class:`MANNClassifier` a row comes with the label of the row before, a query is answered
    from the state after the whole support set, and the loss counts every presentation. Adam with
    a one-cycle schedule trains it, where the paper has RMSProp.

    References
    ----------
    .. [1] Graves, Wayne and Danihelka (2014). "Neural Turing machines." arXiv:1410.5401.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, NTMClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=3, n_shot=2, n_query=2, random_state=0)
    >>> clf = NTMClassifier(max_iter=20, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).predict_proba(X_query).shape
    (6, 3)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **RecurrentClassifier._parameter_constraints,
        **_NTMEstimator._parameter_constraints,
    }


@dataclass(kw_only=True, eq=False, repr=False)
class NTMRegressor(_NTMEstimator, RecurrentRegressor):
    """Neural Turing machine for regression [1]_.

    ``meta_fit`` learns what to write where and how to find it again; ``fit`` reads the support rows
    in their order, each target one step after its row, and changes no weight. Prefer it where
    the order of the rows means something. Its cost grows with the number of support rows.

    Parameters
    ----------
    %(memory_cell_parameters)s
    n_read_heads : int, default=1
        Places read at every step.
    n_write_heads : int, default=1
        Places written at every step.
    shift_range : int, default=1
        How far a head can move on at every step, in both directions.
    %(sequential_parameters)s
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    The write heads address the memory first and write; the read heads address and read what is
    there then. Heads begin at the first slot; where they begin and what was read before the first
    row are learned. The memory begins with the same small number everywhere.

    Departures from the paper, whose tasks are sequences and not sets of rows: those of
    :class:`NTMClassifier`; the loss is the squared error.

    References
    ----------
    .. [1] Graves, Wayne and Danihelka (2014). "Neural Turing machines." arXiv:1410.5401.

    Examples
    --------
    >>> from fewshot_sklearn import NTMRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = NTMRegressor(max_iter=20, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> reg.fit(X_support, y_support).predict(X_query).shape
    (10,)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **RecurrentRegressor._parameter_constraints,
        **_NTMEstimator._parameter_constraints,
    }
