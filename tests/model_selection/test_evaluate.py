"""An evaluation is clone, fit and score in a loop, whatever way it takes."""

import pickle
from dataclasses import dataclass
from functools import wraps

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, check_scoring, f1_score, make_scorer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fewshot_sklearn import (
    EpisodicTasks,
    GroupedTasks,
    ProtoNetClassifier,
    TaskList,
    evaluate,
)
from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.model_selection import EvaluationResult, MultimetricEvaluationResult
from tests._data import BODY, CLASSIFIERS, REGRESSOR, SMALL, make_rows, name_of


def episodes(n_tasks=12):
    X, y = make_rows(n_classes=4)
    labels = np.array(["ant", "bee", "cicada", "dragonfly"])[y]
    return EpisodicTasks(X, labels, n_way=3, n_shot=2, n_query=4, n_tasks=n_tasks, random_state=0)


def binary_assays():
    """Ragged tasks with shared labels, named by strings."""
    X, y = make_rows(n_classes=2)
    groups = np.repeat(["kinase", "gpcr", "ion", "protease"], [30, 50, 70, 90])
    labels = np.array(["inactive", "active"])[y]
    return GroupedTasks(X, labels, groups, n_support=(6, 12), stratify=True, random_state=0)


def regression_tasks():
    rng = np.random.default_rng(0)
    tasks = []
    for n_support in range(4, 12):
        X = rng.normal(size=(n_support + 9, 6))
        y = X @ rng.normal(size=6)
        tasks.append((X[:n_support], y[:n_support], X[n_support:], y[n_support:]))
    return TaskList(tasks)


def clone_fit_score(estimator, tasks, scoring=None):
    scorer = check_scoring(estimator, scoring)
    return [
        scorer(clone(estimator).fit(X_support, y_support), X_query, y_query)
        for X_support, y_support, X_query, y_query in tasks
    ]


@pytest.fixture
def never_fitted_alone(monkeypatch):
    """Let an estimator of ours be evaluated in batches only."""

    def fit(self, X, y):
        raise AssertionError("the estimator was fitted task by task")

    return lambda estimator: monkeypatch.setattr(type(estimator), "fit", fit)


@pytest.mark.parametrize("scoring", [None, "neg_log_loss", "f1_macro", "roc_auc_ovr"])
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=name_of)
def test_batches_equal_a_loop(estimator, scoring):
    tasks = episodes()
    clf = clone(estimator).meta_fit(tasks)
    expected = clone_fit_score(clf, tasks, scoring)
    np.testing.assert_allclose(evaluate(clf, tasks, scoring=scoring).scores, expected, rtol=1e-5)


@pytest.mark.parametrize("scoring", [None, "roc_auc", "neg_log_loss", "balanced_accuracy"])
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=name_of)
def test_batches_of_ragged_binary_tasks_equal_a_loop(estimator, scoring):
    tasks = binary_assays()
    clf = clone(estimator).meta_fit(tasks)
    expected = clone_fit_score(clf, tasks, scoring)
    np.testing.assert_allclose(evaluate(clf, tasks, scoring=scoring).scores, expected, rtol=1e-5)


@pytest.mark.parametrize("scoring", [None, "neg_root_mean_squared_error"])
def test_batches_of_regression_tasks_equal_a_loop(scoring):
    tasks = regression_tasks()
    reg = clone(REGRESSOR).meta_fit(tasks)
    expected = clone_fit_score(reg, tasks, scoring)
    np.testing.assert_allclose(evaluate(reg, tasks, scoring=scoring).scores, expected, rtol=1e-4)


def positive_share(estimator, X, y):
    """A scorer of one's own that asks for several things."""
    assert list(estimator.classes_) == ["active", "inactive"]
    share = (estimator.predict(X) == "active").mean()
    return share + estimator.predict_proba(X)[0, 0] + estimator.decision_function(X)[-1]


