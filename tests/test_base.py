"""The shell: states, parameters, clones, and life inside scikit-learn's meta-estimators."""

import copy
import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from joblib import parallel_config
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from fewshot_sklearn import (
    MLP,
    Conv4,
    EpisodicTasks,
    GroupedTasks,
    MAMLClassifier,
    MAMLRegressor,
    MANNClassifier,
    MatchingNetClassifier,
    ProtoNetClassifier,
    TaskList,
    _estimator,
    base,
)
from fewshot_sklearn._plain_data import plain_rows
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.exceptions import MetaTrainingError, NotMetaFittedWarning, TaskError

CLASSIFIERS = [ProtoNetClassifier, MAMLClassifier, MANNClassifier]
ALL = [*CLASSIFIERS, MAMLRegressor]


def small(cls=ProtoNetClassifier, **params):
    params = {"max_iter": 3, "random_state": 0} | params
    if cls is MANNClassifier:
        params = {"n_hidden": 8, "n_slots": 6, "slot_size": 3, "n_read_heads": 2} | params
    else:
        params = {"backbone": MLP(hidden_layer_sizes=(8,))} | params
    return cls(**params)


def make_blobs():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 10)
    return rng.normal(size=(12, 4))[y] * 2 + rng.normal(size=(120, 4)) / 2, y


@pytest.fixture(scope="module")
def blobs():
    """Return rows around twelve centres, and their numbers."""
    return make_blobs()


@pytest.fixture(scope="module")
def tasks(blobs):
    return EpisodicTasks(*blobs, n_way=3, n_shot=2, n_query=2, n_tasks=24, random_state=0)


@pytest.fixture(scope="module")
def sines():
    return make_sinusoid_tasks(20, random_state=0)


@pytest.fixture(scope="module")
def meta_fitted(tasks, sines):
    """Return a function that gives a meta-fitted estimator of a class, which nobody may change."""
    known = {cls: small(cls).meta_fit(sines if cls is MAMLRegressor else tasks) for cls in ALL}
    return lambda cls=ProtoNetClassifier: clone(known[cls])


@pytest.fixture(scope="module")
def support(tasks, sines):
    return lambda cls=ProtoNetClassifier: (sines if cls is MAMLRegressor else tasks)[0]


def weights(estimator):
    state = estimator._meta.learner.state_dict()
    return np.concatenate([v.numpy().ravel() for v in state.values()])


# ---------------------------------------------------------------------------- states


@pytest.mark.parametrize("cls", ALL)
def test_a_new_estimator_says_what_to_do_first(cls, support):
    estimator = small(cls)
    with pytest.raises(NotFittedError, match=rf"^this {cls.__name__} instance is not fitted yet; "):
        estimator.predict(support(cls).X_query)
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)
    with pytest.raises(NotFittedError, match=f"needs a meta-fitted {cls.__name__}; call meta_fit"):
        estimator.predict_tasks([support(cls)])


@pytest.mark.parametrize("cls", ALL)
def test_a_meta_fitted_estimator_is_not_fitted_and_says_so(cls, meta_fitted, support):
    estimator = meta_fitted(cls)
    with pytest.raises(NotFittedError, match=r"is meta-fitted but not fitted yet; call fit\("):
        estimator.predict(support(cls).X_query)
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)
    assert not hasattr(estimator, "classes_")


@pytest.mark.parametrize("cls", ALL)
def test_fit_after_meta_fit_learns_a_task_and_keeps_what_was_meta_learned(
    cls, meta_fitted, support
):
    estimator = meta_fitted(cls)
    before, curve = weights(estimator), list(estimator.meta_loss_curve_)
    X, y, X_query, _ = support(cls)
    assert estimator.fit(X, y) is estimator
    check_is_fitted(estimator)
    assert len(estimator.predict(X_query)) == len(X_query)
    np.testing.assert_array_equal(weights(estimator), before)
    assert estimator.meta_loss_curve_ == curve
    assert estimator.n_meta_iter_ == 3


def test_fit_again_learns_another_task_and_forgets_the_first(meta_fitted, blobs):
    X, y = blobs
    clf = meta_fitted().fit(X[:40], y[:40])
    assert clf.fit(X[40:70], y[40:70]) is clf
    np.testing.assert_array_equal(clf.classes_, [4, 5, 6])
    alone = meta_fitted().fit(X[40:70], y[40:70])
    np.testing.assert_array_equal(clf.predict_proba(X), alone.predict_proba(X))


def test_meta_fit_makes_a_fitted_estimator_meta_fitted_again(tasks, meta_fitted, support):
    X, y, X_query, _ = support()
    clf = meta_fitted().fit(X, y)
    clf.meta_fit(tasks)
    with pytest.raises(NotFittedError, match="meta-fitted but not fitted"):
        clf.predict(X_query)


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_fit_of_a_new_estimator_is_complete_by_itself(cls, blobs):
    X, y = blobs
    clf = small(cls, max_iter=3).fit(X[::2], y[::2])
    assert clf.n_meta_iter_ == 3
    assert clf.predict(X[1::2]).shape == (60,)
    assert clf.n_features_in_ == 4


def test_what_a_plain_fit_meta_learned_belongs_to_that_fit(blobs, tasks):
    X, y = blobs
    clf = small().fit(X, y)
    first = clf.predict_proba(X)
    with pytest.raises(NotFittedError):
        clf.predict_tasks(tasks)
    np.testing.assert_array_equal(clf.fit(X, y).predict_proba(X), first)
    copied = clone(clf)
    assert not hasattr(copied, "n_meta_iter_")
    # No state of a user's is at stake, so any parameter may change.
    clf.set_params(distance="cosine").fit(X, y)
    assert clf.meta_fit(tasks).n_meta_iter_ == 3


