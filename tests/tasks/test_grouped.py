import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from fewshot_sklearn.tasks import GroupedTasks

RNG_ROWS = 400


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    groups = rng.choice(list("pqrst"), RNG_ROWS)
    return np.arange(RNG_ROWS * 2.0).reshape(-1, 2), rng.choice(["no", "yes"], RNG_ROWS), groups


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    n_classes=st.integers(1, 4),
    n_support=st.tuples(st.integers(1, 6), st.integers(6, 20)),
    n_query=st.none() | st.integers(1, 30),
    stratify=st.sampled_from([True, False, None]),
    seed=st.integers(0, 1000),
)
def test_a_draw_splits_its_group(sizes, n_classes, n_support, n_query, stratify, seed):
    rng = np.random.default_rng(seed)
    sizes = [*sizes, 30]
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    y = rng.integers(0, n_classes, len(groups))
    tasks = GroupedTasks(
        np.zeros((len(y), 1)),
        y,
        groups,
        n_support=n_support,
        n_query=n_query,
        stratify=stratify,
        random_state=seed,
    )
    assert len(tasks) + tasks.n_left_out == len(sizes)
    for i, name in enumerate(tasks.names):
        support, query = tasks.draw(i, visit=2)
        assert {*groups[support], *groups[query]} == {name}
        assert len({*support, *query}) == len(support) + len(query)
        assert n_support[0] <= len(support) <= n_support[1]
        rest = np.count_nonzero(groups == name) - len(support)
        assert len(query) == min(rest, n_query or rest)
        if stratify is not None:
            assert set(y[groups == name]) == set(y[support])


def test_a_stratified_support_has_the_proportions_of_its_group():
    y = np.array([0] * 75 + [1] * 25)
    tasks = GroupedTasks(np.zeros((100, 1)), y, np.zeros(100), n_support=16, random_state=0)
    for visit in range(20):
        assert np.bincount(y[tasks.draw(0, visit)[0]]).tolist() == [12, 4]


def test_a_plain_support_varies_but_never_lacks_a_class():
    y = np.array([0] * 99 + [1])
    tasks = GroupedTasks(
        np.zeros((100, 1)), y, np.zeros(100), n_support=4, stratify=False, random_state=0
    )
    assert all(99 in tasks.draw(0, visit)[0] for visit in range(50))
    y = np.repeat([0, 1], 50)
    tasks = GroupedTasks(
        np.zeros((100, 1)), y, np.zeros(100), n_support=16, stratify=False, random_state=0
    )
    actives = [y[tasks.draw(0, visit)[0]].sum() for visit in range(200)]
    assert abs(np.mean(actives) - 8) < 0.5
    assert np.std(actives) > 1


def test_the_support_is_in_random_order_and_query_rows_are_drawn_from_all():
    y = np.repeat([0, 1], 50)
    tasks = GroupedTasks(np.zeros((100, 1)), y, np.zeros(100), n_query=10, random_state=0)
    changes = [np.count_nonzero(np.diff(y[tasks.draw(0, v)[0]])) for v in range(50)]
    assert np.mean(changes) > 5
    drawn = np.bincount(np.concatenate([tasks.draw(0, v)[1] for v in range(2000)]), minlength=100)
    assert abs(drawn - 200).max() < 6 * np.sqrt(200)


def test_groups_that_are_too_small_or_have_too_many_classes_are_counted_with_a_reason():
    groups = np.repeat(["one class", "small", "many", "fine"], [10, 4, 10, 10])
    y = np.r_[np.zeros(10), np.zeros(4), np.arange(10), np.tile([0, 1], 5)]
    tasks = GroupedTasks(np.zeros((34, 1)), y, groups, n_support=4, random_state=0)
    assert tasks.names.tolist() == ["fine", "one class"]
    assert tasks.n_left_out == 2
    assert tasks.left_out == {
        "many": "it has 10 classes, more than the 4 support rows",
        "small": "it has 4 labelled rows, n_support=4 needs at least 5",
    }
    assert repr(tasks) == "GroupedTasks(2 tasks, 2 groups left out)"
    assert tasks[:1].left_out == tasks.left_out


