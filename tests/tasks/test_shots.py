"""Cutting support sets: the same queries, nested supports, sentences."""

import numpy as np
import pandas as pd
import pytest

from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.tasks import EpisodicTasks, GroupedTasks, TaskList, with_shots


@pytest.fixture
def ten_shots():
    y = np.repeat(list("abcdef"), 20)
    X = np.arange(120.0)[:, None]
    return EpisodicTasks(X, y, n_way=3, n_shot=10, n_query=4, n_tasks=30, random_state=0)


@pytest.mark.parametrize("visit", [0, 3])
def test_fewer_shots_keep_the_queries_and_a_part_of_the_support(ten_shots, visit):
    for i in (0, 7):
        task = ten_shots.task(i, visit)
        for n_shot in (1, 4, 10):
            cut = with_shots(ten_shots, n_shot).task(i, visit)
            np.testing.assert_array_equal(cut.X_query, task.X_query)
            np.testing.assert_array_equal(cut.y_query, task.y_query)
            assert np.unique(cut.y_support, return_counts=True)[1].tolist() == [n_shot] * 3
            for label in np.unique(task.y_support):
                rows = task.X_support[task.y_support == label][:n_shot]
                np.testing.assert_array_equal(cut.X_support[cut.y_support == label], rows)


def test_a_selection_of_tasks_keeps_its_names_and_its_kind_of_labels():
    groups = np.repeat(["p", "q", "r"], 40)
    y = np.tile([0, 1], 60)
    tasks = GroupedTasks(np.zeros((120, 2)), y, groups, n_support=20, random_state=0)[1:]
    cut = with_shots(tasks, 3)
    assert len(cut) == 2
    assert cut.names.tolist() == ["q", "r"]
    assert cut.shared_classes
    assert [task.name for task in cut[::-1]] == ["r", "q"]
    assert repr(cut) == "with_shots(2 tasks, 3 shots)"


def test_a_class_with_fewer_rows_keeps_all():
    X, y = np.arange(7.0)[:, None], np.array(["a", "b", "a", "a", "b", "a", "b"])
    tasks = TaskList([(pd.DataFrame(X), y, X, y)])
    cut = with_shots(tasks, 4)[0]
    assert cut.y_support.tolist() == y.tolist()
    assert with_shots(tasks, 2)[0].X_support.index.tolist() == [0, 1, 2, 4]


def test_regression_counts_rows_in_all():
    X, y = np.arange(6.0)[:, None], np.linspace(0, 1, 6)
    cut = with_shots([(X, y, X, y)], 2, per_class=False)
    assert cut[0].X_support.ravel().tolist() == [0.0, 1.0]
    assert repr(cut) == "with_shots(1 tasks, 2 support rows)"


def test_more_shots_than_there_are_get_a_sentence(ten_shots):
    with pytest.raises(TaskError, match=r"task 4: .* a class with at least 11 rows .* got 10; ask"):
        with_shots(ten_shots, 11)[4]
    with pytest.raises(TaskError, match=r"the support set must have at least 31 rows .* got 30"):
        with_shots(ten_shots, 31, per_class=False)[0]
    with pytest.raises(ValueError, match="n_shot must be an integer of at least 1, got 0"):
        with_shots(ten_shots, 0)
    with pytest.raises(TypeError, match="with_shots needs a sequence of tasks, got an iterator"):
        with_shots(iter(ten_shots), 1)
