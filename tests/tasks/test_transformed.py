"""Tasks with other features: what is pooled of them, what is transformed, and when."""

import gc
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.tasks import (
    ClassFoldTasks,
    EpisodicTasks,
    GroupedTasks,
    Task,
    TaskList,
    as_task_set,
    map_rows,
)
from fewshot_sklearn.tasks import _rows as rows_module
from fewshot_sklearn.tasks import _transformed as transformed
from fewshot_sklearn.tasks._transformed import pool_rows

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 4))
y = np.repeat(np.arange(6), 10)
FRAME = pd.DataFrame({"number": X[:, 0], "letter": rng.choice(list("abc"), 60)})


def negate(X):
    """Change every row, and count nothing on the others."""
    return -X


def episodes(X=X, **options):
    options = {"n_way": 3, "n_query": 2, "n_tasks": 8, "random_state": 0} | options
    return EpisodicTasks(X, y, **options)


def grouped(X=X, **options):
    return GroupedTasks(X, y % 2, y, **{"n_support": 4, "random_state": 0} | options)


def task_list():
    return TaskList([tuple(task) for task in episodes()], names=list("abcdefgh"))


KINDS = {
    "episodes": episodes,
    "groups": grouped,
    "list": task_list,
    "made when asked for": lambda: make_sinusoid_tasks(5, random_state=0),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_mapped_tasks_are_the_same_tasks_at_every_visit_but_for_their_features(make):
    tasks = make()
    mapped = map_rows(tasks, negate)
    assert len(mapped) == len(tasks)
    assert mapped.names.tolist() == tasks.names.tolist()
    assert mapped.shared_classes == tasks.shared_classes
    for i, visit in ((0, 0), (2, 0), (2, 3)):
        before, after = tasks.task(i, visit), mapped.task(i, visit)
        np.testing.assert_array_equal(after.X_support, -before.X_support)
        np.testing.assert_array_equal(after.X_query, -before.X_query)
        np.testing.assert_array_equal(after.y_support, before.y_support)
        np.testing.assert_array_equal(after.y_query, before.y_query)
        assert after.name == before.name


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_selection_of_mapped_tasks_is_a_selection_of_the_tasks(make):
    tasks = make()
    mapped, chosen = map_rows(tasks, negate), np.array([3, 1])
    for after in (mapped[chosen], map_rows(tasks[chosen], negate)):
        assert after.task_ids.tolist() == [3, 1]
        np.testing.assert_array_equal(after[0].X_support, -tasks[3].X_support)


def test_rows_of_one_data_set_are_mapped_in_one_call_and_each_once():
    calls = []
    map_rows(episodes(), lambda X: calls.append(X) or X)
    assert [call.shape for call in calls] == [X.shape]
    assert calls[0] is X


def test_only_rows_that_a_selection_can_draw_are_mapped_and_pooled():
    calls = []
    tasks = grouped()[[1, 4]]
    mapped = map_rows(tasks, lambda X: calls.append(X) or X)
    mine = X[np.isin(y, [1, 4])]
    np.testing.assert_array_equal(calls[0], mine)
    np.testing.assert_array_equal(pool_rows(tasks).X, mine)
    np.testing.assert_array_equal(mapped.task(1, 7).X_query, tasks.task(1, 7).X_query)


def test_rows_of_groups_that_are_left_out_are_not_pooled():
    groups = np.where(y == 5, np.arange(60), y)  # the last ten rows are groups of one row
    pool = pool_rows(GroupedTasks(X, y % 2, groups, n_support=4, random_state=0))
    np.testing.assert_array_equal(pool.X, X[y < 5])


def test_training_tasks_of_class_folds_pool_no_class_of_their_test_tasks():
    tasks = ClassFoldTasks(X, y, n_folds=3, n_way=2, n_tasks=6, random_state=0)
    own = tasks.split_of_task == 1
    test_classes = np.flatnonzero(tasks.fold_of_class == 1)
    pool = pool_rows(tasks[own & ~tasks.is_test])
    assert set(pool.y) == set(range(6)) - set(test_classes)
    assert set(pool_rows(tasks[own & tasks.is_test]).y) == set(test_classes)


def test_a_row_that_cannot_be_drawn_cannot_be_taken_either():
    mapped = map_rows(grouped()[[0]], negate)
    with pytest.raises(IndexError):
        mapped._make_task(3, 0)  # the fourth group is not in this selection


def test_the_first_visit_alone_needs_only_the_rows_that_it_draws():
    calls = []
    tasks = episodes(n_tasks=2)
    mapped = map_rows(tasks, lambda X: calls.append(X) or -X, first_visit=True)
    drawn = np.unique(np.concatenate([part for i in range(2) for part in tasks.draw(i)]))
    np.testing.assert_array_equal(calls[0], X[drawn])
    np.testing.assert_array_equal(mapped[1].X_query, -tasks[1].X_query)


def test_sparse_rows_stay_sparse():
    tasks = map_rows(episodes(sparse.csr_array(X)), negate)
    assert sparse.issparse(tasks.X)
    np.testing.assert_array_equal(tasks[0].X_support.toarray(), -episodes()[0].X_support)
    listed = TaskList([tuple(task) for task in episodes(sparse.csr_array(X))])
    np.testing.assert_array_equal(
        map_rows(listed, negate)[2].X_query.toarray(), -episodes()[2].X_query
    )


def test_frames_reach_the_function_as_frames_with_their_types():
    def check(X):
        assert list(X.columns) == ["number", "letter"]
        assert X.dtypes.equals(FRAME.dtypes)
        return X[["number"]].to_numpy()

    for tasks in (episodes(FRAME), TaskList([tuple(task) for task in episodes(FRAME)])):
        np.testing.assert_array_equal(
            map_rows(tasks, check)[1].X_query[:, 0], episodes()[1].X_query[:, 0]
        )


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, lambda t: np.array(t, dtype=object)])
def test_texts_are_rows_in_a_list_an_array_or_a_series(kind):
    texts = [f"row {i}" for i in range(60)]
    tasks = episodes(kind(texts))
    mapped = map_rows(tasks, lambda X: X_of(list(X)))
    for i in range(3):
        np.testing.assert_array_equal(mapped[i].X_support, X_of(list(tasks[i].X_support)))
        np.testing.assert_array_equal(mapped[i].X_support, episodes()[i].X_support)


