"""all_estimators lists every estimator of the package, once."""

import pytest

import fewshot_sklearn
from fewshot_sklearn.utils.discovery import KINDS, all_estimators


def test_every_estimator_is_listed_once_and_sorted():
    names = [name for name, _ in all_estimators()]
    assert names == sorted(set(names))
    assert {"MAMLClassifier", "MAMLRegressor", "MANNClassifier", "ProtoNetClassifier"} <= set(names)


def test_every_listed_estimator_is_a_public_name_of_the_package():
    for name, cls in all_estimators():
        assert getattr(fewshot_sklearn, name) is cls


def test_every_public_estimator_is_listed():
    public = {
        name for name in fewshot_sklearn.__all__ if name.endswith(("Classifier", "Regressor"))
    }
    listed = {name for kind in KINDS for name, _ in all_estimators(kind=kind)}
    assert public <= listed <= set(fewshot_sklearn.__all__)


def test_classifiers_and_regressors_are_all_estimators():
    classifiers, regressors = all_estimators("classifier"), all_estimators("regressor")
    assert sorted(classifiers + regressors) == all_estimators()
    assert all(name.endswith("Classifier") for name, _ in classifiers)


def test_abstract_and_private_classes_are_not_listed():
    names = {name for name, _ in all_estimators()}
    assert not any(name.startswith(("_", "FewShot")) for name in names)


def test_those_of_stories_are_a_kind_of_their_own():
    names = ["MemNNClassifier", "StoryMemN2NClassifier", "StoryVectorizer"]
    assert [name for name, _ in all_estimators(kind="story")] == names
    assert [name for name, _ in all_estimators("classifier", kind="story")] == names[:2]
    with pytest.raises(ValueError, match="kind must be one of"):
        all_estimators(kind="poem")


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match=r"type_filter must be .* got 'clusterer'"):
        all_estimators("clusterer")
