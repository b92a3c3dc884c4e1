"""Score by inner step: how fast an estimator adapts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from ..model_selection import evaluate
from ..utils._sklearn import _validate_score_name
from ._axes import require_matplotlib
from ._score_curve import ScoreCurve

_PARAMETER = "n_inner_steps"


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
    ax_ : matplotlib Axes
        What was drawn on.
    figure_ : matplotlib Figure
        The figure that it belongs to.
    line_ : Line2D or None
        The mean scores; None if ``interval_style="errorbar"``.
    fill_between_ : PolyCollection or None
        The intervals, if ``interval_style="fill_between"``.
    errorbar_ : ErrorbarContainer or None
        Means and intervals, if ``interval_style="errorbar"``.

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

    _x_label = "inner steps"

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

    def _x(self) -> NDArray[Any]:
        return self.steps

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
        scoring : str or callable, default=None
            As in :func:`~fewshot_sklearn.evaluate`.
        n_jobs : int, default=None
            As in :func:`~fewshot_sklearn.evaluate`.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        name : str, default=None
            What the legend calls the estimator; None for the name of its class.
        score_name : str, default=None
            What the axis of scores is called; None for the name of ``scoring``.
        **kwargs
            Passed to :meth:`plot`.

        Returns
        -------
        display : AdaptationCurveDisplay

        Raises
        ------
        ImportError
            When matplotlib is not installed.
        ValueError
            When the estimator has no ``n_inner_steps``, or ``steps`` is empty.
        """
        require_matplotlib(cls)
        parameter = _find_parameter(estimator)
        if steps is None:
            steps = range(2 * estimator.get_params()[parameter] + 1)
        numbers = list(steps)
        if not numbers:
            raise ValueError("steps must hold at least one number of inner steps, got none.")
        scores = [
            evaluate(
                clone(estimator).set_params(**{parameter: n_steps}),
                tasks,
                scoring=scoring,
                n_jobs=n_jobs,
            ).scores
            for n_steps in numbers
        ]
        display = cls(
            numbers,
            scores,
            score_name=_validate_score_name(score_name, scoring, negate_score=False),
            name=type(estimator).__name__ if name is None else name,
        )
        return display.plot(ax, **kwargs)


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
