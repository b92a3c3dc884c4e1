"""scikit-learn's callbacks see every meta-iteration, and the estimator as it is by then."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_digits

from fewshot_sklearn import MLP, EpisodicTasks, MAMLRegressor, ProtoNetClassifier

SMALL = {"backbone": MLP(hidden_layer_sizes=(16,)), "max_iter": 4, "random_state": 0}


class Recorder:
    """Keeps what each fit task ended with."""

    def __init__(self, task=None):
        self.task, self.seen = task, []

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        prediction = fitted_estimator.predict_tasks(self.task, method="predict_proba")[0]
        self.seen.append((context.task_name, fitted_estimator.n_meta_iter_, prediction))


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X / 16, y


@pytest.fixture(scope="module")
def tasks(digits):
    return EpisodicTasks(*digits, n_query=3, n_tasks=20, random_state=0)


def test_a_callback_gets_the_estimator_as_of_each_meta_iteration(tasks):
    recorder = Recorder(tasks[:1])
    ProtoNetClassifier(**SMALL).set_callbacks(recorder).meta_fit(tasks)
    for name, n_iter, prediction in recorder.seen:
        alone = ProtoNetClassifier(**{**SMALL, "max_iter": n_iter}).meta_fit(tasks)
        expected = alone.predict_tasks(tasks[:1], method="predict_proba")[0]
        np.testing.assert_array_equal(prediction, expected, err_msg=f"{name} {n_iter}")
    names = [name for name, _, _ in recorder.seen]
    assert names == ["meta-iteration"] * 4 + ["meta_fit"]


def test_watching_changes_nothing(tasks):
    watched = ProtoNetClassifier(**SMALL).set_callbacks(Recorder(tasks[:1])).meta_fit(tasks)
    assert watched.meta_loss_curve_ == ProtoNetClassifier(**SMALL).meta_fit(tasks).meta_loss_curve_


def test_a_scoring_monitor_scores_a_plain_fit_at_every_iteration(digits):
    X, y = digits[0][:200], digits[1][:200]
    monitor = ScoringMonitor(scoring="accuracy")
    clf = ProtoNetClassifier(**SMALL).set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs().data_as_pandas
    scores = log[log["task_name"] == "meta-iteration"]["accuracy"].tolist()
    expected = [
        ProtoNetClassifier(**{**SMALL, "max_iter": n}).fit(X, y).score(X, y) for n in (1, 2, 3, 4)
    ]
    assert scores == expected
    assert log[log["task_name"] == "fit"]["accuracy"].tolist() == [clf.score(X, y)]


def test_clones_carry_callbacks_whether_meta_fitted_or_not(tasks):
    bar = ProgressBar()
    new = MAMLRegressor().set_callbacks(bar)
    meta_fitted = ProtoNetClassifier(**SMALL).meta_fit(tasks).set_callbacks(bar)
    for estimator in (new, meta_fitted):
        assert clone(estimator)._skl_callbacks == [bar]