@pytest.mark.parametrize("cls", ALL)
def test_the_html_repr_shows_the_state(cls, meta_fitted, support):
    def status(estimator):
        html = estimator._repr_html_()
        return [s for s in ("New", "Meta-fitted", "Fitted") if f"<span>{s}</span>" in html]

    assert status(small(cls)) == ["New"]
    estimator = meta_fitted(cls)
    assert status(estimator) == ["Meta-fitted"]
    assert status(estimator.fit(*support(cls)[:2])) == ["Fitted"]


# ---------------------------------------------------------------------------- clone and pickle


@pytest.mark.parametrize("cls", ALL)
def test_a_clone_is_meta_fitted_not_fitted_and_shares_the_weights(cls, meta_fitted, support):
    X, y, X_query, _ = support(cls)
    estimator = meta_fitted(cls).fit(X, y)
    copied = clone(estimator)
    with pytest.raises(NotFittedError, match="meta-fitted but not fitted"):
        copied.predict(X_query)
    for a, b in zip(
        estimator._meta.learner.parameters(), copied._meta.learner.parameters(), strict=True
    ):
        assert a.data_ptr() == b.data_ptr()
    assert copied.n_meta_iter_ == 3
    assert copied.n_features_in_ == estimator.n_features_in_
    np.testing.assert_array_equal(copied.fit(X, y).predict(X_query), estimator.predict(X_query))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("cls", ALL)
def test_deep_copies_and_pickles_keep_everything(cls, copier, meta_fitted, support):
    X, y, X_query, _ = support(cls)
    estimator = meta_fitted(cls).fit(X, y)
    copied = copier(estimator)
    np.testing.assert_array_equal(copied.predict(X_query), estimator.predict(X_query))
    np.testing.assert_array_equal(weights(copied), weights(estimator))
    copied.fit(X, y).predict_tasks([support(cls)])


def test_a_module_for_a_backbone_survives_clones_of_clones(tasks, support):
    X, y, X_query, _ = support()
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
    before = copy.deepcopy(module.state_dict())
    clf = small(backbone=module, meta_learning_rate=0.1).meta_fit(tasks)
    expected = clf.fit(X, y).predict_proba(X_query)
    for copied in (clone(clf), clone(clone(clf)), pickle.loads(pickle.dumps(clf))):
        np.testing.assert_array_equal(copied.fit(X, y).predict_proba(X_query), expected)
        copied.partial_meta_fit(tasks)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with pytest.raises(ValueError, match=r"backbone=.* was changed after meta_fit"):
        clone(clf).set_params(backbone=nn.Linear(4, 5)).fit(X, y)


def test_a_clone_remembers_that_a_parameter_was_changed(meta_fitted, support):
    changed = meta_fitted().set_params(distance="cosine")
    for estimator in (clone(changed), clone(clone(changed)), pickle.loads(pickle.dumps(changed))):
        with pytest.raises(ValueError, match="distance='cosine' was changed after meta_fit"):
            estimator.fit(*support()[:2])
        estimator.set_params(distance="sqeuclidean").fit(*support()[:2])


# ---------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("cls", ALL)
def test_parameters_are_keyword_only_and_kept_as_they_are_given(cls):
    parameters = inspect.signature(cls).parameters
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    params = cls().get_params(deep=False)
    assert set(params) == set(parameters)
    for name, value in params.items():
        assert value is parameters[name].default, name
    with pytest.raises(TypeError):
        cls(MLP())
    with pytest.raises(TypeError, match="unexpected keyword"):
        cls(n_neighbors=3)
    sizes = [3, 4]
    assert cls(backbone=sizes).backbone is sizes


@pytest.mark.parametrize("cls", ALL)
def test_every_parameter_is_documented_and_has_a_constraint(cls):
    for name in cls().get_params(deep=False):
        assert f"\n{name} : " in inspect.cleandoc(cls.__doc__), name
        assert name in cls._parameter_constraints or name == "backbone", name


@pytest.mark.parametrize("method", ["fit", "meta_fit", "partial_meta_fit"])
def test_a_parameter_out_of_range_is_named(method, tasks, blobs):
    arguments = blobs if method == "fit" else (tasks,)
    for params in ({"max_iter": 0}, {"meta_optimizer": "lbfgs"}, {"temperature": -1.0}):
        (name,) = params
        with pytest.raises(ValueError, match=f"The '{name}' parameter of ProtoNetClassifier"):
            getattr(small(**params), method)(*arguments)


META_PARAMETERS = {
    "backbone": MLP(hidden_layer_sizes=(9,)),
    "max_iter": 4,
    "max_time": 1.0,
    "meta_batch_size": 2,
    "meta_optimizer": "sgd",
    "meta_learning_rate": 0.5,
    "schedule": "linear",
    "clip_norm": None,
    "early_stopping": True,
    "validation_interval": 3,
    "n_iter_no_change": 2,
    "tol": 0.5,
    "precision": "float64",
    "distance": "cosine",
}
ADAPTATION_PARAMETERS = {
    "device": "cpu",
    "random_state": 7,
    "verbose": 1,
    "warm_start": True,
    "temperature": 3.0,
    "transductive": True,
    "n_refinement_steps": 2,
}


def test_every_parameter_is_either_a_meta_or_an_adaptation_parameter():
    names = set(ProtoNetClassifier().get_params(deep=False))
    assert names == {*META_PARAMETERS, *ADAPTATION_PARAMETERS}


@pytest.mark.parametrize("name", META_PARAMETERS)
def test_fit_refuses_a_meta_parameter_that_was_changed_after_meta_fit(name, meta_fitted, support):
    clf = meta_fitted()
    before = getattr(clf, name)
    clf.set_params(**{name: META_PARAMETERS[name]})
    for use in (lambda: clf.fit(*support()[:2]), lambda: clf.predict_tasks([support()])):
        with pytest.raises(
            ValueError, match=rf"^{name}=.* was changed after meta_fit, .*call meta_fit again"
        ):
            use()
    clf.set_params(**{name: before}).fit(*support()[:2])