@pytest.mark.parametrize(
    "scoring",
    [None, "roc_auc", "neg_log_loss", make_scorer(f1_score, pos_label="active"), positive_share],
)
def test_a_meta_fitted_estimator_is_never_fitted_task_by_task(scoring, never_fitted_alone):
    tasks = binary_assays()
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks)
    expected = clone_fit_score(clf, tasks, scoring)
    never_fitted_alone(clf)
    np.testing.assert_allclose(evaluate(clf, tasks, scoring=scoring).scores, expected, rtol=1e-5)


def test_a_scorer_that_asks_about_other_rows_gets_a_real_fit():
    tasks = episodes()
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks)

    def noisy(estimator, X, y):
        return accuracy_score(y, estimator.predict(X[:, ::-1])) + estimator.n_features_in_

    expected = clone_fit_score(clf, tasks, noisy)
    np.testing.assert_allclose(evaluate(clf, tasks, scoring=noisy).scores, expected)


def test_a_score_method_of_ones_own_is_used():
    @dataclass(kw_only=True, eq=False, repr=False)
    class Strict(ProtoNetClassifier):
        def score(self, X, y):
            return super().score(X, y) - 1

    tasks = episodes()
    plain = ProtoNetClassifier(backbone=BODY, **SMALL).meta_fit(tasks)
    strict = Strict(backbone=BODY, **SMALL).meta_fit(tasks)
    np.testing.assert_allclose(evaluate(strict, tasks).scores, evaluate(plain, tasks).scores - 1)


def test_evaluation_leaves_the_estimator_as_it_is():
    tasks = episodes()
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks).fit(*tasks[0][:2])
    before = clf.predict_proba(tasks[0].X_query)
    evaluate(clf, tasks)
    np.testing.assert_array_equal(clf.predict_proba(tasks[0].X_query), before)
    forest = RandomForestClassifier(3)
    evaluate(forest, tasks[:2])
    assert not hasattr(forest, "estimators_")


@pytest.mark.parametrize(
    ("estimator", "scoring"),
    [
        (RandomForestClassifier(5, random_state=0), None),
        (RandomForestClassifier(5, random_state=0), "neg_log_loss"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "roc_auc_ovr"),
        (CLASSIFIERS[0], None),
    ],
    ids=["forest", "forest-log-loss", "pipeline", "not meta-fitted"],
)
def test_any_estimator_is_cloned_fitted_and_scored(estimator, scoring):
    tasks = episodes(n_tasks=5)
    expected = clone_fit_score(estimator, tasks, scoring)
    np.testing.assert_array_equal(evaluate(estimator, tasks, scoring=scoring).scores, expected)


def test_what_a_plain_fit_learned_is_not_used():
    tasks = episodes(n_tasks=3)
    clf = clone(CLASSIFIERS[0])
    expected = evaluate(clf, tasks).scores
    np.testing.assert_array_equal(evaluate(clf.fit(*tasks[0][:2]), tasks).scores, expected)


def test_a_pipeline_keeps_what_its_last_step_meta_learned():
    tasks = episodes()
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks)
    pipe = make_pipeline("passthrough", clf)
    np.testing.assert_allclose(evaluate(pipe, tasks).scores, evaluate(clf, tasks).scores)


def test_regressors_of_scikit_learn_are_scored_by_r2():
    tasks = regression_tasks()
    expected = clone_fit_score(Ridge(), tasks)
    np.testing.assert_array_equal(evaluate(Ridge(), tasks).scores, expected)


def test_two_workers_give_the_result_of_one():
    tasks = binary_assays()
    forest = RandomForestClassifier(3, random_state=0)
    one, two = (evaluate(forest, tasks, n_jobs=n) for n in (None, 2))
    pd.testing.assert_frame_equal(one.frame, two.frame)


@pytest.mark.parametrize("meta", [True, False])
def test_the_frame_has_a_row_a_task_under_its_name(meta):
    tasks = binary_assays()
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks) if meta else KNeighborsClassifier(1)
    frame = evaluate(clf, tasks).frame
    assert frame.index.tolist() == [task.name for task in tasks]
    assert frame.index.name == "task"
    assert frame.columns.tolist() == ["n_support", "n_query", "score"]
    assert frame["n_support"].tolist() == [len(task.y_support) for task in tasks]
    assert frame["n_query"].tolist() == [len(task.y_query) for task in tasks]
    assert frame["n_support"].dtype == int