def X_of(texts):
    """Return the rows that texts stand for."""
    return X[[int(text.removeprefix("row ")) for text in texts]]


def test_an_array_that_several_tasks_share_is_pooled_once():
    shared = rng.normal(size=(4, 4))
    tasks = [(shared, [0, 1, 0, 1], X[:2], [0, 1]), (shared, [0, 1, 0, 1], X[2:4], [1, 0])]
    tasks = TaskList(tasks)
    pool = pool_rows(tasks)
    np.testing.assert_array_equal(pool.X, np.concatenate([shared, X[:2], X[2:4]]))
    np.testing.assert_array_equal(pool.rebuild(-pool.X)[1].X_support, -shared)


def test_a_generator_is_read_no_further_than_its_head_and_mapped_as_it_comes():
    read = []

    def endless():
        for i in range(10**9):
            read.append(i)
            yield tuple(episodes().task(i % 8))

    tasks = as_task_set(endless())
    assert pool_rows(tasks).X.shape == (100 * 9, 4)
    assert len(read) == 100
    mapped = map_rows(tasks, negate)
    np.testing.assert_array_equal(mapped.next_tasks(3)[2].X_support, -episodes()[2].X_support)
    assert len(read) == 100


# ---------------------------------------------------------------------- labels


def test_labels_are_pooled_with_their_rows_where_each_row_has_one():
    order = rng.permutation(60)
    tasks = GroupedTasks(X, y[order] % 2, y[order], row_of=order, n_support=4, random_state=0)
    pool = pool_rows(tasks)
    np.testing.assert_array_equal(pool.X, X)
    np.testing.assert_array_equal(pool.y, y % 2)
    np.testing.assert_array_equal(pool_rows(episodes()).y, y)
    np.testing.assert_array_equal(pool_rows(tasks[[2]]).y, y[y == 2] % 2)


def test_a_row_of_several_labels_has_none_to_pool():
    wide = GroupedTasks.from_wide(X, np.c_[y % 2, y % 3 > 0], n_support=4, random_state=0)
    pool = pool_rows(wide)
    assert pool.y is None
    assert "several labels" in pool.without_y


