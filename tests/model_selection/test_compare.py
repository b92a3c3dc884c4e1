"""A comparison is paired: the same tasks, and the differences task by task."""

import copy
import pickle

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

COLUMNS = ["mean", "ci95", "difference", "difference_ci95", "p_value", "p_holm", "rank"]


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
    assert table.columns.tolist() == COLUMNS
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
    assert table.loc["b"].tolist()[2:] == [0.0, 0.0, 1.0, 1.0, 1.5]


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


# ---------------------------------------------------------------------- more than two


def test_p_values_are_corrected_for_the_number_of_comparisons():
    rng = np.random.default_rng(0)
    first = rng.random(20)
    table = compare_scores(first, *(first + rng.normal(shift, 0.1, 20) for shift in (0.1, 0, 0.05)))
    raw, corrected = table["p_value"].to_numpy()[1:], table["p_holm"].to_numpy()[1:]
    order = np.argsort(raw)
    expected = np.maximum.accumulate(raw[order] * [3, 2, 1]).clip(max=1)
    np.testing.assert_allclose(corrected[order], expected)
    assert np.isnan(table["p_holm"].iloc[0])


def test_two_estimators_need_no_correction():
    table = compare_scores([0.1, 0.2, 0.3, 0.5], [0.3, 0.1, 0.6, 0.9])
    assert table.loc["e1", "p_holm"] == table.loc["e1", "p_value"]


def test_ranks_are_averaged_over_tasks_and_shared_by_equal_scores():
    table = compare_scores([0.9, 0.5, 0.8 - 0.6], [0.8, 0.5, 0.6 - 0.4], [0.7, 0.6, 0.1])
    expected = [(1 + 2.5 + 1.5) / 3, (2 + 2.5 + 1.5) / 3, (3 + 1 + 3) / 3]
    np.testing.assert_allclose(table["rank"], expected)


def test_the_table_keeps_the_scores_of_every_task(tasks):
    estimators = {"1-NN": KNeighborsClassifier(1), "Bayes": GaussianNB()}
    table = compare(estimators, tasks)
    assert isinstance(table, pd.DataFrame)
    assert table.task_scores.columns.tolist() == list(estimators)
    for name, estimator in estimators.items():
        pd.testing.assert_series_equal(
            table.task_scores[name], evaluate(estimator, tasks).frame["score"], check_names=False
        )
    assert table.task_scores.index.name == "task"


def test_what_pandas_makes_of_the_table_is_a_plain_frame(tasks):
    table = compare({"1-NN": KNeighborsClassifier(1), "Bayes": GaussianNB()}, tasks[:5])
    for made in (table.sort_values("mean"), table[["mean"]], table.copy(), table.round(2)):
        assert type(made) is pd.DataFrame
    again = pickle.loads(pickle.dumps(table))
    pd.testing.assert_frame_equal(again, table)
    pd.testing.assert_frame_equal(again.task_scores, table.task_scores)


def test_several_scorers_have_a_table_each(tasks):
    clf = ProtoNetClassifier(max_iter=5, random_state=0).meta_fit(tasks)
    estimators = {"ProtoNet": clf, "1-NN": KNeighborsClassifier(1), "Bayes": GaussianNB()}
    names = ["accuracy", "neg_log_loss"]
    table = compare(estimators, tasks[:10], scoring=names)
    assert table.columns.unique(0).tolist() == names
    for name in names:
        alone = compare(estimators, tasks[:10], scoring=name)
        pd.testing.assert_frame_equal(table[name], pd.DataFrame(alone))
        pd.testing.assert_frame_equal(table.task_scores[name], alone.task_scores)


@pytest.mark.parametrize("seed", [0, None])
def test_bootstrapped_means_are_taken_over_the_same_resamples(tasks, seed):
    """So an estimator that is better by 0.25 on every task is so at the ends of its interval."""
    one = [0.1, 0.4, 0.2, 0.7, 0.25]
    X = [np.full((2, 1), float(i)) for i in range(5)]
    estimators = {"a": Scores(one), "b": Scores([score + 0.25 for score in one])}
    table = compare(
        estimators, [(x, x[:, 0], x, x[:, 0]) for x in X], interval="bootstrap", random_state=seed
    )
    assert table.loc["a", "ci95"] == pytest.approx(table.loc["b", "ci95"], rel=1e-12)
    assert table.loc["b", "difference_ci95"] == pytest.approx(0, abs=1e-12)
    by_t = compare(estimators, [(x, x[:, 0], x, x[:, 0]) for x in X])
    assert table.loc["a", "ci95"] < by_t.loc["a", "ci95"]


# ---------------------------------------------------------------------- what fails


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


def test_an_unknown_interval_gets_a_sentence(tasks):
    with pytest.raises(ValueError, match="interval must be 't' or 'bootstrap', got 'z'"):
        compare({"Bayes": GaussianNB()}, tasks, interval="z")


def test_a_copy_keeps_the_scores_of_the_tasks_and_its_own_plot(tasks):
    table = compare({"1-NN": KNeighborsClassifier(1), "Bayes": GaussianNB()}, tasks)
    for twin in (copy.copy(table), copy.deepcopy(table)):
        assert type(twin) is type(table)
        pd.testing.assert_frame_equal(twin.task_scores, table.task_scores)
        pd.testing.assert_frame_equal(pd.DataFrame(twin), pd.DataFrame(table))
