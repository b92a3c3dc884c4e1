"""Score by shots: what each further labelled row is worth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import is_regressor

from ..tasks import with_shots
from ..utils._docs import insert_docs
from ..utils._plotting import require_matplotlib
from ..utils._sklearn import _interval_max_min_ratio
from ._score_curve import CURVE_DOCS, ScoreCurve, curve_names


@insert_docs(CURVE_DOCS)
class ShotCurveDisplay(ScoreCurve):
    """Mean score over tasks by the number of shots.

    It shows how many labelled rows an estimator needs, and from how many on another one overtakes
    it. Make it with :meth:`from_estimator`.

    Parameters
    ----------
    n_shots : array-like of shape (n_points,)
        The numbers of shots.
    scores : array-like of shape (n_points, n_tasks)
        The score of every task with each of them.
    score_name : str, default=None
        What the axis of scores is called.
    name : str, default=None
        What the legend calls the estimator.
    per_class : bool, default=True
        Whether shots are counted for each class, rather than in all.

    Attributes
    ----------
    %(curve_attributes)s

    See Also
    --------
    AdaptationCurveDisplay : Score by the number of inner steps.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from fewshot_sklearn import EpisodicTasks
    >>> from fewshot_sklearn.inspection import ShotCurveDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X, y, n_way=3, n_shot=10, n_tasks=20, random_state=0)
    >>> display = ShotCurveDisplay.from_estimator(
    ...     KNeighborsClassifier(1), tasks, n_shots=[1, 5, 10])
    >>> display = ShotCurveDisplay.from_estimator(
    ...     LogisticRegression(), tasks, n_shots=[1, 5, 10], ax=display.ax_)
    >>> bool(display.scores[-1].mean() > display.scores[0].mean())
    True
    """

    _numbers = "n_shots"
    _counted = "shots"

    def __init__(
        self,
        n_shots: ArrayLike,
        scores: ArrayLike,
        *,
        score_name: str | None = None,
        name: str | None = None,
        per_class: bool = True,
    ) -> None:
        super().__init__(n_shots, scores, score_name=score_name, name=name)
        self.n_shots, self.per_class = np.asarray(n_shots), per_class

    @property
    def _x_label(self) -> str:  # type: ignore[override]
        return "support rows of each class" if self.per_class else "support rows"

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the mean score over tasks and its 95 % interval.

        Parameters
        ----------
        %(shared_ax)s
        **kwargs
            ``name``, ``score_name``, ``interval_style``, ``line_kw``, ``fill_between_kw`` and
            ``errorbar_kw``, as in :meth:`AdaptationCurveDisplay.plot`.

        %(returns_self)s

        Raises
        ------
        %(no_matplotlib)s
        """
        super().plot(ax, **kwargs)
        if len(self.n_shots) > 2 and _interval_max_min_ratio(self.n_shots) > 4:
            self.ax_.set_xscale("log")
        self.ax_.set_xticks(self.n_shots, [str(n) for n in self.n_shots])
        self.ax_.minorticks_off()
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        tasks: Any,
        *,
        n_shots: Iterable[int] = (1, 2, 5, 10),
        scoring: Any = None,
        n_jobs: int | None = None,
        ax: Any = None,
        name: str | None = None,
        score_name: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Evaluate an estimator with several numbers of shots and draw the scores.

        Every task keeps its query set, and the support of fewer shots is part of that of more: the
        scores are paired.

        Parameters
        ----------
        estimator : scikit-learn estimator
            Any. It stays as it is.
        tasks : TaskSet or list of tasks
            With as many shots as the largest of ``n_shots``; their supports are cut, see
            :func:`~fewshot_sklearn.tasks.with_shots`.
        n_shots : iterable of int, default=(1, 2, 5, 10)
            Support rows of each class; of a regressor support rows in all.
        %(evaluated)s

        Returns
        -------
        display : ShotCurveDisplay

        Raises
        ------
        %(no_matplotlib)s
        TaskError
            When a task has fewer shots.
        ValueError
            When ``n_shots`` is empty or holds something else than counts.
        """
        require_matplotlib(cls.__name__)
        per_class = not is_regressor(estimator)

        def at(n_shot: int) -> tuple[Any, Any]:
            return estimator, with_shots(tasks, n_shot, per_class=per_class)

        numbers, scores = cls._evaluate(n_shots, at, scoring=scoring, n_jobs=n_jobs)
        names = curve_names(estimator, scoring, name=name, score_name=score_name)
        return cls(numbers, scores, per_class=per_class, **names).plot(ax, **kwargs)