@pytest.mark.parametrize("name", ADAPTATION_PARAMETERS)
def test_an_adaptation_parameter_may_change_after_meta_fit(name, meta_fitted, support):
    clf = meta_fitted().set_params(**{name: ADAPTATION_PARAMETERS[name]})
    clf.fit(*support()[:2]).predict(support().X_query)


def test_meta_fit_again_takes_a_changed_meta_parameter(tasks, meta_fitted, support):
    clf = meta_fitted().set_params(distance="cosine", max_iter=2).meta_fit(tasks)
    assert clf.fit(*support()[:2]).n_meta_iter_ == 2


def test_a_specification_like_the_one_before_is_no_change(meta_fitted, support):
    meta_fitted().set_params(backbone=MLP(hidden_layer_sizes=(8,))).fit(*support()[:2])


def test_the_backbones_parameters_are_nested(meta_fitted, support):
    clf = small()
    assert clf.get_params()["backbone__hidden_layer_sizes"] == (8,)
    clf.set_params(backbone__hidden_layer_sizes=(5,), backbone__activation="tanh")
    assert clf.backbone == MLP(hidden_layer_sizes=(5,), activation="tanh")
    with pytest.raises(ValueError, match="MLP has no parameter 'width'"):
        clf.set_params(backbone__width=3)
    clf = meta_fitted().set_params(backbone__hidden_layer_sizes=(9,))
    with pytest.raises(ValueError, match=r"backbone=MLP\(.*\(9,\).* was changed after meta_fit"):
        clf.fit(*support()[:2])
    clf.set_params(backbone__hidden_layer_sizes=(8,)).fit(*support()[:2])


def test_setting_a_clones_backbone_leaves_the_originals_as_it_is(meta_fitted, support):
    clf = meta_fitted()
    clone(clf).set_params(backbone__hidden_layer_sizes=(9,))
    assert clf.backbone.hidden_layer_sizes == (8,)
    clf.fit(*support()[:2])


@pytest.mark.parametrize("cls", ALL)
def test_fitting_changes_no_parameter(cls, tasks, sines, support):
    estimator = small(cls)
    before = copy.deepcopy(estimator.get_params())
    estimator.meta_fit(sines if cls is MAMLRegressor else tasks).fit(*support(cls)[:2])
    assert estimator.get_params() == before


def test_the_repr_shows_what_differs_from_the_default():
    assert repr(MAMLRegressor(n_inner_steps=3)) == "MAMLRegressor(n_inner_steps=3)"


@pytest.mark.parametrize("cls", ALL)
def test_estimators_are_of_their_kind(cls):
    assert is_classifier(cls()) == (cls is not MAMLRegressor)
    assert is_regressor(cls()) == (cls is MAMLRegressor)


# ---------------------------------------------------------------------------- too few rows


@pytest.mark.parametrize("cls", CLASSIFIERS)
@pytest.mark.parametrize("labels", [["a", "b"], ["a", "a", "b"], ["a"], ["a"] * 6])
def test_rows_too_few_for_episodes_adapt_from_the_initial_weights_with_a_warning(cls, labels):
    X = np.arange(2.0 * len(labels)).reshape(-1, 2)
    clf = small(cls)
    with pytest.warns(
        NotMetaFittedWarning,
        match=rf"^{len(labels)} rows of {len(set(labels))} class.* too few to cut episodes from",
    ):
        clf.fit(X, labels)
    np.testing.assert_array_equal(clf.classes_, sorted(set(labels)))
    assert set(clf.predict(X)) <= set(labels)
    np.testing.assert_allclose(clf.predict_proba(X).sum(axis=1), 1)
    assert clf.n_meta_iter_ == 0


def test_a_regressor_with_few_rows_warns_too():
    X = np.arange(3.0)[:, None]
    with pytest.warns(NotMetaFittedWarning, match="3 rows"):
        reg = small(MAMLRegressor).fit(X, [5.0, 6.0, 7.0])
    assert np.isfinite(reg.predict(X)).all()


def test_a_meta_fitted_estimator_takes_a_single_row_without_a_warning(meta_fitted):
    clf = meta_fitted().fit([[1.0, 2.0, 3.0, 4.0]], ["only"])
    assert clf.predict([[0.0, 0.0, 0.0, 0.0]]) == ["only"]


# ---------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "labels",
    [["red", "green", "blue"], [False, True], [-7, 3, 10**12], [0.0, 1.0, 2.0]],
    ids=["str", "bool", "int", "float"],
)
@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_any_labels_come_back_as_they_went_in(cls, labels, meta_fitted, blobs):
    X = blobs[0]
    y = np.array(labels)[np.arange(30) % len(labels)]
    clf = meta_fitted(cls).fit(X[:30], y)
    np.testing.assert_array_equal(clf.classes_, np.unique(y))
    predictions = clf.predict(X)
    assert predictions.dtype == y.dtype
    assert set(predictions) <= set(labels)
    proba = clf.predict_proba(X)
    assert proba.shape == (120, len(labels))
    np.testing.assert_array_equal(clf.classes_[proba.argmax(axis=1)], predictions)


def test_object_and_categorical_labels_are_labels(meta_fitted, blobs):
    X = blobs[0][:4]
    for y in (pd.Series(["a", "b", "a", "b"], dtype="category"), np.array(list("abab"), object)):
        assert set(meta_fitted().fit(X, y).predict(X)) <= {"a", "b"}


def test_real_numbers_are_no_classes(meta_fitted, blobs):
    with pytest.raises(ValueError, match="Unknown label type"):
        meta_fitted().fit(blobs[0][:3], [0.5, 1.5, 2.5])