def test_a_range_makes_room_for_all_classes():
    y = np.arange(12) % 6
    tasks = GroupedTasks(np.zeros((12, 1)), y, np.zeros(12), n_support=(2, 20), random_state=0)
    sizes = {len(tasks.draw(0, v)[0]) for v in range(200)}
    assert sizes == set(range(6, 12))


def test_real_values_are_drawn_without_regard_to_classes():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 20)
    for y in (rng.random(40), rng.random((40, 2)), pd.Series(rng.random(40))):
        tasks = GroupedTasks(np.zeros((40, 1)), y, groups, n_support=5, random_state=0)
        assert tasks[1].y_query.shape == (15, *y.shape[1:])
    counts = np.arange(40)
    with pytest.raises(ValueError, match="no more classes than support rows"):
        GroupedTasks(np.zeros((40, 1)), counts, groups, n_support=5)
    tasks = GroupedTasks(np.zeros((40, 1)), counts, groups, n_support=5, stratify=None)
    assert len(tasks) == 2


def test_missing_labels_and_groups_are_dropped_and_counted(data):
    X, y, groups = data
    y, groups = y.astype(object), groups.astype(object)
    y[::10], groups[5::10] = None, np.nan
    tasks = GroupedTasks(X, y, groups, random_state=0)
    assert tasks.n_dropped == 80
    assert tasks.X is X
    task = tasks[2]
    rows = (task.X_query[:, 0] / 2).astype(int)
    np.testing.assert_array_equal(task.y_query, y[rows])
    assert set(groups[rows]) == {"r"}


def test_several_outputs_are_dropped_together():
    y = np.random.default_rng(0).random((30, 2))
    y[3, 1] = np.nan
    tasks = GroupedTasks(np.zeros((30, 1)), y, np.zeros(30), random_state=0)
    assert tasks.n_dropped == 1
    assert 3 not in tasks.row_of


def test_a_long_frame_keeps_its_names_and_types():
    rng = np.random.default_rng(0)
    df = pd.DataFrame(
        {
            "assay": pd.Categorical(rng.choice(["b", "a", "c"], 90)),
            "city": rng.choice(["x", "y"], 90),
            "dose": rng.random(90),
            "count": rng.integers(0, 5, 90),
            "active": pd.array(rng.choice([True, False], 90), dtype="boolean"),
        },
        index=rng.permutation(90),
    )
    df.loc[df.index[:6], "active"] = pd.NA
    tasks = GroupedTasks.from_frame(df, task="assay", target="active", n_support=8, random_state=1)
    assert tasks.names.tolist() == ["a", "b", "c"]
    assert tasks.n_dropped == 6
    task = tasks[0]
    assert task.X_support.dtypes.to_dict() == df[["city", "dose", "count"]].dtypes.to_dict()
    assert task.y_support.dtype == bool
    expected = df.loc[task.X_query.index]
    assert set(expected["assay"]) == {"a"}
    np.testing.assert_array_equal(task.y_query, expected["active"].to_numpy(dtype=bool))
    only = GroupedTasks.from_frame(df, task="assay", target="active", features=["dose"])
    assert list(only[0].X_query.columns) == ["dose"]
    several = GroupedTasks.from_frame(df, task="assay", target=["dose", "count"])
    assert several[0].y_support.shape == (16, 2)
    for one in ("dose", ["dose"]):
        tasks = GroupedTasks.from_frame(df, task="assay", target=one, features="count")
        assert tasks[0].y_support.shape == (16,)
        assert tasks[0].X_support.shape == (16, 1)


@pytest.mark.parametrize("as_frame", [True, False])
@pytest.mark.parametrize("kind", ["numbers", "strings", "real"])
def test_a_wide_table_shares_rows_among_tasks(as_frame, kind):
    rng = np.random.default_rng(0)
    X = np.arange(50.0)[:, None]
    Y = rng.integers(0, 2, (50, 3)).astype(float)
    if kind == "real":
        Y = rng.random((50, 3))
    Y[rng.random((50, 3)) < 0.2] = np.nan
    Y[5:, 1] = np.nan
    if kind == "strings":
        Y = np.where(np.isnan(Y), None, np.where(Y == 1, "yes", "no"))
    wide = pd.DataFrame(Y, columns=["w", "v", "u"]) if as_frame else Y
    tasks = GroupedTasks.from_wide(X, wide, n_support=8, random_state=0)
    assert tasks.X is X
    assert tasks.names.tolist() == (["w", "u"] if as_frame else [0, 2])
    assert tasks.n_left_out == 1
    for i, column in enumerate([0, 2]):
        task = tasks[i]
        support, query = tasks.draw(i)
        rows = tasks.row_of[query]
        np.testing.assert_array_equal(task.X_query.ravel(), rows)
        np.testing.assert_array_equal(task.X_support.ravel(), tasks.row_of[support])
        np.testing.assert_array_equal(task.y_query, Y[rows, column])
        np.testing.assert_array_equal(task.y_query, tasks.y[query])
        measured = np.flatnonzero([v is not None and v == v for v in Y[:, column]])
        assert sorted([*rows, *task.X_support.ravel()]) == measured.tolist()


