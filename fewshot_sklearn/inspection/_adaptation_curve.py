"""Score by inner step: how fast an estimator adapts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone

from ..utils._docs import insert_docs
from ..utils._plotting import require_matplotlib
from ._score_curve import CURVE_DOCS, ScoreCurve, curve_names

_PARAMETER = "n_inner_steps"


@insert_docs(CURVE_DOCS)
class AdaptationCurveDisplay(ScoreCurve):
    """Mean score over tasks by the number of inner steps.

    It shows how many steps an estimator needs to learn a task, and whether more than it was
    meta-trained with still help. Make it with :meth:`from_estimator`.

    Parameters
    ----------
    steps : array-like of shape (n_points,)
        The numbers of inner steps.
    scores : array-like of shape (n_points, n_tasks)
        The score of every task after each of them.
    score_name : str, default=None
        What the axis of scores is called.
    name : str, default=None
        What the legend calls the estimator.

    Attributes
    ----------
    %(curve_attributes)s

    See Also
    --------
    ShotCurveDisplay : Score by the number of support rows.

    Examples
    --------
    >>> from fewshot_sklearn import MAMLRegressor
    >>> from fewshot_sklearn.datasets import make_sinusoid_tasks
    >>> from fewshot_sklearn.inspection import AdaptationCurveDisplay
    >>> tasks = make_sinusoid_tasks(50, random_state=0)
    >>> reg = MAMLRegressor(max_iter=20, random_state=0).meta_fit(tasks)
    >>> display = AdaptationCurveDisplay.from_estimator(
    ...     reg, tasks, steps=[0, 1, 5], scoring="neg_mean_squared_error")
    >>> display.scores.shape
    (3, 50)
    """

    _numbers = "steps"
    _counted = "inner steps"
    _x_label = _counted

    def __init__(
        self,
        steps: ArrayLike,
        scores: ArrayLike,
        *,
        score_name: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(steps, scores, score_name=score_name, name=name)
        self.steps = np.asarray(steps)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        tasks: Any,
        *,
        steps: Iterable[int] | None = None,
        scoring: Any = None,
        n_jobs: int | None = None,
        ax: Any = None,
        name: str | None = None,
        score_name: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Evaluate an estimator with several numbers of inner steps and draw the scores.

        Parameters
        ----------
        estimator : estimator
            With the parameter ``n_inner_steps``, itself or in a step of a pipeline. Meta-fitted, as
            a rule; it stays as it is.
        tasks : TaskSet or list of tasks
            What it is scored on: at each number of steps the same supports and queries.
        steps : iterable of int, default=None
            The numbers of steps. None takes each from 0 to twice the estimator's own.
        %(evaluated)s

        Returns
        -------
        display : AdaptationCurveDisplay

        Raises
        ------
        %(no_matplotlib)s
        ValueError
            When the estimator has no ``n_inner_steps``, or ``steps`` is empty.
        """
        require_matplotlib(cls.__name__)
        parameter = _find_parameter(estimator)
        if steps is None:
            steps = range(2 * estimator.get_params()[parameter] + 1)

        def at(n_steps: int) -> tuple[Any, Any]:
            return clone(estimator).set_params(**{parameter: n_steps}), tasks

        numbers, scores = cls._evaluate(steps, at, scoring=scoring, n_jobs=n_jobs)
        names = curve_names(estimator, scoring, name=name, score_name=score_name)
        return cls(numbers, scores, **names).plot(ax, **kwargs)


def _find_parameter(estimator: Any) -> str:
    """Return the name of the number of inner steps among an estimator's parameters."""
    names = sorted(estimator.get_params(), key=len)
    found = [name for name in names if name == _PARAMETER or name.endswith(f"__{_PARAMETER}")]
    if not found:
        raise ValueError(
            f"the estimator must have the parameter {_PARAMETER!r}, as MAML has, but "
            f"{type(estimator).__name__} takes no inner steps; ShotCurveDisplay shows how any "
            "estimator gains from more support rows."
        )
    return found[0]