# ---------------------------------------------------------------------------- scikit-learn's tools


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_cross_validation_of_a_meta_fitted_estimator_only_adapts(cls, meta_fitted, blobs):
    X, y = blobs[0][:30], blobs[1][:30]
    cv = StratifiedKFold(3)
    scores = cross_val_score(meta_fitted(cls), X, y, cv=cv, error_score="raise")
    expected = [
        meta_fitted(cls).fit(X[train], y[train]).score(X[test], y[test])
        for train, test in cv.split(X, y)
    ]
    np.testing.assert_array_equal(scores, expected)


def test_cross_validation_runs_in_threads(meta_fitted, blobs):
    X, y = blobs
    clf = meta_fitted(MAMLClassifier).set_params(n_inner_steps=2)
    with parallel_config(backend="threading"):
        scores = [cross_val_score(clf, X, y, cv=2, n_jobs=n) for n in (1, 2)]
    np.testing.assert_array_equal(*scores)


def test_an_estimator_is_the_last_step_of_a_pipeline(meta_fitted, blobs):
    X, y = blobs
    new = make_pipeline(StandardScaler(), small()).fit(X, y)
    assert new[-1].n_meta_iter_ == 3
    pipeline = make_pipeline(StandardScaler(), meta_fitted()).fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    expected = meta_fitted().fit(scaled, y).predict_proba(scaled)
    np.testing.assert_array_equal(pipeline.predict_proba(X), expected)
    assert 0 <= clone(pipeline).fit(X, y).score(X, y) <= 1


def test_a_grid_search_of_new_estimators_reaches_into_the_backbone(blobs):
    X, y = blobs
    search = GridSearchCV(
        small(max_iter=2), {"backbone__hidden_layer_sizes": [(4,), (6,)]}, cv=2,
        error_score="raise",
    ).fit(X, y)  # fmt: skip
    width = search.best_params_["backbone__hidden_layer_sizes"][0]
    assert search.best_estimator_._adapted[1]["prototypes"].shape[2] == width


def test_a_grid_search_of_a_meta_fitted_estimator_takes_adaptation_parameters(meta_fitted, blobs):
    X, y = blobs[0][:30], blobs[1][:30]
    maml = meta_fitted(MAMLClassifier)
    grid = {"n_inner_steps": [0, 5], "inner_learning_rate": [0.1, 0.5]}
    search = GridSearchCV(maml, grid, cv=2, error_score="raise").fit(X, y)
    np.testing.assert_array_equal(weights(search.best_estimator_), weights(maml))
    assert search.best_params_["n_inner_steps"] == 5


def test_a_grid_search_of_a_meta_fitted_estimator_refuses_meta_parameters(meta_fitted, blobs):
    search = GridSearchCV(meta_fitted(), {"max_iter": [2, 9]}, cv=2, error_score="raise")
    with pytest.raises(ValueError, match="max_iter=2 was changed after meta_fit"):
        search.fit(*blobs)


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_bagging_a_meta_fitted_estimator_shares_its_weights(cls, meta_fitted, blobs):
    X, y = blobs[0][:30], blobs[1][:30]
    clf = meta_fitted(cls)
    bag = BaggingClassifier(clf, n_estimators=3, random_state=0).fit(X, y)
    assert {e.n_meta_iter_ for e in bag.estimators_} == {3}
    np.testing.assert_array_equal(weights(bag.estimators_[2]), weights(clf))
    assert bag.predict_proba(X).shape == (30, 3)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_a_meta_fitted_estimator_is_calibrated(cls, method, meta_fitted, blobs):
    X, y = blobs[0][:30], np.array(["a", "b", "c"])[blobs[1][:30]]
    calibrated = CalibratedClassifierCV(meta_fitted(cls), method=method, cv=3).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)
    inner = calibrated.calibrated_classifiers_[0].estimator
    assert inner.n_meta_iter_ == 3


def test_a_meta_fitted_estimator_votes_and_is_stacked(meta_fitted, blobs):
    X, y = blobs[0][:30], np.array(["a", "b", "c"])[blobs[1][:30]]
    members = [("proto", meta_fitted()), ("logistic", LogisticRegression())]
    voting = VotingClassifier(members, voting="soft").fit(X, y)
    assert set(voting.predict(X)) <= {"a", "b", "c"}
    stacking = StackingClassifier(members, cv=3).fit(X, y)
    assert stacking.score(X, y) > 0.5


def test_a_new_estimator_is_a_classifier_like_any_other():
    X, y = make_classification(150, 8, n_informative=5, n_classes=3, class_sep=2, random_state=0)
    scores = cross_val_score(small(max_iter=60), X, y, cv=3, error_score="raise")
    assert scores.mean() > 0.6


# ---------------------------------------------------------------------------- kinds of X


def test_feature_names_are_those_of_the_tasks(blobs):
    X, y = blobs
    frame = pd.DataFrame(X, columns=list("abcd"))
    tasks = EpisodicTasks(frame, y, n_way=3, n_shot=2, n_query=2, n_tasks=10, random_state=0)
    clf = clone(small().meta_fit(tasks))
    np.testing.assert_array_equal(clf.feature_names_in_, list("abcd"))
    by_name = clf.fit(frame, y).predict_proba(frame)
    plain = EpisodicTasks(X, y, n_way=3, n_shot=2, n_query=2, n_tasks=10, random_state=0)
    np.testing.assert_array_equal(by_name, small().meta_fit(plain).fit(X, y).predict_proba(X))
    with pytest.raises(ValueError, match="feature names should match"):
        clf.fit(frame[list("bacd")], y)
    with pytest.raises(ValueError, match="feature names should match"):
        clf.predict(frame.rename(columns={"a": "z"}))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        clf.predict(X)