def test_a_wide_table_takes_sparse_features():
    Y = np.tile([[0, 1], [1, 0]], (10, 1))
    tasks = GroupedTasks.from_wide(sp.csr_array(np.eye(20)), Y, n_support=4, random_state=0)
    assert tasks[1].X_query.shape == (16, 20)


def test_tables_that_do_not_fit_get_a_sentence():
    df = pd.DataFrame({"a": [1], "b": [2]})
    with pytest.raises(ValueError, match=r"df has no column 'c'; its columns are \['a', 'b'\]"):
        GroupedTasks.from_frame(df, task="c", target="a")
    with pytest.raises(ValueError, match="df has no column left for features"):
        GroupedTasks.from_frame(df, task="b", target="a")
    with pytest.raises(TypeError, match="df must be a DataFrame, got ndarray"):
        GroupedTasks.from_frame(np.eye(2), task="c", target="a")
    with pytest.raises(ValueError, match=r"got shape \(2, 2\) for 3 rows of X"):
        GroupedTasks.from_wide(np.eye(3), np.eye(2))
    with pytest.raises(ValueError, match=r"Y must have two dimensions .* got shape \(3,\)"):
        GroupedTasks.from_wide(np.eye(3), [0, 1, 0])
    with pytest.raises(ValueError, match=r"got shape \(3, 1\): pass its single column"):
        GroupedTasks(np.eye(3), np.zeros((3, 1)), [0, 0, 0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_support": 0}, "n_support must be an integer of at least 1, got 0"),
        ({"n_query": 0}, "n_query must be an integer of at least 1, got 0"),
        ({"n_support": 300}, r"must have 301 rows .* the largest of 5 has \d+ rows; lower"),
        ({"groups": [0]}, "groups must have one entry for each entry of y; got 1 and 400"),
        ({"groups": np.zeros((400, 2))}, r"groups must have one dimension, got shape \(400, 2\)"),
        ({"groups": [np.nan] * 400}, "at least one group must have 17 rows .* got none"),
        ({"stratify": "yes"}, "stratify must be True, False or None, got 'yes'"),
        ({"row_of": [0]}, r"one row number for each of the 400 entries of y; got shape \(1,\)"),
        ({"row_of": np.arange(1, 401)}, "row numbers of X, from 0 to 399; got 1 to 400"),
    ],
)
def test_impossible_groups_get_a_sentence(data, options, sentence):
    X, y, groups = data
    with pytest.raises(ValueError, match=sentence):
        GroupedTasks(X, y, **{"groups": groups, **options})


def test_a_million_groups_over_a_memory_map_cost_their_indices(tmp_path):
    n_groups, size = 1_000_000, 3
    n_rows = n_groups * size
    X = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=(n_rows, 4))
    y = np.tile(np.array([0, 1, 0], dtype=np.int8), n_groups)
    groups = np.repeat(np.arange(n_groups), size)
    tracemalloc.start()
    tasks = GroupedTasks(X, y, groups, n_support=2, random_state=0)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(tasks) == n_groups
    assert tasks[-1].X_query.shape == (1, 4)
    assert kept < 4 * groups.nbytes
    assert peak < 10 * groups.nbytes


def test_group_sizes_may_differ_ten_thousandfold():
    sizes = [5, 50_000]
    groups = np.repeat([0, 1], sizes)
    y = np.arange(len(groups)) % 2
    tasks = GroupedTasks(np.zeros((len(y), 1)), y, groups, n_support=(4, 64), n_query=100)
    assert len(tasks[0].y_support) == 4
    assert len(tasks[1].y_query) == 100