@pytest.mark.parametrize("meta", [True, False])
def test_tasks_of_one_name_keep_a_row_each(meta):
    tasks = [type(task)(*task, name="twin") for task in episodes(n_tasks=3)]
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks) if meta else KNeighborsClassifier(1)
    frame = evaluate(clf, tasks, scoring=["accuracy", "f1_macro"]).frame
    assert frame.index.tolist() == ["twin"] * 3
    assert frame["accuracy"].tolist() == evaluate(clf, tasks).scores.tolist()


def test_names_that_are_tuples_stay_names():
    tasks = episodes(n_tasks=2)
    named = TaskList(list(tasks), names=[("a", 1), ("b", 2)])
    named = TaskList([type(t)(*t, name=n) for t, n in zip(tasks, named.names, strict=True)])
    assert evaluate(KNeighborsClassifier(1), named).frame.index.tolist() == [("a", 1), ("b", 2)]


@given(arrays(float, st.integers(2, 30), elements=st.floats(-1e3, 1e3)))
def test_the_interval_is_that_of_a_one_sample_t_test(scores):
    result = EvaluationResult(pd.DataFrame({"score": scores}))
    assert result.mean == pytest.approx(scores.mean())
    low, high = result.interval
    assert (low + high) / 2 == pytest.approx(result.mean)
    assert (high - low) / 2 == pytest.approx(result.ci95)
    if scores.std() > 1e-6:
        expected = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_repr_is_a_sentence():
    result = EvaluationResult(pd.DataFrame({"score": [0.8, 0.9, 1.0, 0.7]}))
    assert repr(result) == "0.850 ± 0.205 (95 % interval over 4 tasks)"
    assert len(result) == 4


def test_a_single_task_has_no_interval():
    result = evaluate(KNeighborsClassifier(1), episodes(n_tasks=1))
    assert np.isnan(result.ci95)
    assert np.isfinite(result.mean)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_an_undefined_score_is_not_left_out():
    tasks = list(regression_tasks())
    X, y, X_query, y_query = tasks[2]
    tasks[2] = (X, y, X_query[:1], y_query[:1])
    result = evaluate(DummyRegressor(), tasks)
    assert np.isnan(result.scores).tolist() == [i == 2 for i in range(len(tasks))]
    assert np.isnan(result.mean)


# ---------------------------------------------------------------------- several scorers


def both(estimator, X, y):
    right = estimator.predict(X) == y
    return {"share": right.mean(), "count": right.sum()}


@pytest.mark.parametrize(
    ("scoring", "names"),
    [
        (["accuracy", "neg_log_loss"], ["accuracy", "neg_log_loss"]),
        (("f1_macro", "accuracy"), ["f1_macro", "accuracy"]),
        ({"own": positive_share, "score": "roc_auc"}, ["own", "score"]),
        ({"score": "accuracy"}, ["score"]),
        (both, ["share", "count"]),
    ],
)
@pytest.mark.parametrize("meta", [True, False])
def test_each_of_several_scorers_gives_its_own_result(scoring, names, meta):
    tasks = binary_assays()
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks) if meta else LinearDiscriminantAnalysis()
    result = evaluate(clf, tasks, scoring=scoring)
    assert isinstance(result, MultimetricEvaluationResult)
    assert list(result) == result.scores.columns.tolist() == names
    assert result.frame.columns.tolist() == ["n_support", "n_query", *names]
    for name in names:
        own = scoring[name] if isinstance(scoring, dict) else name
        if scoring is both:
            own = {"share": "accuracy", "count": lambda e, X, y: (e.predict(X) == y).sum()}[name]
        alone = evaluate(clf, tasks, scoring=own)
        np.testing.assert_array_equal(result[name].scores, alone.scores)
        assert result.mean[name] == alone.mean
        assert result.ci95[name] == alone.ci95
        assert tuple(result.interval.loc[name]) == alone.interval