def test_labels_that_mean_something_else_in_each_task_are_not_pooled():
    pool = pool_rows(grouped(shared_classes=False))
    assert pool.y is None
    assert "shared_classes=False" in pool.without_y
    assert pool_rows(task_list()).y is None
    shared = TaskList([tuple(task) for task in episodes()], shared_classes=True)
    assert len(pool_rows(shared).y) == 8 * 9


def test_targets_of_a_regression_are_pooled_whatever_the_tasks():
    tasks = make_sinusoid_tasks(5, random_state=0)
    np.testing.assert_array_equal(
        pool_rows(tasks).y, np.concatenate([np.r_[t.y_support, t.y_query] for t in tasks])
    )


# ---------------------------------------------------------------------- memory maps


@pytest.fixture
def mapped_X(tmp_path, monkeypatch):
    """X in a file, read eight rows at a time."""
    monkeypatch.setattr(rows_module, "_CHUNK_BYTES", 8 * X[0].nbytes)
    path = tmp_path / "X"
    np.memmap(path, dtype=X.dtype, mode="w+", shape=X.shape)[:] = X
    return np.memmap(path, dtype=X.dtype, mode="r", shape=X.shape)


def test_a_memory_map_is_mapped_chunk_by_chunk_into_a_temporary_one(mapped_X):
    sizes = []
    tasks = map_rows(episodes(mapped_X), lambda X: sizes.append(len(X)) or -X)
    assert max(sizes) == 8
    assert isinstance(tasks.X, np.memmap)
    np.testing.assert_array_equal(tasks.X, -X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tasks))[0].X_query, tasks[0].X_query)
    folder = Path(tasks.X.filename).parent
    assert folder.is_dir()
    del tasks
    gc.collect()
    assert not folder.exists()


def test_sparse_results_of_a_memory_map_are_joined(mapped_X):
    tasks = map_rows(grouped(mapped_X)[[1, 4]], sparse.csr_array)
    assert tasks.X.format == "csr"
    np.testing.assert_array_equal(tasks.X.toarray(), X[np.isin(y, [1, 4])])


def test_of_a_memory_map_rows_are_pooled_up_to_a_bound_and_evenly_spread(mapped_X, monkeypatch):
    monkeypatch.setattr(transformed, "_MOST_ROWS", 6)
    pool = pool_rows(episodes(mapped_X))
    np.testing.assert_array_equal(pool.X, X[[0, 11, 23, 35, 47, 59]])
    np.testing.assert_array_equal(pool.y, y[[0, 11, 23, 35, 47, 59]])
    assert pool.rebuild is None


# ---------------------------------------------------------------------- refusals


def test_a_function_that_returns_another_number_of_rows_is_refused():
    for tasks in (episodes(), task_list()):
        with pytest.raises(ValueError, match="return as many"):
            map_rows(tasks, lambda X: X[1:])


def test_tasks_of_other_features_are_refused_by_name():
    wide = Task(np.zeros((2, 5)), [0, 1], np.zeros((1, 5)), [0], name="wide")
    with pytest.raises(TaskError, match=r"task 8 \('wide'\).*shape \(4,\).*got \(5,\)"):
        map_rows(TaskList([*episodes(), wide]), negate)
    renamed = FRAME.rename(columns={"letter": "sign"})
    other = Task(renamed[:2], [0, 1], renamed[2:4], [0, 1])
    with pytest.raises(TaskError, match=r"task 8: .*columns of the first task.*'sign'"):
        pool_rows(TaskList([*episodes(FRAME), other]))
    arrays = Task(FRAME[:2].to_numpy(), [0, 1], FRAME[2:4].to_numpy(), [0, 1])
    with pytest.raises(TaskError, match=r"task 8: .*columns"):
        pool_rows(TaskList([*episodes(FRAME), arrays]))
    sparse_task = Task(sparse.csr_array(X[:2]), [0, 1], sparse.csr_array(X[2:4]), [0, 1])
    with pytest.raises(TaskError, match="one kind, got csr_array and ndarray"):
        pool_rows(TaskList([*episodes(), sparse_task]))


def test_a_function_that_fails_on_a_task_names_it():
    def fail(X):
        raise ValueError("not these rows")

    tasks = map_rows(make_sinusoid_tasks(5, random_state=0), fail)
    with pytest.raises(TaskError, match="task 3: not these rows"):
        tasks[3]
