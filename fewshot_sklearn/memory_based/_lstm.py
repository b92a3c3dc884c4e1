"""Recurrent networks that learn within their activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..nn import LSTMCell
from ..utils._sklearn import Integral, Interval
from ._shared import RecurrentClassifier, RecurrentEstimator, RecurrentRegressor


@dataclass(kw_only=True, eq=False, repr=False)
class _LSTMEstimator(RecurrentEstimator):
    """What classifier and regressor share."""

    n_hidden: int = 128
    n_layers: int = 1
    meta_learning_rate: float = 3e-3
    schedule: str = "one_cycle"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **RecurrentEstimator._parameter_constraints,
        "n_hidden": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
    }

    def _make_cell(self, n_inputs: int) -> LSTMCell:
        return LSTMCell(n_inputs, self.n_hidden, n_layers=self.n_layers)


@dataclass(kw_only=True, eq=False, repr=False)
class LSTMClassifier(_LSTMEstimator, RecurrentClassifier):
    """A recurrent network whose state is what it has learned of a task [1]_ [2]_.

    ``meta_fit`` teaches an LSTM to learn: it sees row after row, each with the label of the row
    before, and has to predict the next label. ``fit`` runs it over the support rows and changes no
    weight. Prefer it as the baseline of every memory, and where rows arrive one by one and a
    task has few of them. It takes as many classes as the largest meta-training task had, and its
    cost grows with the number of support rows.

    Parameters
    ----------
    n_hidden : int, default=128
        Width of a layer.
    n_layers : int, default=1
        Layers, each of which reads the one before.
    %(sequential_parameters)s
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    Notes
    -----
    The network sees the rows as they are unless a ``backbone`` is given. Forget gates begin open.

    Departures from the papers: a query is answered from the state after the whole support set,
    and its own label is never fed, so that queries do not see each other; Adam with a one-cycle
    schedule trains it by the whole sequence.

    References
    ----------
    .. [1] Hochreiter, Younger and Conwell (2001). "Learning to learn using gradient descent."
       ICANN.
    .. [2] Santoro et al. (2016). "Meta-learning with memory-augmented neural networks." ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, LSTMClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=3, n_shot=2, n_query=2, random_state=0)
    >>> clf = LSTMClassifier(max_iter=20, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).predict_proba(X_query).shape
    (6, 3)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **RecurrentClassifier._parameter_constraints,
        **_LSTMEstimator._parameter_constraints,
    }


@dataclass(kw_only=True, eq=False, repr=False)
class LSTMRegressor(_LSTMEstimator, RecurrentRegressor):
    """A recurrent network whose state is what it has learned of a function [1]_.

    ``meta_fit`` teaches an LSTM to learn: it sees row after row, each with the target of the row
    before, and has to predict the next target. ``fit`` runs it over the support rows and changes
    no weight. Prefer it where rows arrive one by one and the functions of all tasks are of one
    kind. Its cost grows with the number of support rows.

    Parameters
    ----------
    n_hidden : int, default=128
        Width of a layer.
    n_layers : int, default=1
        Layers, each of which reads the one before.
    %(sequential_parameters)s
    %(shared_parameters)s
    %(regressor_parameters)s

    Attributes
    ----------
    %(shared_attributes)s

    Notes
    -----
    The network sees the rows as they are unless a ``backbone`` is given. Forget gates begin open.
    The loss is the squared error at every row, before its target is shown.

    Departures from the paper: a query is answered from the state after the whole support set, and
    its own target is never fed; Adam with a one-cycle schedule trains it by the whole sequence;
    targets are standardised with the meta-training tasks' mean and scale unless
    ``normalize_y=False``.

    References
    ----------
    .. [1] Hochreiter, Younger and Conwell (2001). "Learning to learn using gradient descent."
       ICANN.

    Examples
    --------
    >>> from fewshot_sklearn import LSTMRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> tasks = make_sinusoid_tasks(random_state=0)
    >>> reg = LSTMRegressor(max_iter=300, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[4]
    >>> reg.fit(X_support, y_support).score(X_query, y_query) > 0.5
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **RecurrentRegressor._parameter_constraints,
        **_LSTMEstimator._parameter_constraints,
    }