@pytest.mark.parametrize("meta", [True, False])
def test_several_scorers_share_their_predictions(meta, monkeypatch):
    tasks = binary_assays()
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks) if meta else KNeighborsClassifier(1)
    asked = []
    predict = type(clf).predict_tasks if meta else KNeighborsClassifier.predict

    @wraps(predict)
    def count(self, *args, **kwargs):
        asked.append(kwargs.get("method", "predict"))
        return predict(self, *args, **kwargs)

    monkeypatch.setattr(type(clf), "predict_tasks" if meta else "predict", count)
    evaluate(clf, tasks, scoring=["accuracy", "balanced_accuracy", "jaccard_macro"])
    assert asked == ["predict"] * (1 if meta else len(tasks))


def test_several_scorers_are_shown_a_line_each():
    result = evaluate(DummyRegressor(), regression_tasks(), scoring=["r2"])
    assert repr(result).startswith("r2: -")
    assert len(result) == 1


def test_a_scorer_may_not_be_called_like_a_column():
    with pytest.raises(ValueError, match="'n_query' is a column of the result"):
        evaluate(KNeighborsClassifier(1), episodes(), scoring={"n_query": "accuracy"})


# ---------------------------------------------------------------------- speed


@pytest.mark.parametrize(
    ("estimator", "tasks", "scoring"),
    [
        (CLASSIFIERS[0], episodes(), None),
        (CLASSIFIERS[0], list(episodes()), "accuracy"),
        (CLASSIFIERS[0], binary_assays(), {"share": "accuracy"}),
        (REGRESSOR, regression_tasks(), ["r2", "neg_mean_squared_error"]),
    ],
    ids=["drawn", "listed", "ragged", "regression"],
)
def test_common_scores_need_neither_a_fit_nor_a_scorer(
    estimator, tasks, scoring, never_fitted_alone, monkeypatch
):
    estimator = clone(estimator).meta_fit(tasks)
    expected = [clone_fit_score(estimator, tasks, own) for own in scorers_of(scoring)]
    never_fitted_alone(estimator)
    monkeypatch.delattr("fewshot_sklearn.model_selection._scoring._score")
    result = evaluate(estimator, tasks, scoring=scoring)
    scores = result.frame.drop(columns=["n_support", "n_query"])
    np.testing.assert_allclose(scores.to_numpy().T, expected, rtol=1e-4)


def scorers_of(scoring):
    if isinstance(scoring, dict):
        return list(scoring.values())
    return scoring if isinstance(scoring, list) else [scoring]


@pytest.mark.parametrize(
    "tasks", [episodes()[3:], binary_assays(), list(episodes())], ids=["part", "named", "listed"]
)
def test_the_frame_is_the_same_whatever_computes_the_scores(tasks):
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks)

    def own(estimator, X, y):
        return estimator.score(X, y)

    pd.testing.assert_frame_equal(
        evaluate(clf, tasks).frame, evaluate(clf, tasks, scoring=own).frame
    )


def test_an_evaluation_draws_each_task_once(monkeypatch):
    tasks = episodes()
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks)
    drawn, draw = [], EpisodicTasks._draw

    def count(self, task_id, visit):
        drawn.append(task_id)
        return draw(self, task_id, visit)

    monkeypatch.setattr(EpisodicTasks, "_draw", count)
    evaluate(clf, tasks[3:])
    assert sorted(drawn) == list(range(3, len(tasks)))


# ---------------------------------------------------------------------- the bootstrap


def test_a_bootstrap_interval_is_a_function_of_the_seed():
    tasks = episodes()
    knn = KNeighborsClassifier(1)
    first, same, other, by_t = (
        evaluate(knn, tasks, interval=kind, random_state=seed)
        for kind, seed in [("bootstrap", 0), ("bootstrap", 0), ("bootstrap", 1), ("t", None)]
    )
    assert first.interval == same.interval != other.interval
    assert first.mean == by_t.mean
    assert first.interval != by_t.interval
    low, high = first.interval
    assert low < first.mean < high
    assert first.ci95 == (high - low) / 2


