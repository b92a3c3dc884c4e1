"""Accuracy by presentation: how fast a network learns within a sequence."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ..metrics import presentation_accuracy_score
from ..tasks import as_task_set
from ..tasks._random import RandomStateLike, resolve_random_state, stream
from ..tasks._rows import join_rows, take_rows
from ..utils._docs import insert_docs
from ..utils._plotting import require_matplotlib
from ._score_curve import CURVE_DOCS, ScoreCurve


@insert_docs(CURVE_DOCS)
class PresentationDisplay(ScoreCurve):
    """Mean accuracy over tasks by how often the class of a row was presented [1]_.

    It shows what a network that reads rows one by one knows of a class at its first row, where it
    can but guess, at its second, and so on. Make it with :meth:`from_estimator`.

    Parameters
    ----------
    presentations : array-like of shape (n_points,)
        1 for the first row of a class, 2 for the second, and so on.
    scores : array-like of shape (n_points, n_tasks)
        The accuracy of every task at each of them.
    score_name : str, default=None
        What the axis of accuracies is called.
    name : str, default=None
        What the legend calls the estimator.

    Attributes
    ----------
    %(curve_attributes)s

    See Also
    --------
    ShotCurveDisplay : Score by the number of support rows, for any estimator.
    fewshot_sklearn.metrics.presentation_accuracy_score : The same of one sequence.

    References
    ----------
    .. [1] Santoro et al. (2016). "Meta-learning with memory-augmented neural networks." ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, LSTMClassifier
    >>> from fewshot_sklearn.inspection import PresentationDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(
    ...     X / 16, y, n_way=3, n_shot=3, n_query=2, n_tasks=20, random_state=0)
    >>> clf = LSTMClassifier(max_iter=20, random_state=0).meta_fit(tasks)
    >>> PresentationDisplay.from_estimator(clf, tasks, random_state=0).scores.shape
    (5, 20)
    """

    _numbers = "presentations"
    _counted = "presentations"
    _x_label = "presentation of the class"

    def __init__(
        self,
        presentations: ArrayLike,
        scores: ArrayLike,
        *,
        score_name: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(presentations, scores, score_name=score_name, name=name)
        self.presentations = np.asarray(presentations)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        tasks: Any,
        *,
        random_state: RandomStateLike = None,
        ax: Any = None,
        name: str | None = None,
        score_name: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Let an estimator read each task as one sequence and draw its accuracies.

        Parameters
        ----------
        estimator : estimator
            With ``predict_sequence``, as those that read their support set row by row have, and
            meta-fitted; it stays as it is.
        tasks : TaskSet or list of tasks
            The support and the query rows of a task make a sequence, in random order. Presentations
            that some task has not are left out.
        random_state : int, RandomState instance or None, default=None
            Of the orders.
        %(shared_ax)s
        %(estimator_name)s
        score_name : str, default=None
            What the axis of accuracies is called.
        %(plot_kwargs)s

        Returns
        -------
        display : PresentationDisplay

        Raises
        ------
        %(no_matplotlib)s
        TypeError
            When the estimator has no ``predict_sequence``.
        ValueError
            When there is no task.
        """
        require_matplotlib(cls.__name__)
        if not hasattr(estimator, "predict_sequence"):
            raise TypeError(
                f"the estimator must have predict_sequence, but {type(estimator).__name__} reads "
                "no rows one by one; ShotCurveDisplay shows how any estimator gains from more "
                "support rows."
            )
        key = resolve_random_state(random_state)[1]
        scores = []
        for i, task in enumerate(as_task_set(tasks)):
            X = join_rows([task.X_support, task.X_query])
            y = np.concatenate([np.asarray(task.y_support), np.asarray(task.y_query)])
            order = stream(key, i, 0).permutation(len(y))
            predicted = estimator.predict_sequence(take_rows(X, order), y[order])
            scores.append(presentation_accuracy_score(y[order], predicted))
        if not scores:
            raise ValueError("tasks must hold at least one task, got none.")
        n_points = min(map(len, scores))
        return cls(
            np.arange(1, n_points + 1),
            np.array([score[:n_points] for score in scores]).T,
            name=type(estimator).__name__ if name is None else name,
            score_name=score_name or "Accuracy",
        ).plot(ax, **kwargs)
