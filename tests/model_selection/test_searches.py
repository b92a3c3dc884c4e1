"""Searches, curves and splitters that others wrote take tasks for samples."""

import joblib
import numpy as np
import pytest
from distributed import Client, LocalCluster
from optuna.distributions import FloatDistribution, IntDistribution
from optuna_integration.sklearn import OptunaSearchCV
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
    learning_curve,
    train_test_split,
    validation_curve,
)
from sklearn.neighbors import KNeighborsClassifier

from fewshot_sklearn import (
    MLP,
    EpisodicTasks,
    GroupedTasks,
    ProtoNetClassifier,
    TaskLearner,
    TaskList,
    evaluate,
)

RATE = "estimator__meta_learning_rate"


@pytest.fixture
def learner():
    body = MLP(hidden_layer_sizes=(8,))
    return TaskLearner(
        ProtoNetClassifier(backbone=body, max_iter=3, meta_batch_size=2, random_state=0)
    )


def by_hand(learner, tasks, train, test, **params):
    """Return the score that a fold must have, without TaskLearner."""
    clf = clone(learner.estimator).set_params(**params).meta_fit(tasks[train])
    return evaluate(clf, tasks[test]).mean


def folds(n_tasks=12, n_folds=3):
    parts = np.split(np.arange(n_tasks), n_folds)
    return [(np.setdiff1d(np.arange(n_tasks), part), part) for part in parts]


# ---------------------------------------------------------------------- searches


def test_a_grid_search_takes_folds_of_tasks(tasks, learner):
    rates = [1e-3, 1e-1]
    search = GridSearchCV(learner, {RATE: rates}, cv=3, error_score="raise").fit(tasks)
    for i, rate in enumerate(rates):
        for k, (train, test) in enumerate(folds()):
            expected = by_hand(learner, tasks, train, test, meta_learning_rate=rate)
            assert search.cv_results_[f"split{k}_test_score"][i] == expected


def test_the_best_estimator_knows_all_tasks_and_learns_new_ones(tasks, learner):
    search = GridSearchCV(learner, {RATE: [1e-3, 1e-1]}, cv=3).fit(tasks)
    expected = clone(learner.estimator).set_params(meta_learning_rate=search.best_params_[RATE])
    expected.meta_fit(tasks)
    assert search.score(tasks) == evaluate(expected, tasks).mean
    X_support, y_support, X_query, _ = tasks[0]
    best = search.best_estimator_.estimator_.fit(X_support, y_support)
    expected.fit(X_support, y_support)
    np.testing.assert_array_equal(best.predict_proba(X_query), expected.predict_proba(X_query))
    np.testing.assert_array_equal(search.predict(tasks)[0], expected.predict(X_query))


def test_without_refit_there_are_scores_alone(tasks, learner):
    search = GridSearchCV(learner, {RATE: [1e-3, 1e-1]}, cv=2, refit=False).fit(tasks)
    assert not hasattr(search, "best_estimator_")
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_candidate_that_fails_gets_the_error_score(tasks, learner):
    grid = {"estimator__meta_batch_size": [0, 2]}
    with pytest.raises(ValueError, match="'meta_batch_size' parameter of ProtoNetClassifier"):
        GridSearchCV(learner, grid, cv=2, error_score="raise").fit(tasks)
    search = GridSearchCV(learner, grid, cv=2, error_score=-1.0)
    with pytest.warns(FitFailedWarning, match="'meta_batch_size' parameter of ProtoNetClassifier"):
        search.fit(tasks)
    assert search.cv_results_["mean_test_score"][0] == -1
    assert search.best_params_ == {"estimator__meta_batch_size": 2}


def test_a_search_reaches_the_backbone_and_other_estimators(tasks, learner):
    grid = [
        {"estimator__backbone__hidden_layer_sizes": [(4,), (6, 5)]},
        {"estimator": [KNeighborsClassifier()], "estimator__n_neighbors": [1, 3]},
    ]
    search = GridSearchCV(learner, grid, cv=2, error_score="raise").fit(tasks)
    results = search.cv_results_
    train, test = folds(n_folds=2)[0]
    expected = by_hand(learner, tasks, train, test, backbone__hidden_layer_sizes=(6, 5))
    assert results["split0_test_score"][1] == expected
    expected = evaluate(KNeighborsClassifier(3), tasks[test]).mean
    assert results["split0_test_score"][3] == expected


