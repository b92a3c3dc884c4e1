"""A scikit-learn estimator whose samples are tasks."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.callback import CallbackContext, CallbackSupportMixin, with_callbacks
from sklearn.exceptions import NotFittedError, UndefinedMetricWarning
from sklearn.metrics import check_scoring
from sklearn.utils.validation import check_is_fitted

from ..tasks import TaskSet
from ..tasks._base import _one_dimensional
from ..utils._sklearn import HasMethods
from ._evaluate import _check_tasks, evaluate
from ._iteration_callback import has_own_callbacks, repeat_iterations
from ._results import EvaluationResult


class TaskLearner(CallbackSupportMixin, MetaEstimatorMixin, BaseEstimator):
    """A scikit-learn estimator whose samples are tasks.

    ``fit(tasks)`` meta-fits the wrapped estimator, ``score(tasks)`` is its mean query score. So
    whatever scikit-learn does with rows it does with tasks: searches, cross-validation, learning
    curves. Wrap a meta-learner to search its parameters over tasks; with ``prefit=True`` a search
    over adaptation parameters costs no meta-training.

    Parameters
    ----------
    estimator : estimator
        A few-shot estimator with ``meta_fit``; it is cloned and stays as it is. Any other
        scikit-learn estimator has nothing to learn from tasks, and is fitted to each support set
        when it is scored: a baseline in the same search.
    scoring : str or callable, default=None
        What ``score`` measures on a query set, as in :func:`~fewshot_sklearn.evaluate`. None takes
        the estimator's own ``score``.
    prefit : bool, default=False
        Whether ``estimator`` is meta-fitted already and keeps what it learned: ``fit`` meta-trains
        nothing, and refuses an estimator whose meta parameters were changed.

    Attributes
    ----------
    estimator_ : estimator
        The meta-fitted clone: ``estimator_.fit(X_support, y_support)`` learns a new task.

    See Also
    --------
    fewshot_sklearn.evaluate : The score of every task, with the interval of their mean.
    fewshot_sklearn.ClassFoldTasks : Episodes whose classes are in folds.

    Notes
    -----
    An estimator that is meta-fitted already starts anew in ``fit``, unless its ``warm_start`` is
    True: then each ``fit`` goes on from what the given estimator knows. Its meta-training must not
    have seen the tasks that are scored.

    Callbacks of scikit-learn reach the wrapped estimator's meta-iterations. A ``ScoringMonitor``
    that is set on the TaskLearner logs the mean query score on all training tasks after each of
    them, which usually costs more than the meta-training; around a MetaPipeline it logs the last
    one alone.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import GridSearchCV
    >>> from fewshot_sklearn import EpisodicTasks, ProtoNetClassifier, TaskLearner
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X, y, n_way=3, n_tasks=40, random_state=0)
    >>> learner = TaskLearner(ProtoNetClassifier(max_iter=20, random_state=0))
    >>> grid = {"estimator__meta_learning_rate": [1e-5, 1e-2]}
    >>> search = GridSearchCV(learner, grid, cv=2).fit(tasks)
    >>> search.best_params_
    {'estimator__meta_learning_rate': 0.01}
    >>> clf = search.best_estimator_.estimator_
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).predict(X_query).shape
    (45,)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [HasMethods(["fit"])],
        "scoring": [str, callable, None],
        "prefit": ["boolean"],
    }

    def __init__(self, estimator: Any, *, scoring: Any = None, prefit: bool = False) -> None:
        self.estimator = estimator
        self.scoring = scoring
        self.prefit = prefit

    @with_callbacks
    def fit(self, tasks: Any, y: Any = None, *, validation_tasks: Any = None) -> Self:
        """Meta-fit a clone of the estimator.

        Parameters
        ----------
        tasks : TaskSet or list of tasks
            Each a :class:`~fewshot_sklearn.Task` or a tuple
            ``(X_support, y_support, X_query, y_query)``.
        y : object, default=None
            Ignored; a splitter of a search may want one entry for each task.
        validation_tasks : like tasks, default=None
            Passed to ``meta_fit``; not used where nothing is meta-trained. A search passes them
            whole if their number is not that of ``tasks``; scikit-learn would split them too.

        Returns
        -------
        self : object
            With ``estimator_``, which is meta-fitted.

        Raises
        ------
        NotFittedError
            When ``prefit=True`` and the estimator is not meta-fitted.
        TypeError
            When ``tasks`` are no tasks.
        ValueError
            When a parameter is not valid, or ``prefit=True`` and a meta parameter was changed.
        """
        self._validate_params()
        tasks = _check_tasks(tasks)
        _refuse_hidden_learners(self.estimator)
        estimator = clone(self.estimator)
        check_scoring(estimator, self.scoring)
        learns = hasattr(estimator, "meta_fit") and not self.prefit
        n_steps = 1 + has_own_callbacks(self) if learns else 0
        context = self._init_callback_context(max_subtasks=n_steps)
        # A ScoringMonitor wants a y to score at all.
        data = {"estimator": self, "X": tasks, "y": np.zeros(len(tasks)) if y is None else y}
        context.call_on_fit_task_begin(**data)
        if learns:
            with repeat_iterations(estimator, context, data):
                self._meta_fit(estimator, context, data, validation_tasks)
        elif self.prefit and hasattr(estimator, "predict_tasks"):
            _check_prefit(estimator, tasks)
        self.estimator_ = estimator
        context.call_on_fit_task_end(**data, reconstruction_attributes=dict)
        return self

    def _meta_fit(
        self, estimator: Any, context: CallbackContext, data: dict[str, Any], validation: Any
    ) -> None:
        """Meta-fit a clone under this estimator's callbacks."""
        step = context.subcontext(task_name="meta-fit")
        with step.propagate_callback_context(estimator):
            step.call_on_fit_task_begin(**data)
            estimator.meta_fit(data["X"], *([] if validation is None else [validation]))
        step.call_on_fit_task_end(**data)

    def score(self, tasks: Any, y: Any = None) -> float:
        """Return the mean query score over tasks.

        Parameters
        ----------
        tasks : TaskSet or list of tasks
            The estimator adapts to each support set and is scored on the query set.
        y : object, default=None
            Ignored.

        Returns
        -------
        score : float
            NaN, with an ``UndefinedMetricWarning`` that counts them, if the score of a task is.

        Raises
        ------
        TaskError
            When the estimator or the scorer fails on a task; the message names it.
        ValueError
            When ``scoring`` gives several scores.
        """
        check_is_fitted(self)
        result = evaluate(self.estimator_, tasks, scoring=self.scoring)
        if not isinstance(result, EvaluationResult):
            raise ValueError(
                f"scoring must give one number for a task, got {list(result.mean.index)}; give the "
                "search that uses this TaskLearner a callable for several scores."
            )
        lacking = result.frame.index[np.isnan(result.scores)].tolist()
        if lacking:
            warnings.warn(
                f"{len(lacking)} of {len(result)} tasks have no score, task {lacking[0]!r} the "
                "first, so their mean is NaN; leave such tasks out, or choose a scoring that is "
                "defined for all.",
                UndefinedMetricWarning,
                stacklevel=2,
            )
        return result.mean

    def predict(self, tasks: Any) -> NDArray[np.object_]:
        """Adapt to each task and predict its query set.

        Parameters
        ----------
        tasks : TaskSet or list of tasks
            Labels of the query sets are not used.

        Returns
        -------
        predictions : ndarray of shape (n_tasks,), dtype object
            For each task what ``predict(X_query)`` gives after ``fit(X_support, y_support)``.
        """
        check_is_fitted(self)
        tasks = _check_tasks(tasks)
        if hasattr(self.estimator_, "predict_tasks"):
            return _one_dimensional(self.estimator_.predict_tasks(tasks))
        return _one_dimensional(
            [
                clone(self.estimator_).fit(task.X_support, task.y_support).predict(task.X_query)
                for task in tasks
            ]
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        return tags


def _refuse_hidden_learners(estimator: Any) -> None:
    """Refuse an estimator that would meta-train within each support set, or score no tasks."""
    if isinstance(estimator, TaskLearner):
        raise ValueError("estimator is a TaskLearner already; pass the estimator in it.")
    if hasattr(estimator, "meta_fit"):
        return
    for name, part in estimator.get_params(deep=True).items():
        if hasattr(part, "meta_fit") and not hasattr(part, "n_meta_iter_"):
            raise ValueError(
                f"estimator holds {name}={type(part).__name__}, which would learn each support set "
                "from scratch and nothing from the tasks; put transformers before it with "
                "MetaPipeline, and a search around the TaskLearner: "
                "GridSearchCV(TaskLearner(...), ...)."
            )


def _check_prefit(estimator: Any, tasks: TaskSet) -> None:
    """Adapt to one task, which an estimator refuses that is not meta-fitted or was changed."""
    try:
        estimator.predict_tasks(tasks[:1])
    except NotFittedError as error:
        raise NotFittedError(
            f"prefit=True needs a meta-fitted estimator, but this {type(estimator).__name__} is "
            "not; call its meta_fit(tasks) first, or use prefit=False."
        ) from error
