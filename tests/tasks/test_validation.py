import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from fewshot_sklearn.exceptions import MetaTrainingError, TaskError
from fewshot_sklearn.tasks import EpisodicTasks, Task, TaskList
from fewshot_sklearn.tasks._validation import (
    as_task,
    check_finite,
    check_same_width,
    check_targets,
    check_task,
    n_classes_in,
)

X = np.eye(3)
Y = np.array([0, 1, 0])
BAD = X.copy()
BAD[1, 2] = np.nan


def swap(**members):
    return Task(**{"X_support": X, "y_support": Y, "X_query": X, "y_query": Y, **members})


@pytest.mark.parametrize("classifier", [True, False])
def test_a_good_task_passes(classifier):
    check_task(swap(), 0, classifier=classifier)
    check_task((X, Y, X, Y), 0, classifier=classifier)
    check_task(swap(X_support=sp.csr_array(X)), 0, classifier=classifier)
    check_task(swap(X_query=pd.DataFrame(X)), 0, classifier=classifier)
    check_task(swap(y_support=pd.Series([0, 1, 0])), 0, classifier=classifier)
    assert n_classes_in(swap()) == 2


def test_names_are_labels_for_classifiers_and_numbers_targets_for_regressors():
    check_task(swap(y_support=["a", "b", "c"], y_query=["a", "a", "a"]), 0, classifier=True)
    check_task(swap(y_support=[0.1, 0.2, 0.3]), 0, classifier=False)
    check_task(swap(y_support=np.ones((3, 2)), y_query=np.ones((3, 2))), 0, classifier=False)


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (3, "task 7 must be a Task or a tuple .* got int"),
        ("four", "task 7 must be a Task or a tuple .* got str"),
        ((X, Y), "got tuple of length 2"),
        (([[1], [1, 2]], [0, 1], X, Y), "task 7 has rows of unequal lengths"),
        (swap(X_support=5), "X_support and y_support must hold rows, got a single value"),
        (swap(y_support=Y[:2]), "task 7: X_support and y_support must have as many rows .* 3 and"),
        (swap(X_query=X[:0], y_query=Y[:0]), "task 7: the query set is empty; give it at least"),
        (swap(X_support=X[:0], y_support=Y[:0]), "task 7: the support set is empty"),
        (swap(X_query=np.ones((3, 2))), r"a row of X_query must have shape \(3,\) .* got \(2,\)"),
        (swap(X_support=Y, X_query=Y), r"at least two dimensions, got shape \(3,\); use X.reshape"),
        (swap(X_support=BAD), "X_support must be finite, but 1 of its 3 rows .* row 1 the first"),
        (swap(X_query=sp.csr_array(BAD)), "X_query must be finite, but 1 of its 3 .* row 1 the"),
        (swap(X_query=sp.csc_matrix(BAD)), "X_query must be finite, but 1 of its 3 .* row 1 the"),
        (swap(X_query=pd.DataFrame(BAD)), "X_query must be finite, but 1 of its 3 .* row 1 the"),
        (
            swap(X_query=pd.DataFrame(X).replace(0, np.inf)),
            "X_query must be finite, but 3 of its 3",
        ),
        (swap(y_query=[0, 1, np.nan]), "y_query must be finite, but 1 of its 3 rows"),
        (swap(y_query=np.array(["a", "b", None])), "y_query must be finite"),
        (swap(y_query=[0, 1, np.inf]), "y_query must be finite"),
        (
            swap(y_query=[0, 2, 9]),
            "query set has the labels 2, 9, which the support set lacks; add",
        ),
        (swap(y_query=[0, 0, 2]), "query set has the label 2, which the support set lacks"),
        (swap(y_support=[0.5, 1, 0]), "must be class labels for a classifier, .* such as 0.5; use"),
        (swap(y_support=np.ones((3, 2))), r"one class label a row, got shape \(3, 2\)"),
    ],
)
def test_a_bad_task_for_a_classifier_gets_a_sentence(task, sentence):
    with pytest.raises(TaskError, match=sentence):
        check_task(task, 7, classifier=True)


def test_errors_carry_the_name_of_the_task():
    with pytest.raises(TaskError, match=r"task 7 \('assay 3'\): X_support must be finite"):
        check_task(swap(X_support=BAD, name="assay 3"), 7, classifier=True)
    with pytest.raises(TaskError, match=r"^task 7: X_support"):
        check_task(swap(X_support=BAD, name=7), 7, classifier=True)


def test_a_list_checks_the_form_of_its_tasks_at_once():
    with pytest.raises(TaskError, match="task 1: the query set is empty"):
        TaskList([swap(), swap(X_query=X[:0], y_query=Y[:0])])


def test_class_names_are_no_targets_for_a_regressor():
    with pytest.raises(TaskError, match=r"y_support must be numbers for a regressor, .* 'a'; use"):
        check_task(swap(y_support=["a", "b", "c"]), 0, classifier=False)


def test_all_tasks_must_have_the_features_of_the_first():
    with pytest.raises(TaskError, match=r"task 2: a row of X_support must have shape \(5,\)"):
        check_same_width(swap(), (5,), 2)


def test_large_and_mixed_but_finite_data_pass():
    check_finite(np.full((3, 3), 3e38, dtype=np.float32))
    check_finite(np.array([["text"], [None]], dtype=object))
    check_finite(np.arange(4))
    check_finite(pd.DataFrame({"a": ["x", "y"], "b": pd.array([1, 2], dtype="Int64")}))
    with pytest.raises(TaskError, match="batch must be finite, but 1 of its 2"):
        check_finite(pd.DataFrame({"a": ["x", None], "b": [1, 2]}), what="batch")
    with pytest.raises(TaskError, match="X must be finite, but 1 of its 2"):
        check_finite(pd.DataFrame({"a": ["x", "y"], "b": [1, np.inf]}))
    check_targets(np.array([1, 0], dtype=object), classifier=False)


def test_a_data_set_is_checked_once_for_all_its_subsets(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "fewshot_sklearn.tasks._indexed.check_finite", lambda X, what: calls.append(what)
    )
    tasks = EpisodicTasks(np.zeros((20, 1)), np.arange(20) % 5, random_state=0)
    subset = tasks[5:]
    tasks.check_data(classifier=True)
    subset.check_data(classifier=True)
    assert calls == ["X"]
    bad = EpisodicTasks(np.full((20, 1), np.inf), np.repeat(list("abcde"), 4))
    monkeypatch.undo()
    with pytest.raises(TaskError, match="X must be finite, but 20 of its 20"):
        bad.check_data(classifier=True)


def test_a_memory_map_is_not_read_for_the_check(tmp_path):
    mapped = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=(20, 1))
    mapped[:] = np.nan
    for X_mapped in (mapped, mapped[:], np.asarray(mapped)):
        EpisodicTasks(X_mapped, np.arange(20) % 5).check_data(classifier=True)


def test_a_regressor_refuses_class_names_of_a_data_set():
    tasks = EpisodicTasks(np.zeros((20, 1)), np.repeat(list("abcde"), 4))
    with pytest.raises(TaskError, match="y must be numbers for a regressor"):
        tasks.check_data(classifier=False)


def test_tasks_are_returned_as_they_are():
    task = swap()
    assert as_task(task, 0) is task
    assert as_task((X, Y, X, Y), 0).X_query is X


def test_training_errors_keep_their_iteration():
    error = pickle.loads(pickle.dumps(MetaTrainingError("the loss is nan.", iteration=3)))
    assert error.iteration == 3
    assert str(error) == "the loss is nan."
