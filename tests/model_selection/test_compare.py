"""A comparison is paired: the same tasks, and the differences task by task."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from fewshot_sklearn import EpisodicTasks, ProtoNetClassifier, compare, evaluate
from fewshot_sklearn.exceptions import TaskError


@pytest.fixture(scope="module")
def tasks():
    X, y = load_digits(return_X_y=True)
    return EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=10, n_tasks=30, random_state=0)


class Scores(RegressorMixin, BaseEstimator):
    """Its score on a task is the entry of ``values`` that the task's first row names."""

    def __init__(self, values):
        self.values = values

    def fit(self, X, y):
        return self

    def predict(self, X):
        return X[:, 0]

    def score(self, X, y):
        return self.values[int(X[0, 0])]


def compare_scores(*scores):
    """Compare estimators whose scores are given, one row an estimator."""
    X = [np.full((2, 1), float(i)) for i in range(len(scores[0]))]
    tasks = [(x, x[:, 0], x, x[:, 0]) for x in X]
    return compare({f"e{i}": Scores(list(s)) for i, s in enumerate(scores)}, tasks)


def test_the_table_says_what_evaluate_and_scipy_say(tasks):
    clf = ProtoNetClassifier(max_iter=5, random_state=0).meta_fit(tasks)
    estimators = {"ProtoNet": clf, "1-NN": KNeighborsClassifier(1), "Bayes": GaussianNB()}
    table = compare(estimators, tasks)
    assert table.index.tolist() == list(estimators)
    assert table.index.name == "estimator"
    assert table.columns.tolist() == ["mean", "ci95", "difference", "difference_ci95", "p_value"]
    results = {name: evaluate(estimator, tasks) for name, estimator in estimators.items()}
    for name, result in results.items():
        assert table.loc[name, "mean"] == result.mean
        assert table.loc[name, "ci95"] == result.ci95
    paired = stats.ttest_rel(results["Bayes"].scores, results["ProtoNet"].scores)
    low, high = paired.confidence_interval(0.95)
    assert table.loc["Bayes", "difference"] == pytest.approx((low + high) / 2)
    assert table.loc["Bayes", "difference_ci95"] == pytest.approx((high - low) / 2)
    n_right = [np.rint(50 * results[name].scores) for name in ("1-NN", "ProtoNet")]
    assert table.loc["1-NN", "p_value"] == pytest.approx(stats.wilcoxon(*n_right).pvalue)


def test_the_first_is_not_compared_with_itself(tasks):
    table = compare({"only": KNeighborsClassifier(1)}, tasks[:5])
    assert table.loc["only", ["difference", "difference_ci95"]].tolist() == [0.0, 0.0]
    assert np.isnan(table.loc["only", "p_value"])


def test_equal_scores_have_a_p_value_of_one(tasks):
    table = compare({"a": KNeighborsClassifier(1), "b": KNeighborsClassifier(1)}, tasks[:5])
    assert table.loc["b"].tolist()[2:] == [0.0, 0.0, 1.0]


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=40),
    st.sampled_from([1.0, 1e-100, 1e100, -7.0]),
)
def test_rounding_does_not_break_ties(counts, scale):
    a, b = np.array(counts).T
    expected = stats.wilcoxon(b - a).pvalue if (a != b).any() else 1.0
    table = compare_scores(a / 50 * scale, b / 50 * scale)
    assert table.loc["e1", "p_value"] == pytest.approx(expected, rel=1e-12)


def test_a_task_set_without_a_seed_is_the_same_for_all():
    X, y = load_digits(return_X_y=True)
    tasks = EpisodicTasks(X, y, n_way=3, n_shot=1, n_query=5, n_tasks=10)
    table = compare({"a": KNeighborsClassifier(1), "b": KNeighborsClassifier(1)}, tasks)
    assert table.loc["b", "difference"] == 0.0


def test_scoring_and_workers_are_passed_on(tasks):
    estimators = {"a": DummyClassifier(), "b": GaussianNB()}
    table = compare(estimators, tasks[:6], scoring="neg_log_loss", n_jobs=2)
    expected = compare(estimators, tasks[:6], scoring="neg_log_loss")
    pd.testing.assert_frame_equal(table, expected)
    assert table.loc["a", "mean"] == pytest.approx(-np.log(5))


def test_undefined_scores_stay_undefined():
    table = compare_scores([0.1, 0.2, 0.3], [0.1, np.nan, 0.2])
    assert np.isnan(table.loc["e1"]).all()


def test_a_failure_names_the_estimator_and_the_task(tasks):
    X, _, X_query, y_query = tasks[1]
    broken = [tasks[0], (X, np.zeros(len(X)), X_query, y_query)]
    with pytest.raises(TaskError, match=r"linear: task 1: .*2 classes"):
        compare({"1-NN": KNeighborsClassifier(1), "linear": LogisticRegression()}, broken)


@pytest.mark.parametrize(
    ("estimators", "kind", "message"),
    [
        ([GaussianNB()], TypeError, "must be a dict of names and estimators"),
        ({}, ValueError, "at least one estimator"),
        ({"Bayes": GaussianNB}, TypeError, "Bayes: estimator must be an instance"),
    ],
)
def test_what_cannot_be_compared_gets_a_sentence(estimators, kind, message, tasks):
    with pytest.raises(kind, match=message):
        compare(estimators, tasks)