def test_feature_names_of_tasks_in_a_list_are_kept_too(blobs):
    X, y = blobs
    frame = pd.DataFrame(X[:20], columns=list("abcd"))
    clf = small().meta_fit([(frame, y[:20], frame, y[:20])] * 3)
    np.testing.assert_array_equal(clf.feature_names_in_, list("abcd"))
    with pytest.raises(ValueError, match="feature names should match"):
        clf.fit(frame[list("dcba")], y[:20])


def test_a_plain_fit_takes_the_names_of_its_own_rows(blobs):
    X, y = blobs
    frame = pd.DataFrame(X, columns=list("abcd"))
    clf = small().fit(frame, y)
    np.testing.assert_array_equal(clf.feature_names_in_, list("abcd"))
    clf.fit(X, y)
    assert not hasattr(clf, "feature_names_in_")


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csr_array, sp.csc_array, sp.coo_array])
def test_sparse_rows_are_dense_rows(make, meta_fitted, support):
    X, y, X_query, _ = support()
    dense = meta_fitted().fit(X, y).predict_proba(X_query)
    sparse = meta_fitted().fit(make(X), y).predict_proba(make(X_query))
    np.testing.assert_array_equal(dense, sparse)


def test_sparse_tasks_are_dense_tasks(blobs):
    X, y = blobs
    params = {"n_way": 3, "n_shot": 2, "n_query": 2, "n_tasks": 10, "random_state": 0}
    dense, sparse = (
        small().meta_fit(EpisodicTasks(rows, y, **params)) for rows in (X, sp.csr_array(X))
    )
    np.testing.assert_array_equal(weights(dense), weights(sparse))
    np.testing.assert_array_equal(
        weights(small().fit(X, y)), weights(small().fit(sp.csr_array(X), y))
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.float32, bool])
def test_numbers_of_any_kind_are_features(dtype, blobs):
    X, y = (np.abs(blobs[0]) * 10).astype(dtype), blobs[1]
    expected = small().fit(X.astype(float), y).predict_proba(X.astype(float))
    np.testing.assert_array_equal(small().fit(X, y).predict_proba(X), expected)


def test_images_are_rows_of_several_axes():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 6)
    X = rng.normal(size=(6, 1, 16, 16))[y] + rng.normal(size=(36, 1, 16, 16)) / 4
    tasks = EpisodicTasks(X, y, n_way=3, n_shot=1, n_query=2, n_tasks=6, random_state=0)
    images = ProtoNetClassifier(max_iter=2, meta_batch_size=2, random_state=0).meta_fit(tasks)
    assert type(images._meta.learner.backbone).__name__ == "Conv4Backbone"
    probabilities = images.fit(X, y).predict_proba(X)
    flat = X.reshape(36, -1)
    spec = Conv4(image_shape=(1, 16, 16))
    rows = ProtoNetClassifier(backbone=spec, max_iter=2, meta_batch_size=2, random_state=0)
    rows.meta_fit(EpisodicTasks(flat, y, n_way=3, n_shot=1, n_query=2, n_tasks=6, random_state=0))
    np.testing.assert_allclose(
        rows.fit(flat, y).predict_proba(flat), probabilities, rtol=1e-4, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"must have the shape \(1, 16, 16\) as in meta_fit"):
        images.fit(X[:, :, :8], y)


@pytest.mark.parametrize("cls", ALL)
def test_rows_of_another_width_are_refused(cls, meta_fitted, support):
    X, y, X_query, _ = support(cls)
    wider = np.concatenate([X, X], axis=1)
    with pytest.raises(ValueError, match=r"features, but .* is expecting"):
        meta_fitted(cls).fit(wider, y)
    with pytest.raises(ValueError, match=r"features, but .* is expecting"):
        meta_fitted(cls).fit(X, y).predict(np.concatenate([X_query, X_query], axis=1))


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused(cls, bad, meta_fitted, support):
    X, y, X_query, _ = support(cls)
    X, X_query = X.copy(), X_query.copy()
    estimator = meta_fitted(cls).fit(X, y)
    X[1, 0] = X_query[1, 0] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        estimator.predict(X_query)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        estimator.fit(X, y)


@pytest.mark.parametrize("cls", [ProtoNetClassifier, MAMLClassifier, MANNClassifier])
def test_rows_that_overflow_the_network_are_an_error_and_no_arbitrary_class(
    cls, meta_fitted, support
):
    """Values that float32 cannot hold would make every logit NaN, whose argmax is class 0."""
    X, y, X_query, _ = support(cls)
    with pytest.raises(ValueError, match="too large for dtype"):
        meta_fitted(cls).fit(X * 1e300, y).predict(X_query)
    with pytest.raises(ValueError, match="too large for dtype"):
        meta_fitted(cls).fit(X, y).predict(X_query * 1e300)


def test_an_adaptation_that_diverges_is_an_error_and_no_nan_prediction(meta_fitted, sines):
    X, y, X_query, _ = sines[0]
    reg = meta_fitted(MAMLRegressor).set_params(n_inner_steps=200, inner_learning_rate=100.0)
    with pytest.raises(ValueError, match="finite"):
        reg.fit(X, y).predict(X_query)
    with pytest.raises(ValueError, match="finite"):
        reg.predict_tasks(sines[:2])


