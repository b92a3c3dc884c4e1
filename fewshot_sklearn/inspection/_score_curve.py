"""What the displays of a mean score over tasks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..model_selection import evaluate
from ..model_selection._intervals import mean_interval
from ..utils._docs import insert_docs
from ..utils._plotting import DISPLAY_DOCS, check_axes, show_names
from ..utils._sklearn import _validate_score_name, _validate_style_kwargs

_STYLES = ("fill_between", "errorbar", None)

CURVE_DOCS = DISPLAY_DOCS | {
    "shared_ax": f"""\
{DISPLAY_DOCS["ax"]} Several curves may be drawn on the same.""",
    "curve_attributes": f"""\
{DISPLAY_DOCS["drawn_on"]}
line_ : Line2D or None
    The mean scores; None if ``interval_style="errorbar"``.
fill_between_ : PolyCollection or None
    The intervals, if ``interval_style="fill_between"``.
errorbar_ : ErrorbarContainer or None
    Means and intervals, if ``interval_style="errorbar"``.""",
    "evaluated": f"""\
scoring : str or callable, default=None
    As in :func:`~fewshot_sklearn.evaluate`.
n_jobs : int, default=None
    As in :func:`~fewshot_sklearn.evaluate`.
{DISPLAY_DOCS["ax"]}
{DISPLAY_DOCS["estimator_name"]}
score_name : str, default=None
    What the axis of scores is called; None for the name of ``scoring``.
{DISPLAY_DOCS["plot_kwargs"]}""",
}


@insert_docs(CURVE_DOCS)
class ScoreCurve:
    """Mean scores over tasks with their 95 % intervals, by some number.

    Parameters
    ----------
    x : array-like of shape (n_points,)
        The numbers.
    scores : array-like of shape (n_points, n_tasks)
        The score of every task at each of them.
    score_name : str or None
        What the axis of scores is called.
    name : str or None
        What the legend calls the estimator.
    """

    # What holds the numbers, and what they count.
    _numbers: str
    _counted: str
    _x_label: str
    line_: Any
    fill_between_: Any
    errorbar_: Any

    def __init__(
        self, x: ArrayLike, scores: ArrayLike, *, score_name: str | None, name: str | None
    ) -> None:
        self.scores = np.asarray(scores, dtype=np.float64)
        if self.scores.ndim != 2 or len(self.scores) != len(np.asarray(x)):
            raise ValueError(
                f"scores must have a row for each of the {len(np.asarray(x))} points and a column "
                f"a task, got shape {self.scores.shape}."
            )
        self.score_name, self.name = score_name, name

    @classmethod
    def _evaluate(
        cls,
        numbers: Iterable[int],
        at: Callable[[int], tuple[Any, Any]],
        *,
        scoring: Any,
        n_jobs: int | None,
    ) -> tuple[list[int], list[NDArray[np.float64]]]:
        """Return the numbers and the scores of every task at each of them.

        ``at`` takes a number and returns the estimator and the tasks that are evaluated.
        """
        if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
            raise ValueError(
                "scoring must be None, the name of one scorer or a callable (estimator, X, y), "
                f"got {scoring!r}; draw a curve for each of several scorers."
            )
        numbers = list(numbers)
        if not numbers:
            raise ValueError(
                f"{cls._numbers} must hold at least one number of {cls._counted}, got none."
            )
        return numbers, [
            evaluate(*at(number), scoring=scoring, n_jobs=n_jobs).scores for number in numbers
        ]

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        score_name: str | None = None,
        interval_style: str | None = "fill_between",
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
        errorbar_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the mean score over tasks and its 95 % interval.

        Parameters
        ----------
        %(shared_ax)s
        name : str, default=None
            What the legend calls the curve; None for the display's ``name``.
        score_name : str, default=None
            What the axis of scores is called; None for the display's ``score_name``.
        interval_style : {"fill_between", "errorbar"} or None, default="fill_between"
            How the interval is shown; None leaves it out.
        line_kw, fill_between_kw, errorbar_kw : dict, default=None
            Passed to ``Axes.plot``, ``Axes.fill_between`` and ``Axes.errorbar``.

        %(returns_self)s

        Raises
        ------
        %(no_matplotlib)s
        ValueError
            When ``interval_style`` is unknown.
        """
        if interval_style not in _STYLES:
            raise ValueError(f"interval_style must be one of {_STYLES}, got {interval_style!r}.")
        self.ax_ = ax = check_axes(ax, purpose=type(self).__name__)[0, 0]
        self.figure_ = ax.figure
        self.line_ = self.fill_between_ = self.errorbar_ = None
        label = {"label": self.name if name is None else name}
        x, mean = getattr(self, self._numbers), self.scores.mean(axis=1)
        half = np.array([mean_interval(row).half_width for row in self.scores])
        if interval_style == "errorbar":
            style = {"fmt": ".-", "capsize": 3} | label
            style = _validate_style_kwargs(style, errorbar_kw or {})
            self.errorbar_ = ax.errorbar(x, mean, yerr=half, **style)
        else:
            style = _validate_style_kwargs({"marker": "."} | label, line_kw or {})
            (self.line_,) = ax.plot(x, mean, **style)
        if interval_style == "fill_between":
            style = {"color": self.line_.get_color(), "alpha": 0.2, "linewidth": 0}
            style = _validate_style_kwargs(style, fill_between_kw or {})
            self.fill_between_ = ax.fill_between(x, mean - half, mean + half, **style)
        ax.set(xlabel=self._x_label, ylabel=score_name or self.score_name or "Score")
        show_names(ax)
        return self


def curve_names(
    estimator: Any, scoring: Any, *, name: str | None, score_name: str | None
) -> dict[str, str]:
    """Return what the legend calls an estimator and what the axis calls its scores."""
    return {
        "name": type(estimator).__name__ if name is None else name,
        "score_name": _validate_score_name(score_name, scoring, negate_score=False),
    }