@pytest.mark.parametrize(
    "random_state", [None, np.random.default_rng(0), np.random.RandomState(0)], ids=type
)
def test_a_bootstrap_interval_does_not_change_between_readings(random_state):
    tasks = episodes()
    result = evaluate(
        KNeighborsClassifier(1), tasks, interval="bootstrap", random_state=random_state
    )
    assert result.interval == result.interval
    assert pickle.loads(pickle.dumps(result)).interval == result.interval


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": "normal"}, "interval must be 't' or 'bootstrap', got 'normal'"),
        ({"interval": None}, "interval must be 't' or 'bootstrap', got None"),
        ({"random_state": -1}, "random_state must be None, an int of at least 0"),
    ],
)
def test_an_unknown_interval_gets_a_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(KNeighborsClassifier(1), episodes(), **options)


# ---------------------------------------------------------------------- what fails


def one_class_at(position):
    tasks = list(binary_assays())
    X, y, X_query, y_query = tasks[position]
    y = np.full(len(y), "active")
    tasks[position] = type(tasks[0])(X, y, X_query, y_query, name=f"assay {position}")
    return tasks


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_an_estimator_that_fails_on_a_task_names_it(n_jobs):
    with pytest.raises(TaskError, match=r"task 2 \('assay 2'\): .*at least 2 classes"):
        evaluate(LogisticRegression(), one_class_at(2), n_jobs=n_jobs)


def test_a_scorer_that_fails_on_a_task_names_it_in_batches_too():
    tasks = binary_assays()
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks)

    def fragile(estimator, X, y):
        if len(y) == len(tasks[3].y_query):
            raise ZeroDivisionError("no positives")
        return 0.0

    with pytest.raises(TaskError, match=r"task 3 \('protease'\): no positives"):
        evaluate(clf, tasks, scoring=fragile)


def test_a_task_that_a_batch_cannot_hold_is_named_once():
    tasks = episodes()
    clf = clone(CLASSIFIERS[2]).meta_fit(tasks)
    X, y = make_rows(n_classes=4)
    wider = [*tasks[:2], (X[:30], y[:30], X[30:], y[30:])]
    with pytest.raises(TaskError, match=r"^task 2: it has 4 classes"):
        evaluate(clf, wider)


def test_a_meta_parameter_changed_after_meta_fit_is_refused():
    tasks = episodes()
    clf = clone(CLASSIFIERS[0]).meta_fit(tasks).set_params(distance="cosine")
    with pytest.raises(ValueError, match=r"^distance='cosine' was changed after meta_fit"):
        evaluate(clf, tasks)


@pytest.mark.parametrize(
    ("estimator", "tasks", "scoring", "kind", "message"),
    [
        (RandomForestClassifier, episodes(), None, TypeError, "must be an instance"),
        ("forest", episodes(), None, TypeError, "must be an instance"),
        (Ridge(), iter(episodes()), None, TypeError, r"Pass list\(tasks\)"),
        (Ridge(), episodes()[0], None, TypeError, r"put it in a list: \[task\]"),
        (Ridge(), episodes()[:0], None, ValueError, "got an empty task set"),
        (Ridge(), episodes(), 3, ValueError, "a list of names or a dict"),
        (Ridge(), episodes(), ["r2", "max_err"], ValueError, "'max_err' is not a valid scoring"),
        (Ridge(), episodes(), [], ValueError, "Empty list"),
        (Ridge(), episodes(), {"r2"}, ValueError, "a list of names or a dict"),
        (Ridge(), episodes(), "no_score", ValueError, "scoring"),
        (Ridge(), episodes(), accuracy_score, ValueError, "make_scorer"),
    ],
)
def test_what_cannot_be_evaluated_gets_a_sentence(estimator, tasks, scoring, kind, message):
    with pytest.raises(kind, match=message):
        evaluate(estimator, tasks, scoring=scoring)


def test_an_estimator_that_cannot_be_fitted_says_why_and_not_that_it_recursed(tasks):
    frozen = FrozenEstimator(ProtoNetClassifier(max_iter=2, random_state=0).meta_fit(tasks))
    with pytest.raises(TaskError, match=r"task 0: .*not fitted"):
        evaluate(frozen, tasks)