@pytest.mark.parametrize("n_queries", [1, 7, 8, 1025])
def test_any_number_of_queries_is_answered_one_by_one(n_queries, meta_fitted, support):
    X, y, _, _ = support()
    clf = meta_fitted().fit(X, y)
    rows = np.random.default_rng(0).normal(size=(n_queries, 4))
    together = clf.predict_proba(rows)
    assert together.shape == (n_queries, 3)
    for i in (0, n_queries - 1):
        alone = clf.predict_proba(rows[i : i + 1])[0]
        np.testing.assert_allclose(alone, together[i], rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------------------- many tasks at once


def ragged_tasks():
    """Return tasks of two or three classes with unlike numbers of support and query rows."""
    tasks = EpisodicTasks(
        *make_blobs(), n_way=(2, 3), n_shot=(1, 4), n_query=3, n_tasks=15, random_state=1
    )
    return TaskList((X, y, Xq[i % 6 :], yq[i % 6 :]) for i, (X, y, Xq, yq) in enumerate(tasks))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_predict_tasks_is_fit_and_predict_of_every_task(cls, method, meta_fitted):
    tasks = ragged_tasks()
    got = meta_fitted(cls).predict_tasks(tasks, method=method)
    assert len(got) == len(tasks)
    for predictions, (X, y, X_query, _) in zip(got, tasks, strict=True):
        expected = getattr(meta_fitted(cls).fit(X, y), method)(X_query)
        if method == "predict":
            np.testing.assert_array_equal(predictions, expected)
        else:
            np.testing.assert_allclose(predictions, expected, rtol=1e-4, atol=1e-5)


def test_predict_tasks_of_a_regressor_is_fit_and_predict_of_every_task(meta_fitted):
    tasks = [
        (*make_sinusoid_tasks(1, n_support=n, n_query=12 - n, random_state=n)[0],)
        for n in (3, 5, 9)
    ]
    got = meta_fitted(MAMLRegressor).predict_tasks(tasks)
    for predictions, (X, y, X_query, _) in zip(got, tasks, strict=True):
        expected = meta_fitted(MAMLRegressor).fit(X, y).predict(X_query)
        np.testing.assert_allclose(predictions, expected, rtol=1e-4, atol=1e-5)


def test_predict_tasks_leaves_the_estimator_as_it_is(meta_fitted, support):
    X, y, X_query, _ = support()
    clf = meta_fitted().fit(X, y)
    before = clf.predict_proba(X_query)
    clf.predict_tasks(ragged_tasks())
    np.testing.assert_array_equal(clf.predict_proba(X_query), before)
    fresh = meta_fitted()
    fresh.predict_tasks(ragged_tasks())
    with pytest.raises(NotFittedError):
        fresh.predict(X_query)


def test_predict_tasks_takes_shared_labels(blobs):
    """Labels that mean the same keep their columns in the order of the support's classes."""
    X, y = blobs
    labels = np.where(np.arange(120) % 2, "active", "inactive")
    tasks = GroupedTasks(X, labels, y, n_support=4, random_state=0)
    assert tasks.shared_classes
    clf = small(MAMLClassifier).meta_fit(tasks)
    for p, (X, y, X_query, _) in zip(clf.predict_tasks(tasks), tasks, strict=True):
        np.testing.assert_array_equal(p, clf.fit(X, y).predict(X_query))


@pytest.mark.parametrize(
    ("cls", "method"),
    [(ProtoNetClassifier, "predict_probs"), (MAMLRegressor, "predict_proba")],
)
def test_predict_tasks_refuses_a_method_that_the_estimator_lacks(cls, method, meta_fitted, support):
    with pytest.raises(ValueError, match=method):
        meta_fitted(cls).predict_tasks([support(cls)], method=method)


# ---------------------------------------------------------------------------- regression


def shifted(tasks, scale, offset):
    return TaskList((X, scale * y + offset, Xq, scale * yq + offset) for X, y, Xq, yq in tasks)


def test_normalised_targets_make_units_irrelevant(sines):
    options = {"precision": "float64", "meta_learning_rate": 0.01}
    plain = small(MAMLRegressor, **options).meta_fit(TaskList(sines))
    other = small(MAMLRegressor, **options).meta_fit(shifted(sines, 1000.0, 5.0))
    np.testing.assert_allclose(weights(plain), weights(other), rtol=1e-8)
    X, y, X_query, _ = sines[0]
    np.testing.assert_allclose(
        other.fit(X, 1000 * y + 5).predict(X_query),
        1000 * plain.fit(X, y).predict(X_query) + 5,
        rtol=1e-7,
    )


def test_targets_are_standardised_by_the_meta_training_tasks(sines):
    reg = small(MAMLRegressor).meta_fit(TaskList(sines))
    pooled = np.concatenate([np.concatenate([y, y_query]) for _, y, _, y_query in sines])
    assert reg._meta.targets.mean == pytest.approx(pooled.mean())
    assert reg._meta.targets.scale == pytest.approx(pooled.std())
    raw = small(MAMLRegressor, normalize_y=False).meta_fit(sines)
    assert (raw._meta.targets.mean, raw._meta.targets.scale) == (0, 1)


def test_constant_targets_are_not_divided_by_zero(sines):
    reg = small(MAMLRegressor).meta_fit(shifted(sines, 0.0, 7.0))
    X, y, X_query, _ = sines[0]
    np.testing.assert_allclose(reg.fit(X, 0 * y + 7).predict(X_query), 7, atol=3)


def test_several_targets_are_learned_at_once(sines):
    both = TaskList((X, np.c_[y, -2 * y], Xq, np.c_[yq, -2 * yq]) for X, y, Xq, yq in sines)
    reg = small(MAMLRegressor, n_inner_steps=2).meta_fit(both)
    X, y, X_query, _ = both[0]
    predictions = reg.fit(X, y).predict(X_query)
    assert predictions.shape == (len(X_query), 2)
    np.testing.assert_allclose(reg.predict_tasks(both)[0], predictions, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"y must have 2 column\(s\) as in meta-training, got 1"):
        reg.fit(X, y[:, 0])


def test_a_single_column_of_targets_is_a_vector(meta_fitted, sines):
    X, y, X_query, _ = sines[0]
    vector = meta_fitted(MAMLRegressor).fit(X, y).predict(X_query)
    column = meta_fitted(MAMLRegressor).fit(X, y[:, None]).predict(X_query)
    np.testing.assert_array_equal(vector, column)
    assert vector.ndim == 1


def test_a_new_regressor_fits_by_itself():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = 100 * X @ [1.0, -2.0, 0.5] + 1000
    reg = small(MAMLRegressor, max_iter=50, meta_learning_rate=0.02).fit(X[:150], y[:150])
    assert reg.score(X[150:], y[150:]) > 0.5


def test_targets_of_another_width_are_refused_everywhere(sines):
    reg = small(MAMLRegressor).meta_fit(sines)
    two_columns = [
        (t.X_support, np.c_[t.y_support, t.y_support], t.X_query, np.c_[t.y_query, t.y_query])
        for t in sines[:3]
    ]
    for use in (reg.predict_tasks, clone(reg).partial_meta_fit):
        with pytest.raises(ValueError, match=r"y must have 1 column\(s\)"):
            use(two_columns)


def test_images_with_their_channels_last_are_refused():
    rng = np.random.default_rng(0)
    tasks = EpisodicTasks(
        rng.random((40, 16, 16, 3)), np.repeat(range(4), 10), n_way=2, n_query=2, random_state=0
    )
    clf = ProtoNetClassifier(backbone=Conv4(image_shape=(3, 16, 16), n_filters=4), max_iter=1)
    with pytest.raises(ValueError, match="move their channels first"):
        clf.meta_fit(tasks)


def test_query_images_of_another_shape_are_refused():
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 16, 16)), np.repeat(range(4), 10)
    tasks = EpisodicTasks(X, y, n_way=2, n_query=2, random_state=0)
    clf = ProtoNetClassifier(backbone=Conv4(image_shape=(1, 16, 16), n_filters=4), max_iter=1)
    clf.meta_fit(tasks).fit(*tasks[0][:2])
    with pytest.raises(ValueError, match=r"must have the shape \(16, 16\)"):
        clf.predict(X.reshape(40, 16, 4, 4))


