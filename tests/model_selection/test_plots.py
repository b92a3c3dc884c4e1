"""What results and tables draw, and what the displays keep of it."""

import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from fewshot_sklearn.model_selection import (
    ComparisonDisplay,
    EvaluationResult,
    MultimetricEvaluationResult,
    TaskScoresDisplay,
    compare,
)

plt = pytest.importorskip("matplotlib.pyplot", reason="drawing needs matplotlib (extra `plot`)")


def result(scores):
    return EvaluationResult(pd.DataFrame({"n_support": 5, "n_query": 10, "score": scores}))


SCORES = [0.6, 0.5, 0.7, 0.7, 0.9]


def test_a_histogram_counts_every_task():
    display = result(SCORES).plot()
    assert isinstance(display, TaskScoresDisplay)
    assert sum(bar.get_height() for bar in display.scores_) == len(SCORES)
    assert display.mean_line_.get_xdata()[0] == pytest.approx(np.mean(SCORES))
    assert display.ax_.get_xlabel() == "score"


def test_every_bin_holds_as_many_different_accuracies():
    """Otherwise the histogram of equally frequent accuracies would look like a comb."""
    bars = result(np.repeat(np.arange(30) / 75, 4)).plot().scores_
    assert {bar.get_height() for bar in bars} == {8}


def test_sorted_scores_rise():
    display = result([*SCORES, np.nan]).plot(kind="sorted", color="red")
    assert display.scores_.get_ydata().tolist() == sorted(SCORES)
    assert display.scores_.get_color() == "red"
    assert np.isnan(display.mean_line_.get_ydata()).all()


def test_a_plot_goes_where_it_is_told():
    _, ax = plt.subplots()
    display = result(SCORES).plot(ax)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure


def test_several_scorers_are_drawn_side_by_side():
    frame = pd.DataFrame({"n_support": 5, "n_query": 10, "f1": SCORES, "roc_auc": SCORES})
    displays = MultimetricEvaluationResult(frame).plot()
    assert [d.ax_.get_xlabel() for d in displays.values()] == ["f1", "roc_auc"]
    assert displays["f1"].figure_ is displays["roc_auc"].figure_


class Level(BaseEstimator):
    """It scores ``level`` plus what stands in the task's first row."""

    def __init__(self, level):
        self.level = level

    def fit(self, X, y):
        return self

    def score(self, X, y):
        return self.level + X[0, 0]


def comparison(**options):
    X = [np.full((2, 1), i / 10) for i in range(6)]
    tasks = [(x, x[:, 0], x, x[:, 0]) for x in X]
    return compare({"a": Level(0.1), "b": Level(0.3)}, tasks, **options)


def test_a_comparison_shows_means_and_paired_differences():
    table = comparison()
    display = table.plot()
    assert isinstance(display, ComparisonDisplay)
    assert display.ax_.shape == (1, 2)
    points = display.means_[0].lines[0].get_xdata(), display.differences_[0].lines[0].get_xdata()
    np.testing.assert_array_equal(points, [table["mean"], table["difference"]])
    assert [text.get_text() for text in display.ax_[0, 1].texts] == ["p = 0.031"]


def test_a_comparison_by_several_scorers_has_a_row_for_each():
    display = comparison(scoring={"own": None, "again": None}).plot()
    assert display.ax_.shape == (2, 2)
    assert len(display.means_) == 2
    with pytest.raises(ValueError, match="hold 4 matplotlib axes for this plot, got 2"):
        comparison(scoring={"own": None, "again": None}).plot(plt.subplots(1, 2)[1])


def test_an_unknown_kind_gets_a_sentence():
    with pytest.raises(ValueError, match="kind must be 'hist' or 'sorted', got 'box'"):
        result(SCORES).plot(kind="box")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'fewshot-sklearn\[plot\]'"):
        comparison().plot()


def test_a_score_that_is_infinite_is_left_out_of_the_picture():
    frame = pd.DataFrame({"n_support": 5, "n_query": 10, "score": [0.5, 0.6, -np.inf]})
    with pytest.warns(RuntimeWarning, match="invalid value"):
        display = EvaluationResult(frame).plot()
    assert sum(patch.get_height() for patch in display.scores_) == 2
