"""Scores over tasks and comparisons of estimators, drawn."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..utils._docs import insert_docs
from ..utils._plotting import DISPLAY_DOCS, check_axes

# Width and height in inches.
PANEL = (4.8, 3.6)
_MOST_BINS = 20
_INTERVAL_WORDS = "mean and 95 % interval"


@insert_docs(DISPLAY_DOCS)
class TaskScoresDisplay:
    """The distribution of one estimator's scores over tasks.

    :meth:`EvaluationResult.plot` makes one.

    Parameters
    ----------
    scores : Series of shape (n_tasks,)
        The score of every task; its name labels the axis.
    mean : float
        Their mean.
    interval : (float, float)
        The ends of its 95 % interval.

    Attributes
    ----------
    %(drawn_on)s
    scores_ : BarContainer or Line2D
        The histogram, or the scores in rising order.
    mean_line_ : Line2D
        The mean.
    interval_area_ : matplotlib patch
        The interval of the mean.

    Examples
    --------
    >>> import pandas as pd
    >>> from fewshot_sklearn.model_selection import TaskScoresDisplay
    >>> scores = pd.Series([0.5, 0.6, 0.7], name="accuracy")
    >>> display = TaskScoresDisplay(scores, mean=0.6, interval=(0.35, 0.85)).plot()
    >>> display.ax_.get_xlabel()
    'accuracy'
    """

    def __init__(self, scores: pd.Series, *, mean: float, interval: tuple[float, float]) -> None:
        self.scores, self.mean, self.interval = scores, mean, interval

    def plot(self, ax: Any = None, *, kind: str = "hist", **kwargs: Any) -> Self:
        """Draw.

        Parameters
        ----------
        %(ax)s
        kind : {"hist", "sorted"}, default="hist"
            A histogram, or every task by the rank of its score.
        **kwargs
            Passed to ``Axes.hist`` or ``Axes.plot``.

        %(returns_self)s

        Raises
        ------
        %(no_matplotlib)s
        ValueError
            When ``kind`` is unknown.
        """
        if kind not in ("hist", "sorted"):
            raise ValueError(f"kind must be 'hist' or 'sorted', got {kind!r}.")
        self.ax_ = ax = check_axes(ax, panel=PANEL)[0, 0]
        self.figure_ = ax.figure
        {"hist": self._plot_histogram, "sorted": self._plot_sorted}[kind](ax, kwargs)
        ax.legend()
        return self

    def _plot_histogram(self, ax: Any, options: dict[str, Any]) -> None:
        options = {
            "color": "C0",
            "alpha": 0.5,
            "edgecolor": "white",
            "label": f"{len(self.scores)} tasks",
        } | options
        finite = self.scores[np.isfinite(self.scores)].to_numpy()
        self.scores_ = ax.hist(finite, **{"bins": _bins(finite)} | options)[2]
        self.interval_area_ = ax.axvspan(*self.interval, color="C1", alpha=0.3, lw=0)
        self.mean_line_ = ax.axvline(self.mean, color="C1", label=_INTERVAL_WORDS)
        ax.set(xlabel=self.scores.name, ylabel="tasks")

    def _plot_sorted(self, ax: Any, options: dict[str, Any]) -> None:
        ordered = self.scores.dropna().sort_values().to_numpy()
        options = {"color": "C0", "label": f"{len(self.scores)} tasks"} | options
        options = {"marker": ".", "linestyle": "none"} | options
        (self.scores_,) = ax.plot(np.arange(1, len(ordered) + 1), ordered, **options)
        self.interval_area_ = ax.axhspan(*self.interval, color="C1", alpha=0.3, lw=0)
        self.mean_line_ = ax.axhline(self.mean, color="C1", label=_INTERVAL_WORDS)
        ax.set(xlabel="task, by rising score", ylabel=self.scores.name)


def _bins(scores: NDArray[np.float64]) -> Any:
    """Return bins for scores; equal steps, as accuracies have them, are never cut."""
    values = np.unique(scores.round(9))
    gap = np.diff(values).min(initial=np.inf)
    if len(values) < 2 or np.ptp(values) > 100 * gap:
        return "auto"
    n_steps = round(np.ptp(values) / gap) + 1
    steps_each = math.ceil(n_steps / _MOST_BINS)
    edges = np.arange(math.ceil(n_steps / steps_each) + 1) * steps_each - 0.5
    return values[0] + gap * edges


@insert_docs(DISPLAY_DOCS)
class ComparisonDisplay:
    """Mean scores of several estimators, and their paired differences to the first.

    The ``plot`` method of what :func:`compare` returns makes one.

    Parameters
    ----------
    tables : dict of str to DataFrame
        By the name of the scorer: a row an estimator, with the columns ``mean``, ``ci95``,
        ``difference``, ``difference_ci95`` and ``p_holm``.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes of shape (n_scorers, 2)
        Means on the left, differences on the right.
    figure_ : matplotlib Figure
        The figure that they belong to.
    means_, differences_ : list of ErrorbarContainer
        The points and their intervals, one container a scorer.

    Examples
    --------
    >>> import pandas as pd
    >>> from fewshot_sklearn.model_selection import ComparisonDisplay
    >>> columns = ["mean", "ci95", "difference", "difference_ci95", "p_holm"]
    >>> rows = {"a": [0.7, 0.1, 0.0, 0.0, None], "b": [0.8, 0.1, 0.1, 0.05, 0.01]}
    >>> table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    >>> ComparisonDisplay({"accuracy": table}).plot().ax_.shape
    (1, 2)
    """

    def __init__(self, tables: dict[str, pd.DataFrame]) -> None:
        self.tables = tables

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw a row of two panels for each scorer.

        Parameters
        ----------
        ax : sequence of matplotlib Axes, default=None
            Two for each scorer; None makes a new figure.
        **kwargs
            Passed to ``Axes.errorbar``.

        %(returns_self)s

        Raises
        ------
        %(no_matplotlib)s
        ValueError
            When ``ax`` holds another number of axes.
        """
        n_estimators = len(next(iter(self.tables.values())))
        height = 1.2 + 0.4 * n_estimators
        self.ax_ = check_axes(ax, len(self.tables), 2, panel=(PANEL[0], height))
        self.figure_ = self.ax_[0, 0].figure
        options = {"fmt": "o", "capsize": 3} | kwargs
        self.means_, self.differences_ = [], []
        for (scorer, table), (left, right) in zip(self.tables.items(), self.ax_, strict=True):
            self.means_.append(_draw_rows(left, table["mean"], table["ci95"], options))
            left.set_xlabel(f"mean {scorer}, 95 % interval")
            self.differences_.append(_draw_differences(right, table, options))
            right.set_xlabel(f"{scorer} minus that of {table.index[0]}")
        return self


def _draw_rows(ax: Any, centers: pd.Series, widths: pd.Series, options: dict[str, Any]) -> Any:
    """Draw a point with its interval for each entry, the first on top."""
    rows = np.arange(len(centers))
    ax.set_yticks(rows, [str(name) for name in centers.index])
    ax.set_ylim(len(rows) - 0.5, -0.6)
    ax.margins(x=0.12)
    return ax.errorbar(centers, rows, xerr=widths, **options)


def _draw_differences(ax: Any, table: pd.DataFrame, options: dict[str, Any]) -> Any:
    """Draw the paired differences with their p-values, against a line at none."""
    ax.axvline(0, color="gray", lw=1)
    drawn = _draw_rows(ax, table["difference"], table["difference_ci95"], options)
    ax.tick_params(labelleft=False)  # the names stand beside the means
    for row, (center, p_value) in enumerate(zip(table["difference"], table["p_holm"], strict=True)):
        if np.isfinite(center) and np.isfinite(p_value):
            words = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
            place = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
            ax.annotate(words, (center, row), fontsize="small", **place)
    return drawn