@pytest.mark.parametrize(
    ("name", "before", "equal"),
    [
        ("meta_learning_rate", 0.01, np.float64(0.01)),
        ("clip_norm", 10.0, 10),
        ("backbone", MLP(hidden_layer_sizes=(8,)), MLP(hidden_layer_sizes=[8])),
    ],
)
def test_an_equal_value_of_another_type_is_no_change(tasks, name, before, equal):
    clf = small(ProtoNetClassifier, **{name: before}).meta_fit(tasks)
    clf.set_params(**{name: equal}).fit(*tasks[0][:2])


def test_bad_tasks_leave_a_fitted_estimator_fitted(tasks):
    clf = small(ProtoNetClassifier).meta_fit(tasks).fit(*tasks[0][:2])
    with pytest.raises(TypeError):
        clf.meta_fit(None)
    assert len(clf.predict(tasks[0].X_query)) == len(tasks[0].y_query)


def test_a_row_a_class_is_no_reason_for_a_warning(recwarn):
    X = np.eye(30)
    tasks = EpisodicTasks(np.tile(X, (2, 1)), np.tile(np.arange(30), 2), n_query=1, random_state=0)
    clf = ProtoNetClassifier(max_iter=2, random_state=0).meta_fit(tasks)
    assert clf.fit(X, np.arange(30)).score(X, np.arange(30)) == 1.0
    assert not recwarn.list


def test_a_refit_that_fails_leaves_no_old_task_behind():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    params = {"meta_optimizer": "sgd", "meta_learning_rate": 1e30, "clip_norm": None}
    clf = ProtoNetClassifier(max_iter=5, random_state=0).fit(X, y).set_params(**params)
    with pytest.raises(MetaTrainingError):
        clf.fit(X, y)
    with pytest.raises(NotFittedError):
        clf.predict(X)


def test_the_warning_of_too_few_rows_points_to_the_line_of_the_user():
    with pytest.warns(NotMetaFittedWarning) as caught:
        ProtoNetClassifier().fit(np.eye(2), [0, 1])
    assert caught[0].filename == __file__


def test_a_meta_fit_that_fails_leaves_what_was_known_as_it_was(tasks):
    clf = ProtoNetClassifier(max_iter=2, random_state=0).meta_fit(tasks)
    task = tasks[0]
    before = clf.fit(task.X_support, task.y_support).predict_proba(task.X_query)
    others = [(np.eye(5), [0, 1, 0, 1, 0], np.eye(5), [0, 1, 0, 1, 0])] * 3
    with pytest.raises(TaskError):
        clf.meta_fit([*others, task])
    np.testing.assert_array_equal(clf.predict_proba(task.X_query), before)
    assert clf.fit(task.X_support, task.y_support).n_features_in_ == task.X_support.shape[1]
    new = ProtoNetClassifier(max_iter=2)
    with pytest.raises(TaskError):
        new.meta_fit([*others, task])
    assert not hasattr(new, "n_features_in_")


def test_predict_tasks_refuses_the_parameters_that_fit_refuses(tasks):
    clf = ProtoNetClassifier(max_iter=2, random_state=0).meta_fit(tasks).set_params(temperature=-1)
    for use in (lambda: clf.fit(*tasks[0][:2]), lambda: clf.predict_tasks(tasks[:2])):
        with pytest.raises(ValueError, match="'temperature' parameter of ProtoNetClassifier"):
            use()