def test_plain_lists_of_tasks_are_searched_like_task_sets(tasks, learner):
    search = GridSearchCV(learner, {RATE: [1e-3, 1e-1]}, cv=3)
    frozen = TaskList(list(tasks), shared_classes=False)
    expected = search.fit(frozen).cv_results_["mean_test_score"]
    assert expected[0] != expected[1]
    for plain in ([tuple(task) for task in tasks], list(tasks)):
        np.testing.assert_array_equal(search.fit(plain).cv_results_["mean_test_score"], expected)


def test_a_randomized_search_draws_rates(tasks, learner):
    search = RandomizedSearchCV(
        learner, {RATE: loguniform(1e-4, 1e-1)}, n_iter=3, cv=3, random_state=0
    ).fit(tasks)
    train, test = folds()[1]
    expected = by_hand(learner, tasks, train, test, meta_learning_rate=search.best_params_[RATE])
    assert search.cv_results_["split1_test_score"][search.best_index_] == expected


def test_halving_spends_more_tasks_on_better_candidates(tasks, learner):
    search = HalvingGridSearchCV(
        learner, {RATE: [1e-4, 1e-3, 1e-2, 1e-1]}, cv=2, factor=2, random_state=0
    ).fit(tasks)
    assert search.n_resources_ == [4, 8]
    assert search.n_candidates_ == [4, 2]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_halving_spends_more_iterations_on_better_candidates(tasks, learner):
    search = HalvingGridSearchCV(
        learner,
        {RATE: [1e-4, 1e-3, 1e-2, 1e-1]},
        resource="estimator__max_iter",
        min_resources=2,
        max_resources=8,
        cv=2,
        factor=2,
        random_state=0,
    ).fit(tasks)
    assert search.n_resources_ == [2, 4, 8]
    assert search.best_estimator_.estimator_.n_meta_iter_ == 8
    last = search.best_index_
    train, test = folds(n_folds=2)[0]
    params = {"meta_learning_rate": search.best_params_[RATE], "max_iter": 8}
    expected = by_hand(learner, tasks, train, test, **params)
    assert search.cv_results_["split0_test_score"][last] == expected


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.filterwarnings("ignore:`optuna.terminator` module:FutureWarning")
def test_optuna_searches_over_tasks(tasks, learner):
    distributions = {
        RATE: FloatDistribution(1e-4, 1e-1, log=True),
        "estimator__max_iter": IntDistribution(1, 3),
    }
    search = OptunaSearchCV(
        learner, distributions, cv=3, n_trials=4, random_state=0, error_score="raise"
    ).fit(tasks)
    scores = []
    for trial in search.trials_:
        params = {name.removeprefix("estimator__"): value for name, value in trial.params.items()}
        scores.append(np.mean([by_hand(learner, tasks, *fold, **params) for fold in folds()]))
    assert [trial.value for trial in search.trials_] == pytest.approx(scores)
    assert search.best_score_ == pytest.approx(max(scores))
    assert (
        search.best_estimator_.estimator_.n_meta_iter_ == search.best_params_["estimator__max_iter"]
    )


def test_several_scores_come_from_one_callable(tasks, learner):
    def scoring(learner, tasks, y=None):
        names = ("accuracy", "neg_log_loss")
        return {n: evaluate(learner.estimator_, tasks, scoring=n).mean for n in names}

    search = GridSearchCV(learner, {RATE: [1e-3, 1e-1]}, cv=3, scoring=scoring, refit="accuracy")
    results = search.fit(tasks).cv_results_
    train, test = folds()[2]
    assert results["split2_test_accuracy"][0] == by_hand(
        learner, tasks, train, test, meta_learning_rate=1e-3
    )
    assert (results["mean_test_neg_log_loss"] < 0).all()


# ---------------------------------------------------------------------- workers


@pytest.fixture
def search(learner):
    return GridSearchCV(learner, {RATE: [1e-3, 1e-2, 1e-1]}, cv=2)


def assert_same_results(one, other):
    for key in ("split0_test_score", "split1_test_score", "rank_test_score"):
        np.testing.assert_array_equal(one.cv_results_[key], other.cv_results_[key])


