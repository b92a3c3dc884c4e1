import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from fewshot_sklearn.tasks import EpisodicTasks


@given(
    sizes=st.lists(st.integers(4, 40), min_size=3, max_size=8),
    low_way=st.integers(2, 3),
    shots=st.tuples(st.integers(1, 2), st.integers(2, 3)),
    n_query=st.integers(1, 20),
    seed=st.integers(0, 2**70),
)
def test_an_episode_has_its_ways_shots_and_queries(sizes, low_way, shots, n_query, seed):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    tasks = EpisodicTasks(
        np.zeros((len(y), 1)),
        y,
        n_way=(low_way, 3),
        n_shot=shots,
        n_query=n_query,
        n_tasks=3,
        random_state=seed,
    )
    for i in range(3):
        support, query = tasks.draw(i, visit=i)
        assert support.dtype == query.dtype == np.int64
        assert len({*support, *query}) == len(support) + len(query)
        classes, shot = np.unique(y[support], return_counts=True)
        assert low_way <= len(classes) <= 3
        assert len(set(shot)) == 1
        assert shots[0] <= shot[0] <= shots[1]
        asked = np.minimum(n_query, np.array(sizes)[classes] - shot)
        np.testing.assert_array_equal(np.unique(y[query], return_counts=True)[1], asked)


@pytest.mark.parametrize("size", [30, 600])
def test_every_row_and_class_is_as_likely_as_any_other(size):
    y = np.repeat(np.arange(4), size)
    tasks = EpisodicTasks(
        np.zeros((len(y), 1)), y, n_way=2, n_shot=5, n_query=5, n_tasks=3000, random_state=0
    )
    drawn = np.concatenate([np.concatenate(tasks.draw(i)) for i in range(3000)])
    expected = 3000 * 20 / len(y)
    counts = np.bincount(drawn, minlength=len(y))
    assert abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_ranges_reach_both_ends():
    y = np.repeat(np.arange(6), 10)
    tasks = EpisodicTasks(y[:, None], y, n_way=(2, 4), n_shot=(1, 3), random_state=0)
    ways, shots = set(), set()
    for i in range(100):
        _, counts = np.unique(y[tasks.draw(i)[0]], return_counts=True)
        ways.add(len(counts))
        shots.add(int(counts[0]))
    assert ways == {2, 3, 4}
    assert shots == {1, 2, 3}


def test_the_support_is_in_random_order():
    y = np.repeat(np.arange(5), 20)
    tasks = EpisodicTasks(y[:, None], y, n_shot=5, random_state=0)
    runs = [np.count_nonzero(np.diff(y[tasks.draw(i)[0]])) for i in range(50)]
    assert np.mean(runs) > 15  # 4 if classes came one after the other


def test_labels_may_be_anything_and_missing_ones_are_never_drawn():
    y = np.array(["x", "y", None] * 10, dtype=object)
    X = np.arange(30.0)[:, None]
    for labels in (y, pd.Series(y), pd.Series(y, dtype="category"), y.tolist()):
        tasks = EpisodicTasks(X, labels, n_way=2, n_query=3, random_state=0)
        assert tasks.classes_.tolist() == ["x", "y"]
        assert set(tasks[0].y_support) == {"x", "y"}
        for i in range(20):
            rows = tasks[i].X_query.ravel()
            np.testing.assert_array_equal(tasks[i].y_query, y[rows.astype(int)])


@pytest.mark.parametrize(
    "labels",
    [
        pd.Series([1, 2, None] * 10, dtype="Int64"),
        pd.Series([True, False, None] * 10, dtype="boolean"),
        np.array([1.0, 2.0, np.nan] * 10),
        np.array([3, 4, None] * 10, dtype=object),
    ],
)
def test_numbers_with_gaps_stay_numbers(labels):
    tasks = EpisodicTasks(np.zeros((30, 1)), labels, n_way=2, random_state=0)
    assert tasks.y.dtype.kind in "bif"
    assert len(tasks.y) == 20


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((40, 3, 8, 8)),
        pd.DataFrame({"a": np.arange(40), "b": list("xy") * 20}),
        sp.csr_array(np.eye(40)),
        sp.coo_matrix(np.eye(40)),
        np.array(["some text"] * 40, dtype=object),
    ],
    ids=["images", "frame", "csr", "coo", "text"],
)
def test_rows_keep_the_kind_of_x(X):
    tasks = EpisodicTasks(X, np.arange(40) % 4, n_way=3, n_shot=2, n_query=1, random_state=0)
    task = tasks[0]
    assert isinstance(task.X_support, type(tasks.X))
    assert task.X_support.shape == (6, *X.shape[1:])
    if not sp.issparse(X):
        assert tasks.X is X
    if isinstance(X, pd.DataFrame):
        assert list(task.X_query.columns) == ["a", "b"]
        np.testing.assert_array_equal(task.X_support["a"], tasks.draw(0)[0])


def test_a_million_tasks_over_a_memory_map_cost_nothing(tmp_path):
    X = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=(20_000, 16, 16))
    y = np.arange(20_000) % 100
    tracemalloc.start()
    start = time.perf_counter()
    tasks = EpisodicTasks(X, y, n_tasks=1_000_000, random_state=0)
    assert tasks[999_999].X_support.shape == (5, 16, 16)
    assert type(tasks[0].X_support) is np.ndarray
    assert time.perf_counter() - start < 5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * y.nbytes


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_way": 20}, r"n_way=20 classes are needed per episode but y has 12; lower n_way or"),
        ({"n_way": (2, 20)}, r"n_way=20 classes are needed per episode but y has 12"),
        ({"n_shot": 5}, r"at least 6 rows for n_shot=5 and one query row, but class 'a' has 5 "),
        ({"n_way": 1}, r"n_way must be an integer of at least 2, got 1"),
        ({"n_way": (4, 2)}, r"n_way must be a range \(low, high\) with low <= high, got \(4, 2\)"),
        ({"n_way": (2, 3, 4)}, r"n_way must be an integer or a range \(low, high\)"),
        ({"n_shot": 0}, r"n_shot must be an integer of at least 1, got 0"),
        ({"n_query": 2.5}, r"n_query must be an integer of at least 1, got 2.5"),
        ({"n_tasks": 0}, r"n_tasks must be an integer of at least 1, got 0"),
        ({"n_tasks": True}, r"n_tasks must be an integer of at least 1, got True"),
    ],
)
def test_impossible_episodes_get_a_sentence(options, sentence):
    y = np.repeat(list("abcdefghijkl"), 5)
    with pytest.raises(ValueError, match=sentence):
        EpisodicTasks(np.zeros((60, 1)), y, **options)


def test_bad_data_gets_a_sentence():
    with pytest.raises(ValueError, match="got 3 rows in X and 2 in y"):
        EpisodicTasks(np.zeros((3, 1)), [0, 1])
    with pytest.raises(ValueError, match=r"use X.reshape\(-1, 1\)"):
        EpisodicTasks(np.zeros(3), [0, 1, 0])
    with pytest.raises(ValueError, match="one entry for each row, got ndarray and NoneType"):
        EpisodicTasks(np.zeros((3, 1)), None)
    with pytest.raises(ValueError, match="one entry for each row, got NoneType and ndarray"):
        EpisodicTasks(None, [0, 1])
    with pytest.raises(ValueError, match="y must hold class labels to cut episodes from"):
        EpisodicTasks(np.zeros((3, 1)), [0.5, 1, 0])
    with pytest.raises(ValueError, match="y must be of one type so that it can be sorted"):
        EpisodicTasks(np.zeros((4, 1)), ["a", 1, "a", 1])