def test_many_queries_are_predicted_some_at_a_time(tasks, monkeypatch):
    clf = ProtoNetClassifier(max_iter=2, random_state=0).meta_fit(tasks)
    whole = clf.predict_tasks(tasks[:3], method="predict_proba")
    monkeypatch.setattr("fewshot_sklearn._inference.MOST_QUERY_ROWS", 5)
    for expected, got in zip(
        whole, clf.predict_tasks(tasks[:3], method="predict_proba"), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_device_that_does_not_exist_is_refused_with_a_sentence(tasks):
    with pytest.raises(ValueError, match="device='foo' is none that torch knows"):
        ProtoNetClassifier(device="foo").meta_fit(tasks)


# ---------------------------------------------------------------------------- one small task


def count_calls(monkeypatch, owner, name):
    """Return a list that grows by one entry with every call of a function."""
    calls, inner = [], getattr(owner, name)

    def counted(*args, **kwargs):
        calls.append(name)
        return inner(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


@pytest.mark.parametrize("cls", ALL)
def test_a_task_costs_one_look_at_its_rows_and_no_check_of_parameters_that_were_checked(
    cls, meta_fitted, support, monkeypatch
):
    X, y, X_query, _ = support(cls)
    estimator = meta_fitted(cls)
    looks = count_calls(monkeypatch, _estimator, "check_rows")
    checked = count_calls(monkeypatch, cls, "_validate_params")
    built = count_calls(monkeypatch, cls, "_make_learner")
    estimator.fit(X, y)
    assert len(looks) == 1
    estimator.predict(X_query)
    assert len(looks) == 2
    assert not checked
    assert not built


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_plain_arrays_of_a_task_need_none_of_scikit_learns_checks(
    cls, meta_fitted, support, monkeypatch
):
    X, y, X_query, _ = support(cls)
    checks = count_calls(monkeypatch, _estimator, "validate_data")
    kinds = count_calls(monkeypatch, base, "check_classification_targets")
    expected = meta_fitted(cls).fit(X.tolist(), y.tolist()).predict_proba(X_query.tolist())
    assert checks
    assert kinds
    checks.clear()
    kinds.clear()
    np.testing.assert_array_equal(meta_fitted(cls).fit(X, y).predict_proba(X_query), expected)
    assert not checks
    assert not kinds


def test_a_changed_adaptation_parameter_builds_one_learner_for_all_tasks(
    meta_fitted, support, tasks, monkeypatch
):
    X, y, X_query, _ = support()
    alone = meta_fitted().set_params(temperature=3.0).fit(X, y).predict_proba(X_query)
    clf = meta_fitted().fit(X, y)
    built = count_calls(monkeypatch, ProtoNetClassifier, "_make_learner")
    checked = count_calls(monkeypatch, ProtoNetClassifier, "_validate_params")
    clf.set_params(temperature=3.0)
    for _ in range(3):
        np.testing.assert_array_equal(clf.fit(X, y).predict_proba(X_query), alone)
    assert len(built) == len(checked) == 1
    clf.set_params(temperature=1.0).fit(X, y)
    expected = meta_fitted().fit(X, y).predict_proba(X_query)
    np.testing.assert_array_equal(clf.predict_proba(X_query), expected)


def test_a_learner_is_of_the_last_meta_training(meta_fitted, support, tasks):
    X, y, X_query, _ = support()
    clf = meta_fitted().set_params(temperature=3.0).fit(X, y)
    before = clf.predict_proba(X_query)
    clf.partial_meta_fit(tasks).fit(X, y)
    np.testing.assert_array_equal(
        clf.predict_proba(X_query), clone(clf).fit(X, y).predict_proba(X_query)
    )
    assert np.abs(clf.predict_proba(X_query) - before).max() > 0


@pytest.mark.parametrize("other", [lambda clf: clf, clone, copy.deepcopy])
def test_a_parameter_is_checked_when_only_its_type_changes(other, meta_fitted, support):
    X, y, *_ = support(MAMLClassifier)
    clf = meta_fitted(MAMLClassifier).fit(X, y)
    clf.set_params(n_inner_steps=float(clf.n_inner_steps))
    with pytest.raises(ValueError, match="'n_inner_steps' parameter of MAMLClassifier must be an"):
        other(clf).fit(X, y)


@pytest.mark.parametrize(
    "X",
    [
        np.arange(8.0).reshape(2, 4),
        np.asfortranarray(np.arange(8, dtype=np.float32).reshape(2, 4)),
        np.arange(16, dtype=np.uint8).reshape(2, 4, 2)[::-1],
        np.eye(4, dtype=bool),
        np.full((2, 4), 1e30),
    ],
    ids=["float64", "float32", "uint8", "bool", "large"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_rows_are_what_scikit_learn_makes_of_them(X, dtype):
    owner = LogisticRegression()
    owner.n_features_in_ = 4
    rows = plain_rows(owner, X, dtype)
    expected = validate_data(owner, X, reset=False, dtype=dtype, allow_nd=True)
    assert rows.dtype == expected.dtype
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(
    "X",
    [
        np.ones((2, 3)),
        np.ones((0, 4)),
        np.ones(4),
        np.ones((2, 4), dtype=complex),
        np.ones((2, 4), dtype=object),
        np.ma.masked_array(np.ones((2, 4))),
        np.array([[1, np.nan, 1, 1]]),
        np.array([[np.inf, -np.inf, 1, 1]]),
        np.full((2, 4), 1e300),
        np.ones((2, 4)).tolist(),
        pd.DataFrame(np.ones((2, 4))),
        sp.csr_array(np.ones((2, 4))),
    ],
)
def test_rows_that_are_not_plain_are_left_to_scikit_learn(X):
    owner = LogisticRegression()
    owner.n_features_in_ = 4
    assert plain_rows(owner, X, np.float32) is None


@pytest.mark.parametrize("cls", [MatchingNetClassifier, ProtoNetClassifier])
@pytest.mark.parametrize("learn", ["fit", "partial_fit"])
def test_rows_that_are_changed_after_fit_change_no_prediction(cls, learn, tasks, blobs):
    X, y = blobs[0].astype(np.float32), blobs[1]
    clf = cls(backbone=nn.Identity(), max_iter=1, random_state=0).meta_fit(tasks)
    X_support = X[:30].copy()
    getattr(clf, learn)(X_support, y[:30])
    before = clf.predict_proba(X)
    X_support[:] = 7
    np.testing.assert_array_equal(clf.predict_proba(X), before)
