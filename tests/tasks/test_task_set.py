import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    ShuffleSplit,
    cross_val_score,
    learning_curve,
    train_test_split,
)

from fewshot_sklearn.tasks import EpisodicTasks, GroupedTasks, Task, TaskList, TaskSet
from fewshot_sklearn.tasks._random import resolve_random_state, stream

X = np.arange(240.0).reshape(120, 2)
Y = np.repeat(list("abcdef"), 20)


def episodic(random_state=0):
    return EpisodicTasks(
        X, Y, n_way=(2, 4), n_shot=(1, 3), n_query=4, n_tasks=30, random_state=random_state
    )


def grouped(random_state=0):
    groups = np.tile(np.repeat(np.arange(12), 2), 5)
    labels = np.tile([0, 1], 60)
    return GroupedTasks(X, labels, groups, n_support=(3, 5), n_query=4, random_state=random_state)


def listed(random_state=0):
    return TaskList(list(grouped(random_state)))


KINDS = [episodic, grouped, listed]


def same(a, b):
    return a.name == b.name and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("make", KINDS)
@settings(max_examples=25)
@given(data=st.data())
def test_selected_tasks_are_those_of_the_parent_at_every_visit(make, data):
    tasks = make()
    positions = data.draw(st.lists(st.integers(-len(tasks), len(tasks) - 1), min_size=1))
    visit = data.draw(st.integers(0, 10**6))
    subset = tasks[np.array(positions)]
    again = subset[::-1]
    for j, position in enumerate(positions):
        expected = tasks.task(position, visit)
        assert same(subset.task(j, visit), expected)
        assert same(again.task(len(positions) - 1 - j, visit), expected)


@pytest.mark.parametrize("make", KINDS)
def test_every_kind_of_index_selects_the_same_tasks(make):
    tasks = make()
    mask = np.zeros(len(tasks), dtype=bool)
    mask[[2, 3, 4]] = True
    for key in (slice(2, 5), [2, 3, 4], np.array([2, 3, 4]), mask, mask.tolist(), range(2, 5)):
        subset = tasks[key]
        assert type(subset) is type(tasks)
        assert subset.shape == (3,)
        assert subset.task_ids.tolist() == [2, 3, 4]
        assert subset.names.tolist() == tasks.names[2:5].tolist()
        assert same(subset[-1], tasks[4])
    assert len(tasks[[]]) == len(tasks[5:5]) == 0
    assert same(tasks[np.int64(3)], tasks[3])


@pytest.mark.parametrize("make", KINDS)
def test_order_of_access_copies_and_equal_seeds_do_not_matter(make):
    tasks = make()
    last_first = [tasks[i] for i in reversed(range(len(tasks)))][::-1]
    copied = pickle.loads(pickle.dumps(tasks))
    for i, task in enumerate(make()):
        assert same(task, last_first[i])
        assert same(task, copied[i])
    assert same(copied[5:].task(2, visit=3), tasks.task(7, visit=3))


