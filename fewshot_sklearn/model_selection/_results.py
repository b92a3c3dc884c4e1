"""What an evaluation returns: the scores of every task, their mean and its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..utils._plotting import check_axes
from ._fast_scores import SCORE
from ._intervals import MeanInterval, mean_interval
from ._plots import PANEL, TaskScoresDisplay

SIZES = ["n_support", "n_query"]


@dataclass(frozen=True, repr=False, eq=False)
class EvaluationResult:
    """The scores of one estimator on many tasks.

    Parameters
    ----------
    frame : DataFrame
        A row a task, indexed by its name, with the columns ``n_support``, ``n_query``, ``score``.
    interval_kind : {"t", "bootstrap"}, default="t"
        How the interval of the mean is found.
    random_state : int, RandomState, Generator or None, default=None
        What the bootstrap's resamples are a function of.

    Examples
    --------
    >>> import pandas as pd
    >>> from fewshot_sklearn.model_selection import EvaluationResult
    >>> frame = pd.DataFrame({"n_support": 5, "n_query": 10, "score": [0.5, 0.6, 0.7]})
    >>> EvaluationResult(frame)
    0.600 ± 0.248 (95 % interval over 3 tasks)
    """

    frame: pd.DataFrame
    interval_kind: str = "t"
    random_state: Any = None

    @property
    def scores(self) -> NDArray[np.float64]:
        """The score of every task, shape (n_tasks,)."""
        return self.frame[SCORE].to_numpy(copy=True)

    @property
    def mean(self) -> float:
        """The mean score over tasks; every task counts alike. NaN where a score is."""
        return float(self.scores.mean())

    @property
    def ci95(self) -> float:
        """Half the width of the 95 % interval of the mean; NaN for a single task."""
        return self._interval.half_width

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % interval of the mean; a bootstrap's need not be symmetric."""
        return self._interval.low, self._interval.high

    @cached_property
    def _interval(self) -> MeanInterval:
        return mean_interval(self.scores, self.interval_kind, self.random_state)

    def plot(self, ax: Any = None, *, kind: str = "hist", **kwargs: Any) -> TaskScoresDisplay:
        """Draw the distribution of the task scores, their mean and its interval.

        Needs the extra ``plot``.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        kind : {"hist", "sorted"}, default="hist"
            A histogram, or every task by the rank of its score.
        **kwargs
            Passed to ``Axes.hist`` or ``Axes.plot``.

        Returns
        -------
        display : TaskScoresDisplay
            Holds the axes and what was drawn.
        """
        return _display(self.frame[SCORE], self).plot(ax, kind=kind, **kwargs)

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self.frame)

    def __repr__(self) -> str:
        """Show the mean and its interval."""
        return f"{self.mean:.3f} ± {self.ci95:.3f} (95 % interval over {len(self)} tasks)"


@dataclass(frozen=True, repr=False, eq=False)
class MultimetricEvaluationResult(Mapping[str, EvaluationResult]):
    """The scores of one estimator on many tasks by several scorers.

    It is a mapping: ``result["roc_auc"]`` is the :class:`EvaluationResult` of that scorer.

    Parameters
    ----------
    frame : DataFrame
        A row a task, indexed by its name, with the columns ``n_support``, ``n_query`` and one for
        each scorer.
    interval_kind : {"t", "bootstrap"}, default="t"
        How the intervals of the means are found.
    random_state : int, RandomState, Generator or None, default=None
        What the bootstrap's resamples are a function of.

    Examples
    --------
    >>> import pandas as pd
    >>> from fewshot_sklearn.model_selection import MultimetricEvaluationResult
    >>> scores = {"accuracy": [0.5, 0.6, 0.7], "roc_auc": [0.7, 0.9, 0.8]}
    >>> result = MultimetricEvaluationResult(pd.DataFrame({"n_support": 5, "n_query": 10} | scores))
    >>> result
    accuracy: 0.600 ± 0.248 (95 % interval over 3 tasks)
    roc_auc: 0.800 ± 0.248 (95 % interval over 3 tasks)
    >>> result["roc_auc"].interval
    (0.5515..., 1.0484...)
    """

    frame: pd.DataFrame
    interval_kind: str = "t"
    random_state: Any = None

    @property
    def scores(self) -> pd.DataFrame:
        """The scores, a row a task and a column a scorer."""
        return self.frame.drop(columns=SIZES)

    @property
    def mean(self) -> pd.Series:
        """The mean over tasks of every scorer."""
        return pd.Series({name: result.mean for name, result in self.items()}, name="mean")

    @property
    def ci95(self) -> pd.Series:
        """Half the width of the 95 % interval of the mean of every scorer."""
        return pd.Series({name: result.ci95 for name, result in self.items()}, name="ci95")

    @property
    def interval(self) -> pd.DataFrame:
        """The ends of the 95 % interval, ``low`` and ``high``, a row a scorer."""
        ends = {name: result.interval for name, result in self.items()}
        return pd.DataFrame.from_dict(ends, orient="index", columns=["low", "high"])

    def plot(
        self, ax: Any = None, *, kind: str = "hist", **kwargs: Any
    ) -> dict[str, TaskScoresDisplay]:
        """Draw the distribution of every scorer's scores, side by side.

        Needs the extra ``plot``.

        Parameters
        ----------
        ax : sequence of matplotlib Axes, default=None
            One for each scorer; None makes a new figure.
        kind : {"hist", "sorted"}, default="hist"
            As in :meth:`EvaluationResult.plot`.
        **kwargs
            As in :meth:`EvaluationResult.plot`.

        Returns
        -------
        displays : dict of str to TaskScoresDisplay
            By the name of the scorer.
        """
        axes = check_axes(ax, 1, len(self), panel=PANEL).ravel()
        return {
            name: _display(self.frame[name], result).plot(one, kind=kind, **kwargs)
            for (name, result), one in zip(self.items(), axes, strict=True)
        }

    @cached_property
    def _results(self) -> dict[str, EvaluationResult]:
        return {
            name: EvaluationResult(
                self.frame[[*SIZES, name]].set_axis([*SIZES, SCORE], axis=1),
                self.interval_kind,
                self.random_state,
            )
            for name in self.frame.columns.drop(SIZES)
        }

    def __getitem__(self, scorer: str) -> EvaluationResult:
        """Return the result of one scorer."""
        return self._results[scorer]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the scorers."""
        return iter(self._results)

    def __len__(self) -> int:
        """Return the number of scorers."""
        return len(self._results)

    def __repr__(self) -> str:
        """Show the mean and its interval, a line a scorer."""
        return "\n".join(f"{name}: {result!r}" for name, result in self.items())


def _display(scores: pd.Series, result: EvaluationResult) -> TaskScoresDisplay:
    return TaskScoresDisplay(scores, mean=result.mean, interval=result.interval)
