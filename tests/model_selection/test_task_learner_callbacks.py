"""Callbacks of scikit-learn see the meta-iterations through a TaskLearner and through a search."""

import pytest
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from fewshot_sklearn import (
    ProtoNetClassifier,
    TaskLearner,
    evaluate,
    make_meta_pipeline,
)
from tests._data import SMALL_NET


class Recorder:
    """A callback that stays where it is set; it records the ends of tasks and may stop one."""

    def __init__(self, stop_at=None):
        self.stop_at = stop_at
        self.ends = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.ends.append((type(estimator).__name__, context.task_name, fitted_estimator))
        return context.task_id == self.stop_at

    def iterations(self, name):
        return [made for who, task, made in self.ends if (who, task) == (name, "meta-iteration")]


def test_a_scoring_monitor_logs_a_score_for_each_meta_iteration(tasks):
    monitor = ScoringMonitor(scoring={"score": TaskLearner.score})
    learner = TaskLearner(ProtoNetClassifier(**SMALL_NET)).set_callbacks(monitor).fit(tasks)
    log = monitor.get_logs()
    assert log.estimator_name == "TaskLearner"
    frame = log.data_as_pandas
    scores = frame.loc[frame["task_name"] == "meta-iteration", "score"].tolist()
    # One step more is another end: the schedule is constant and the draws are the same.
    expected = [
        evaluate(ProtoNetClassifier(**SMALL_NET | {"max_iter": n}).meta_fit(tasks), tasks).mean
        for n in (1, 2, 3, 4)
    ]
    assert scores == expected
    assert frame.loc[frame["task_name"] == "fit", "score"].tolist() == [learner.score(tasks)]


def test_a_scoring_monitor_on_a_prefit_learner_logs_its_one_score(tasks, fitted):
    monitor = ScoringMonitor(scoring={"score": TaskLearner.score})
    learner = TaskLearner(fitted, prefit=True).set_callbacks(monitor).fit(tasks)
    assert monitor.get_logs().data_as_pandas["score"].tolist() == [learner.score(tasks)]


def test_around_a_pipeline_a_scoring_monitor_logs_the_last_score(tasks):
    monitor = ScoringMonitor(scoring={"score": TaskLearner.score})
    pipe = make_meta_pipeline(StandardScaler(), ProtoNetClassifier(**SMALL_NET))
    learner = TaskLearner(pipe).set_callbacks(monitor).fit(tasks)
    assert monitor.get_logs().data_as_pandas["score"].tolist() == [learner.score(tasks)]


def test_an_estimator_of_ones_own_needs_no_callbacks(tasks):
    class Nearest(KNeighborsClassifier):
        def meta_fit(self, tasks):
            self.n_seen_ = len(tasks)
            return self

    learner = TaskLearner(Nearest(1)).set_callbacks(Recorder()).fit(tasks)
    assert learner.estimator_.n_seen_ == 12
    assert learner.score(tasks) == evaluate(KNeighborsClassifier(1), tasks).mean


def test_a_progress_bar_reaches_the_meta_iterations(tasks, capsys):
    bar = ProgressBar()
    learner = TaskLearner(ProtoNetClassifier(**SMALL_NET)).set_callbacks(bar).fit(tasks)
    shown = capsys.readouterr().out
    assert "TaskLearner - meta-fit | ProtoNetClassifier - meta_fit #0" in shown
    assert "meta-iterations" not in shown
    assert not hasattr(learner.estimator_, "_skl_callbacks")


def test_a_progress_bar_of_a_search_reaches_the_meta_iterations(tasks, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    learner = TaskLearner(ProtoNetClassifier(**SMALL_NET))
    search = GridSearchCV(learner, {"estimator__max_iter": [1, 2]}, cv=2, refit=False)
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(tasks)
    shown = capsys.readouterr().out
    assert "candidate-split-evaluation | TaskLearner - fit #3" in shown
    assert "TaskLearner - meta-fit | ProtoNetClassifier - meta_fit #0" in shown


def test_a_monitor_logs_the_fits_of_a_search(tasks):
    monitor = ScoringMonitor(scoring={"score": TaskLearner.score})
    learner = TaskLearner(ProtoNetClassifier(**SMALL_NET)).set_callbacks(monitor)
    GridSearchCV(learner, {"estimator__max_iter": [1, 2]}, cv=2, refit=False).fit(tasks)
    log = monitor.get_logs()
    assert log.estimator_name == "GridSearchCV"
    names = log.data_as_pandas["task_name"]
    assert (names == "meta-iteration").sum() == 2 * (1 + 2)
    assert (names == "fit").sum() == 4


def test_clones_carry_callbacks(tasks):
    outer, inner = Recorder(), Recorder()
    learner = clone(TaskLearner(ProtoNetClassifier(**SMALL_NET).set_callbacks(inner)))
    learner = clone(learner.set_callbacks(outer)).fit(tasks)
    assert len(inner.iterations("ProtoNetClassifier")) == 4
    assert len(outer.iterations("TaskLearner")) == 4
    assert learner.estimator_._skl_callbacks == [inner]


def test_callbacks_get_a_learner_as_of_each_meta_iteration(tasks):
    outer, inner = Recorder(), Recorder()
    estimator = ProtoNetClassifier(**SMALL_NET).set_callbacks(inner)
    learner = TaskLearner(estimator).set_callbacks(outer).fit(tasks)
    steps = outer.iterations("TaskLearner")
    assert [step.estimator_.n_meta_iter_ for step in steps] == [1, 2, 3, 4]
    assert steps[-1].score(tasks) == learner.score(tasks)
    n_before = len(outer.ends)
    steps[0].estimator_.meta_fit(tasks)
    assert len(outer.ends) == n_before


def test_a_callback_of_the_learner_may_stop_meta_training(tasks):
    learner = TaskLearner(ProtoNetClassifier(**SMALL_NET)).set_callbacks(Recorder(stop_at=1))
    assert learner.fit(tasks).estimator_.n_meta_iter_ == 2


def test_a_progress_bar_below_the_learner_is_refused_as_scikit_learn_does(tasks):
    learner = TaskLearner(ProtoNetClassifier(**SMALL_NET).set_callbacks(ProgressBar()))
    with pytest.raises(TypeError, match="Register them directly on the meta-estimator"):
        learner.fit(tasks)