def test_two_workers_give_the_result_of_one(tasks, search):
    one = clone(search).fit(tasks)
    assert_same_results(one, search.set_params(n_jobs=2).fit(tasks))


def test_a_prefit_search_takes_its_weights_to_the_workers(tasks, search):
    fitted = clone(search.estimator.estimator).meta_fit(tasks)
    prefit = TaskLearner(fitted, prefit=True, scoring="neg_log_loss")
    search = GridSearchCV(prefit, {"estimator__temperature": [0.1, 1.0]}, cv=2)
    one = clone(search).fit(tasks)
    assert_same_results(one, search.set_params(n_jobs=2).fit(tasks))


def test_threads_give_the_result_of_one_though_they_share_a_random_generator(tasks, search):
    one = clone(search).fit(tasks)
    with joblib.parallel_config("threading", n_jobs=4):
        for _ in range(3):
            assert_same_results(one, clone(search).set_params(n_jobs=4).fit(tasks))


def test_a_dask_cluster_gives_the_result_of_one(tasks, search):
    one = clone(search).fit(tasks)
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with (
        LocalCluster(processes=True, **options) as cluster,
        Client(cluster),
        joblib.parallel_config("dask"),
    ):
        assert_same_results(one, search.fit(tasks))


# ---------------------------------------------------------------------- validation


def test_cross_validation_scores_each_fold(tasks, learner):
    scores = cross_val_score(learner, tasks, cv=3)
    assert scores.tolist() == [by_hand(learner, tasks, *fold) for fold in folds()]
    result = cross_validate(learner, tasks, cv=3, return_train_score=True, return_estimator=True)
    assert result["test_score"].tolist() == scores.tolist()
    for (train, _), one, score in zip(
        folds(), result["estimator"], result["train_score"], strict=True
    ):
        assert one.score(tasks[train]) == score


def test_a_learning_curve_counts_tasks(tasks, learner):
    sizes, _, scores = learning_curve(learner, tasks, None, cv=3, train_sizes=[2, 8])
    assert sizes.tolist() == [2, 8]
    for size, of_folds in zip(sizes, scores, strict=True):
        expected = [by_hand(learner, tasks, train[:size], test) for train, test in folds()]
        assert of_folds.tolist() == expected


def test_a_validation_curve_has_a_row_a_value(tasks, learner):
    options = {"param_name": "estimator__max_iter", "param_range": [1, 3], "cv": 3}
    _, scores = validation_curve(learner, tasks, None, **options)
    for n, of_folds in zip((1, 3), scores, strict=True):
        assert of_folds.tolist() == [by_hand(learner, tasks, *f, max_iter=n) for f in folds()]


def test_train_and_test_tasks_are_split_from_a_task_set(tasks, learner):
    train, test = train_test_split(tasks, test_size=0.25, random_state=0)
    assert (len(train), len(test)) == (9, 3)
    assert isinstance(train, EpisodicTasks)
    assert sorted([*train.task_ids, *test.task_ids]) == list(range(12))
    score = learner.fit(train).score(test)
    assert score == by_hand(learner, tasks, train.task_ids, test.task_ids)


def assays():
    """Nine assays of three families, named by strings."""
    X, y = load_digits(return_X_y=True)
    groups = np.repeat([f"assay {i}" for i in range(9)], 20)
    tasks = GroupedTasks(X[:180] / 16, y[:180] % 2, groups, n_support=6, random_state=0)
    return tasks, np.array(["kinase", "gpcr", "ion"])[np.arange(9) % 3]


def test_task_families_stay_together(learner):
    tasks, families = assays()
    search = GridSearchCV(learner, {RATE: [1e-2]}, cv=GroupKFold(3), error_score="raise")
    search.fit(tasks, groups=families)
    splits = list(GroupKFold(3).split(tasks, groups=families))
    for k, (train, test) in enumerate(splits):
        assert not set(families[train]) & set(families[test])
        expected = by_hand(learner, tasks, train, test, meta_learning_rate=1e-2)
        assert search.cv_results_[f"split{k}_test_score"][0] == expected


def test_a_splitter_may_want_a_label_for_each_task(learner):
    tasks, families = assays()
    scores = cross_val_score(learner, tasks, families, cv=StratifiedKFold(3))
    splits = StratifiedKFold(3).split(tasks, families)
    assert scores.tolist() == [by_hand(learner, tasks, *split) for split in splits]
