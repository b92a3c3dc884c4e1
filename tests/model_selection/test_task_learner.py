"""A TaskLearner is meta_fit and evaluate behind scikit-learn's fit and score."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError, UndefinedMetricWarning
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer, zero_one_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from fewshot_sklearn import (
    MAMLClassifier,
    MAMLRegressor,
    ProtoNetClassifier,
    TaskLearner,
    evaluate,
)
from fewshot_sklearn.datasets import make_sinusoid_tasks
from tests._data import BODY, SMALL_NET


class Counter:
    """A callback that counts meta-iterations."""

    n_iterations = 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.n_iterations += context.task_name == "meta-iteration"


# ---------------------------------------------------------------------- fit, score, predict


@pytest.mark.parametrize(
    "estimator",
    [
        ProtoNetClassifier(**SMALL_NET),
        MAMLClassifier(n_inner_steps=1, **SMALL_NET),
        MAMLRegressor(n_inner_steps=1, **SMALL_NET),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_fit_meta_fits_a_clone_and_score_is_its_evaluation(tasks, estimator):
    if is_regressor(estimator):
        tasks = make_sinusoid_tasks(12, random_state=0)
    learner = TaskLearner(estimator).fit(tasks[:8])
    by_hand = clone(estimator).meta_fit(tasks[:8])
    assert not hasattr(estimator, "n_meta_iter_")
    assert learner.score(tasks[8:]) == evaluate(by_hand, tasks[8:]).mean


@pytest.mark.parametrize(
    "scoring", ["neg_log_loss", make_scorer(zero_one_loss, greater_is_better=False)]
)
def test_scoring_is_that_of_evaluate(tasks, fitted, scoring):
    learner = TaskLearner(fitted, scoring=scoring, prefit=True).fit(tasks)
    assert learner.score(tasks) == evaluate(fitted, tasks, scoring=scoring).mean


def test_a_meta_fitted_estimator_starts_anew(tasks, fitted):
    learner = TaskLearner(fitted).fit(tasks)
    assert learner.estimator_.n_meta_iter_ == 4
    expected = ProtoNetClassifier(**SMALL_NET).meta_fit(tasks).predict_tasks(tasks)
    np.testing.assert_array_equal(np.stack(learner.predict(tasks)), expected)


def test_with_warm_start_it_goes_on_from_what_it_knows(tasks, fitted):
    learner = TaskLearner(clone(fitted).set_params(warm_start=True))
    for _ in range(2):
        assert learner.fit(tasks).estimator_.n_meta_iter_ == 8
    assert learner.estimator.n_meta_iter_ == 4


def test_validation_tasks_reach_meta_fit(tasks):
    learner = TaskLearner(ProtoNetClassifier(validation_interval=2, **SMALL_NET))
    assert not learner.fit(tasks).estimator_.validation_scores_
    assert learner.fit(tasks, validation_tasks=tasks[:3]).estimator_.validation_scores_
    assert TaskLearner(KNeighborsClassifier(1)).fit(tasks, validation_tasks=tasks[:3])
    search = GridSearchCV(learner, {"estimator__max_iter": [2]}, cv=2)
    best = search.fit(tasks, validation_tasks=tasks[:3]).best_estimator_.estimator_
    assert best.validation_scores_


@pytest.mark.parametrize("prefit", [False, True])
def test_any_estimator_is_a_baseline(tasks, fitted, prefit):
    for estimator in (KNeighborsClassifier(1), make_pipeline(StandardScaler(), fitted)):
        learner = TaskLearner(estimator, prefit=prefit).fit(tasks)
        assert learner.score(tasks) == evaluate(estimator, tasks).mean
        expected = [clone(estimator).fit(*task[:2]).predict(task[2]) for task in tasks]
        np.testing.assert_array_equal(np.stack(learner.predict(tasks)), expected)
    waves = make_sinusoid_tasks(5, random_state=0)
    learner = TaskLearner(Ridge(), prefit=prefit).fit(waves)
    assert learner.score(waves) == evaluate(Ridge(), waves).mean


def test_predictions_stay_apart_by_task(tasks, fitted):
    ragged = [
        (Xs, ys, Xq[: 2 + i % 2], yq[: 2 + i % 2]) for i, (Xs, ys, Xq, yq) in enumerate(tasks)
    ]
    learner = TaskLearner(fitted, prefit=True).fit(ragged)
    predictions = learner.predict(ragged)
    assert predictions.shape == (12,)
    assert [len(p) for p in predictions] == [2, 3] * 6
    for made, expected in zip(predictions, fitted.predict_tasks(ragged), strict=True):
        np.testing.assert_array_equal(made, expected)
    out_of_fold = cross_val_predict(learner, ragged, cv=3)
    assert [len(p) for p in out_of_fold] == [2, 3] * 6


def test_the_learner_learns_new_tasks_through_estimator(tasks):
    learner = TaskLearner(ProtoNetClassifier(**SMALL_NET)).fit(tasks)
    X_support, y_support, X_query, _ = tasks[0]
    predicted = learner.estimator_.fit(X_support, y_support).predict(X_query)
    np.testing.assert_array_equal(predicted, learner.predict(tasks)[0])


# ---------------------------------------------------------------------- prefit


@pytest.mark.parametrize(
    ("estimator", "name", "values"),
    [
        (ProtoNetClassifier(**SMALL_NET), "temperature", [0.1, 1.0, 10.0]),
        (MAMLClassifier(n_inner_steps=1, **SMALL_NET), "n_inner_steps", [0, 1, 3]),
    ],
    ids=["temperature", "n_inner_steps"],
)
@pytest.mark.parametrize("prefit", [True, False])
def test_a_prefit_search_makes_no_meta_iteration(tasks, estimator, name, values, prefit):
    counter = Counter()
    estimator = clone(estimator).meta_fit(tasks).set_callbacks(counter)
    learner = TaskLearner(estimator, scoring="neg_log_loss", prefit=prefit)
    search = GridSearchCV(learner, {f"estimator__{name}": values}, cv=3).fit(tasks)
    assert counter.n_iterations == (0 if prefit else 4 * (3 * len(values) + 1))
    if prefit:
        results = search.cv_results_
        for i, value in enumerate(values):
            set_so = clone(estimator).set_params(**{name: value})
            for k, fold in enumerate(np.split(np.arange(12), 3)):
                expected = evaluate(set_so, tasks[fold], scoring="neg_log_loss").mean
                assert results[f"split{k}_test_score"][i] == expected


def test_prefit_refuses_changed_meta_parameters_by_name(tasks, fitted):
    learner = TaskLearner(fitted, prefit=True)
    learner.set_params(estimator__max_iter=9, estimator__distance="cosine")
    with pytest.raises(
        ValueError, match=r"^distance='cosine', max_iter=9 were changed .* prefit=False"
    ):
        learner.fit(tasks)
    fitted.set_params(max_iter=4, distance="sqeuclidean")
    search = GridSearchCV(learner, {"estimator__max_iter": [5]}, cv=2, error_score="raise")
    with pytest.raises(ValueError, match="max_iter=5 was changed after meta_fit"):
        search.fit(tasks)


def test_prefit_refuses_an_estimator_that_is_not_meta_fitted(tasks):
    learner = TaskLearner(ProtoNetClassifier(**SMALL_NET), prefit=True)
    with pytest.raises(NotFittedError, match="prefit=True needs a meta-fitted estimator"):
        learner.fit(tasks)


def test_a_search_of_rows_over_a_meta_parameter_says_to_wrap(tasks, fitted):
    X, y = load_digits(n_class=3, return_X_y=True)
    search = GridSearchCV(fitted, {"max_iter": [1, 2]}, cv=2, error_score="raise")
    with pytest.raises(ValueError, match=r"max_iter=1 was changed .*TaskLearner\(estimator\)"):
        search.fit(X[:30], y[:30])


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scoring": ["accuracy", "roc_auc"]}, "'scoring' parameter of TaskLearner must be"),
        ({"scoring": "sharpness"}, "sharpness"),
        ({"estimator": "ProtoNet"}, "'estimator' parameter of TaskLearner must be"),
        ({"prefit": "yes"}, "'prefit' parameter of TaskLearner must be"),
    ],
)
def test_parameters_are_checked_before_anything_is_learned(tasks, options, message):
    counter = Counter()
    estimator = ProtoNetClassifier(**SMALL_NET).set_callbacks(counter)
    with pytest.raises(ValueError, match=message):
        TaskLearner(estimator).set_params(**options).fit(tasks)
    assert counter.n_iterations == 0


def test_what_is_no_sequence_of_tasks_is_refused(tasks):
    learner = TaskLearner(KNeighborsClassifier(1))
    with pytest.raises(TypeError, match="an array of shape"):
        learner.fit(np.eye(4))
    with pytest.raises(TypeError, match="got an iterator"):
        learner.fit(iter(list(tasks)))
    with pytest.raises(NotFittedError, match="TaskLearner instance is not fitted"):
        learner.score(tasks)
    with pytest.raises(NotFittedError, match="TaskLearner instance is not fitted"):
        learner.predict(tasks)


def test_a_callable_that_gives_several_scores_is_refused(tasks, fitted):
    def several(estimator, X, y):
        return {"one": 1.0, "two": 2.0}

    learner = TaskLearner(fitted, scoring=several, prefit=True).fit(tasks)
    with pytest.raises(ValueError, match=r"one number for a task, got \['one', 'two'\]"):
        learner.score(tasks)


def no_score_of_zero(estimator, X, y):
    return np.nan if 0 in y else estimator.score(X, y)


def test_a_task_without_a_score_does_not_vanish(tasks, fitted):
    learner = TaskLearner(fitted, scoring=no_score_of_zero, prefit=True).fit(tasks)
    lacking = [i for i, task in enumerate(tasks) if 0 in task.y_query]
    message = rf"^{len(lacking)} of 12 tasks have no score, task {lacking[0]} the first"
    with pytest.warns(UndefinedMetricWarning, match=message):
        assert np.isnan(learner.score(tasks))


def test_a_search_says_that_scores_are_not_defined(tasks, fitted):
    learner = TaskLearner(fitted, scoring=no_score_of_zero, prefit=True)
    search = GridSearchCV(learner, {"estimator__temperature": [1.0]}, cv=2, refit=False)
    with (
        pytest.warns(UndefinedMetricWarning, match="tasks have no score"),
        pytest.warns(UserWarning, match="test scores are non-finite"),
    ):
        search.fit(tasks)
    assert np.isnan(search.cv_results_["mean_test_score"]).all()


# ---------------------------------------------------------------------- scikit-learn's protocols


def test_clones_and_pickles_are_the_same(tasks, fitted):
    learner = TaskLearner(fitted, scoring="accuracy", prefit=True)
    twin = clone(learner)
    assert (twin.scoring, twin.prefit) == ("accuracy", True)
    assert twin.estimator is not fitted
    assert twin.fit(tasks).score(tasks) == learner.fit(tasks).score(tasks)
    assert pickle.loads(pickle.dumps(learner)).score(tasks) == learner.score(tasks)


def test_nested_parameters_reach_the_backbone(tasks):
    learner = TaskLearner(ProtoNetClassifier(**SMALL_NET))
    assert learner.get_params()["estimator__backbone__hidden_layer_sizes"] == (8,)
    learner = clone(learner).set_params(estimator__backbone__hidden_layer_sizes=(5, 3))
    assert learner.fit(tasks).estimator_.backbone.hidden_layer_sizes == (5, 3)
    assert BODY.hidden_layer_sizes == (8,)


def test_it_is_neither_a_classifier_nor_a_regressor_of_tasks():
    learner = TaskLearner(ProtoNetClassifier())
    tags = get_tags(learner)
    assert not is_classifier(learner)
    assert not is_regressor(learner)
    assert not tags.target_tags.required
    assert not tags.input_tags.two_d_array


def test_it_shows_what_it_wraps():
    learner = TaskLearner(ProtoNetClassifier(), scoring="accuracy")
    assert repr(learner).startswith(
        "TaskLearner(estimator=ProtoNetClassifier(), scoring='accuracy'"
    )
    html = learner._repr_html_()
    assert "TaskLearner" in html
    assert "ProtoNetClassifier" in html


def test_a_few_shot_learner_that_the_tasks_would_not_reach_is_refused(tasks):
    protonet = ProtoNetClassifier(max_iter=2)
    hidden = make_pipeline(StandardScaler(), protonet)
    with pytest.raises(ValueError, match=r"protonetclassifier=ProtoNetClassifier.*MetaPipeline"):
        TaskLearner(hidden).fit(tasks)
    searched = GridSearchCV(protonet, {"temperature": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"GridSearchCV\(TaskLearner"):
        TaskLearner(searched).fit(tasks)
    with pytest.raises(ValueError, match="is a TaskLearner already"):
        TaskLearner(TaskLearner(protonet)).fit(tasks)
    known = make_pipeline(StandardScaler(), ProtoNetClassifier(max_iter=2).meta_fit(tasks))
    assert 0 <= TaskLearner(known, prefit=True).fit(tasks).score(tasks) <= 1