def test_another_process_draws_the_same_rows():
    tasks = episodic()
    code = (
        "import pickle, sys; tasks = pickle.load(sys.stdin.buffer); "
        "sys.stdout.write(str([tasks.draw(i, 5)[1].tolist() for i in (7, 3)]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(tasks),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ran.stdout.decode() == str([tasks.draw(i, 5)[1].tolist() for i in (7, 3)])


def test_the_draws_of_a_seed_are_these():
    support, query = episodic().draw(7, 5)
    assert support.tolist() == [86, 6, 110, 99, 35, 26, 109, 102, 18, 37, 12, 80]
    assert query[:5].tolist() == [100, 101, 117, 107, 4]


@pytest.mark.parametrize("make", [episodic, grouped])
def test_visits_tasks_and_seeds_draw_differently(make):
    tasks = make()
    draws = {tuple(tasks.draw(i, v)[0]) for i in range(5) for v in range(5)}
    draws |= {tuple(make(seed).draw(0)[0]) for seed in range(1, 6)}
    assert len(draws) > 25


def test_a_visit_does_not_change_a_listed_task():
    tasks = listed()
    assert tasks.task(3, visit=9) is tasks[3]


def test_fresh_entropy_is_drawn_once_and_survives_pickling():
    tasks = episodic(random_state=None)
    assert tasks.random_state is None
    assert same(tasks[4], tasks[4])
    assert same(tasks[4], pickle.loads(pickle.dumps(tasks))[4])
    assert any(not same(a, b) for a, b in zip(tasks, episodic(random_state=None), strict=True))


def test_generator_instances_give_one_seed():
    for make in (np.random.RandomState, np.random.default_rng):
        tasks = episodic(make(3))
        assert tasks.random_state == episodic(make(3)).random_state
        assert same(tasks[0], episodic(make(3))[0])
        assert same(tasks[0], episodic(tasks.random_state)[0])


def test_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    list(episodic(None))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("make", KINDS)
def test_task_sets_are_immutable(make):
    tasks = make()
    with pytest.raises(AttributeError, match="immutable, so 'random_state' cannot be set"):
        tasks.random_state = 3
    with pytest.raises(AttributeError, match="immutable"):
        del tasks.shared_classes
    tasks.task_ids[:] = 0
    tasks[2:].task_ids[:] = 0
    assert tasks[3:].task_ids[0] == 3


def test_selecting_and_pickling_share_one_copy_of_the_data():
    tasks = episodic()
    subset = tasks[3:][::2]
    assert subset.X is X
    large = EpisodicTasks(np.zeros((1000, 1000)), np.arange(1000) % 10, random_state=0)
    assert len(pickle.dumps([large, large[5:], large[::2]])) < 1.1 * large.X.nbytes


def test_impossible_positions_get_a_sentence():
    tasks = episodic()
    with pytest.raises(IndexError, match="task 30 does not exist; this task set has 30"):
        tasks[30]
    with pytest.raises(IndexError, match="positions must lie below the number of tasks, 30"):
        tasks[[0, 30]]
    with pytest.raises(IndexError, match="one entry for each of the 30 tasks; got 2"):
        tasks[[True, False]]
    for key in ("a", [0.5], [[0, 1]], None):
        with pytest.raises(TypeError, match="tasks are selected by an integer"):
            tasks[key]
    with pytest.raises(ValueError, match="visit must be at least 0, got -1"):
        tasks.task(0, visit=-1)


@pytest.mark.parametrize("random_state", [-1, "a", 0.5])
def test_a_bad_random_state_gets_a_sentence(random_state):
    with pytest.raises(ValueError, match="random_state must be None, an int of at least 0"):
        episodic(random_state)


def test_a_third_party_task_set_needs_one_method():
    class Constant(TaskSet):
        def _make_task(self, task_id, visit):
            X = self._stream(task_id, visit).random((2, 1))
            return Task(X[:1], [task_id], X[1:], [task_id], name=self._name(task_id))

    tasks = Constant(4, names=[("a", 1), ("b", 2), ("c", 3), ("d", 4)], random_state=0)
    assert tasks[1:][0].name == ("b", 2)
    assert same(tasks[1:].task(1, 5), tasks.task(2, 5))
    with pytest.raises(ValueError, match="got 1 names for 4 tasks"):
        Constant(4, names=["a"])


# scikit-learn -------------------------------------------------------------------------------------


class MeanOfTasks(BaseEstimator):
    """Its samples are tasks."""

    def __init__(self, shift=0.0):
        self.shift = shift

    def fit(self, tasks, y=None):
        self.ids_ = tasks.task_ids
        self.mean_ = np.mean([task.X_support.mean() for task in tasks])
        return self

    def score(self, tasks, y=None):
        self.scored_ids_ = tasks.task_ids
        return -abs(np.mean([t.X_query.mean() for t in tasks]) - self.mean_ - self.shift)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("splitter", [KFold(3, shuffle=True, random_state=0), ShuffleSplit(2)])
def test_splitters_split_tasks(make, splitter):
    tasks = make()
    for train, test in splitter.split(tasks):
        assert not set(tasks[train].task_ids) & set(tasks[test].task_ids)
        assert len(train) + len(test) == len(tasks)


@pytest.mark.parametrize("make", KINDS)
def test_train_test_split_returns_task_sets(make):
    tasks = make()
    train, test = train_test_split(tasks, test_size=0.25, random_state=0)
    assert isinstance(train, TaskSet)
    assert sorted([*train.task_ids, *test.task_ids]) == list(range(len(tasks)))


@pytest.mark.parametrize("make", KINDS)
def test_grid_search_runs_over_tasks(make):
    tasks = make()
    search = GridSearchCV(MeanOfTasks(), {"shift": [0.0, 100.0]}, cv=3).fit(tasks)
    assert search.best_params_ == {"shift": 0.0}
    assert len(search.best_estimator_.ids_) == len(tasks)


def test_a_worker_that_maps_the_data_from_a_file_draws_the_same_tasks(tmp_path):
    tasks = episodic(None)[3:]
    joblib.dump(tasks, tmp_path / "tasks")
    mapped = joblib.load(tmp_path / "tasks", mmap_mode="r")
    assert isinstance(mapped.X, np.memmap)
    assert all(same(a, b) for a, b in zip(tasks, mapped, strict=True))


def test_group_folds_and_learning_curves_run_over_tasks():
    tasks = grouped()
    families = np.arange(len(tasks)) // 4
    assert cross_val_score(MeanOfTasks(), tasks, groups=families, cv=GroupKFold(3)).shape == (3,)
    sizes, *_ = learning_curve(MeanOfTasks(), tasks, None, train_sizes=[0.5, 1.0], cv=3)
    assert sizes.tolist() == [4, 8]


def test_a_stream_is_that_of_philox_with_its_key_and_counter():
    key = resolve_random_state(5)[1]
    philox = np.random.Philox(key=key, counter=np.array([0, 0, 7, 2], dtype=np.uint64))
    expected = np.random.Generator(philox).random(9)
    np.testing.assert_array_equal(stream(key, 7, 2).random(9), expected)
