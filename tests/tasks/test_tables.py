"""GroupedTasks on tables as they come: column types, missing cells, sizes, names, memory."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.neighbors import KNeighborsClassifier

from fewshot_sklearn import MLP, ProtoNetClassifier, evaluate
from fewshot_sklearn.tasks import GroupedTasks
from fewshot_sklearn.tasks._labels import encode

N_ROWS = 90
DATA = Path(os.environ.get("FEWSHOT_SKLEARN_DATA") or "nowhere")
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="needs real tables: set FEWSHOT_SKLEARN_DATA to their folder"
)


def with_gaps(values):
    """Put None in every tenth place."""
    return np.where(np.arange(len(values)) % 10 == 0, None, np.asarray(values, dtype=object))


CODES = np.arange(N_ROWS) % 3
TEXT = np.array(["b", "a", "c"])[CODES]
DAYS = pd.Timestamp("2020-01-01") + pd.to_timedelta(CODES, "D")
DAY_LIST = list(pd.date_range("2020-01-01", periods=3))
PAIRS = pd.Series([("shop", code) for code in CODES.tolist()])
TASK_COLUMNS = {
    "text": (TEXT, ["a", "b", "c"]),
    "text with gaps": (with_gaps(TEXT), ["a", "b", "c"]),
    "string dtype": (pd.array(with_gaps(TEXT), dtype="string"), ["a", "b", "c"]),
    "str dtype": (pd.Series(with_gaps(TEXT), dtype="str"), ["a", "b", "c"]),
    "categories": (pd.Categorical(TEXT), ["a", "b", "c"]),
    "unused categories": (pd.Categorical(TEXT, categories=list("zcyba")), ["c", "b", "a"]),
    "categories with gaps": (pd.Categorical(with_gaps(TEXT)), ["a", "b", "c"]),
    "ordered categories": (pd.Categorical(TEXT, list("cba"), ordered=True), ["c", "b", "a"]),
    "numbers": (CODES, [0, 1, 2]),
    "Int64 with gaps": (pd.array(with_gaps(CODES), dtype="Int64"), [0, 1, 2]),
    "floats with gaps": (with_gaps(CODES).astype(float), [0.0, 1.0, 2.0]),
    "boolean": (pd.array(with_gaps(CODES > 0), dtype="boolean"), [False, True]),
    "days": (DAYS, DAY_LIST),
    "days with gaps": (pd.Series(DAYS).where(np.arange(N_ROWS) % 10 != 0), DAY_LIST),
    "days in nanoseconds": (DAYS.astype("datetime64[ns]"), DAY_LIST),
    "days of a time zone": (DAYS.tz_localize("UTC"), [d.tz_localize("UTC") for d in DAY_LIST]),
    "months": (DAYS.to_period("M"), [pd.Period("2020-01")]),
    "pairs": (PAIRS, [("shop", 0), ("shop", 1), ("shop", 2)]),
}


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    columns = {"x": rng.random(N_ROWS), "city": rng.choice(["u", "v"], N_ROWS)}
    index = rng.permutation(N_ROWS)
    return pd.DataFrame(columns | {"y": rng.integers(0, 2, N_ROWS)}, index=index)


@pytest.mark.parametrize("kind", TASK_COLUMNS)
def test_any_type_of_column_names_the_tasks(table, kind):
    column, expected = TASK_COLUMNS[kind]
    table["task"] = pd.Series(column).to_numpy() if kind == "floats with gaps" else column
    if isinstance(column, pd.Series):
        table["task"] = column.array
    tasks = GroupedTasks.from_frame(table, task="task", target="y", n_support=6, random_state=0)
    n_missing = int(table["task"].isna().sum())
    assert list(tasks.names) == expected
    assert tasks.n_dropped == n_missing
    assert n_missing == (
        9 if "gaps" in kind or kind in ("boolean", "string dtype", "str dtype") else 0
    )
    assert tasks.n_left_out == 0
    for i, name in enumerate(expected):
        task = tasks[i]
        rows = table.loc[[*task.X_support.index, *task.X_query.index]]
        assert len(rows) == (table["task"] == name).sum()
        assert (rows["task"] == name).all()
        np.testing.assert_array_equal(rows["y"], [*task.y_support, *task.y_query])
    index = evaluate(
        KNeighborsClassifier(1), GroupedTasks(table[["x"]], table["y"], table["task"], n_support=6)
    ).frame.index
    assert list(index) == expected


@pytest.mark.parametrize(
    "groups",
    [
        pd.Categorical(TEXT, categories=list("zbac")),
        pd.array(TEXT, dtype="string"),
        pd.Index(TEXT),
        TEXT.tolist(),
        TEXT.astype(object),
    ],
    ids=lambda groups: type(groups).__name__,
)
def test_groups_may_be_an_array_of_any_library(groups):
    tasks = GroupedTasks(np.zeros((N_ROWS, 1)), CODES > 0, groups, n_support=6)
    expected = ["b", "a", "c"] if isinstance(groups, pd.Categorical) else ["a", "b", "c"]
    assert tasks.names.tolist() == expected
    assert len(tasks[0].y_query) == 24


def test_groups_may_be_a_list_of_tuples():
    pairs = [("shop", int(code)) for code in CODES]
    tasks = GroupedTasks(np.zeros((N_ROWS, 1)), CODES > 0, pairs, n_support=30 - 1)
    assert tasks.names.tolist() == [("shop", 0), ("shop", 1), ("shop", 2)]
    assert tasks[2].name == ("shop", 2)


YES = np.array([False, True])[np.arange(N_ROWS) % 2]
WORDS = np.where(YES, "yes", "no")
TARGETS = {
    "bool": (YES, bool, 0),
    "boolean": (pd.array(with_gaps(YES), dtype="boolean"), bool, 9),
    "objects": (with_gaps(YES), bool, 9),
    "Int64": (pd.array(with_gaps(YES.astype(int)), dtype="Int64"), np.int64, 9),
    "Int8": (pd.array(YES.astype(int), dtype="Int8"), np.int8, 0),
    "floats": (np.where(np.arange(N_ROWS) % 10 == 0, np.nan, YES), np.float64, 9),
    "Float64": (pd.array(with_gaps(YES / 3), dtype="Float64"), np.float64, 9),
    "text": (WORDS, object, 0),
    "string": (pd.array(with_gaps(WORDS), dtype="string"), object, 9),
    "categories": (pd.Categorical(with_gaps(WORDS), categories=["yes", "no", "?"]), object, 9),
    "categories of numbers": (pd.Categorical(YES.astype(int), categories=[2, 1, 0]), np.int64, 0),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_labels_of_any_type_become_plain_arrays(table, kind):
    column, dtype, n_missing = TARGETS[kind]
    table["task"], table["label"] = TEXT, column
    tasks = GroupedTasks.from_frame(
        table, task="task", target="label", features="x", n_support=6, random_state=0
    )
    assert tasks.n_dropped == n_missing
    assert tasks.y.dtype == dtype
    task = tasks[1]
    assert type(task.y_support) is np.ndarray
    np.testing.assert_array_equal(
        task.y_query, table.loc[task.X_query.index, "label"].to_numpy(dtype=dtype)
    )


def test_the_count_of_what_is_left_out_is_right_and_shown(table):
    table["task"] = np.repeat(["large", "small", "empty", "lost"], [60, 15, 10, 5])
    table.loc[table["task"] == "empty", "y"] = np.nan
    table.loc[(table["task"] == "small") & (np.arange(N_ROWS) % 2 == 0), "y"] = np.nan
    table.loc[table["task"] == "lost", "task"] = None
    tasks = GroupedTasks.from_frame(table, task="task", target="y", features=["x"], n_support=8)
    n_small = int(table.loc[table["task"] == "small", "y"].notna().sum())
    assert tasks.left_out == {
        "empty": "it has 0 labelled rows, n_support=8 needs at least 9",
        "small": f"it has {n_small} labelled rows, n_support=8 needs at least 9",
    }
    assert tasks.n_left_out == len(tasks.left_out)
    assert tasks.n_dropped == int((table["y"].isna() | table["task"].isna()).sum())
    assert repr(tasks) == "GroupedTasks(1 tasks, 2 groups left out, 23 rows dropped)"


def test_a_date_that_is_left_out_is_named_as_the_tasks_are():
    days = np.repeat(np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[ns]"), [85, 5])
    tasks = GroupedTasks(np.zeros((N_ROWS, 1)), CODES, days, n_support=8)
    (name,) = tasks.left_out
    assert type(name) is type(tasks[0].name)
    assert name == np.datetime64("2020-01-02")


def test_tables_that_could_only_mislead_get_a_sentence(table):
    table["task"] = TEXT
    make = GroupedTasks.from_frame
    twice = pd.concat([table, table[["task"]]], axis=1)
    with pytest.raises(ValueError, match="'task' names 2 columns of df; rename them"):
        make(twice, task="task", target="y")
    with pytest.raises(ValueError, match="features must not hold the target, got 'y' as both"):
        make(table, task="task", target="y", features=["x", "y"])
    with pytest.raises(ValueError, match="must be different columns, got 'task' twice"):
        make(table, task="task", target="task")
    with pytest.raises(ValueError, match="0 rows after 90 without label or group were dropped"):
        make(table.assign(y=np.nan), task="task", target="y")
    with pytest.raises(
        ValueError, match=r"30 rows and 30 classes; .* stratify=None if y holds whole"
    ):
        make(table.assign(y=np.arange(N_ROWS)), task="task", target="y")
    with pytest.raises(ValueError, match=r"groups must be of one type .* got a mixture"):
        make(table.assign(task=[1, "a"] * 45), task="task", target="y")
    with pytest.raises(ValueError, match=r"got a csr_array, .* pass Y.toarray\(\) if they mean 0"):
        GroupedTasks.from_wide(np.eye(3), sp.csr_array(np.eye(3)))


def test_features_may_be_chosen_in_any_way(table):
    table["task"] = TEXT
    for features in (["x", "city"], ("x", "city"), table.columns[:2], iter(["x", "city"]), None):
        tasks = GroupedTasks.from_frame(table, task="task", target="y", features=features)
        assert list(tasks.X.columns) == ["x", "city"]
    numbered = table.set_axis(range(4), axis=1)
    tasks = GroupedTasks.from_frame(numbered, task=3, target=2, features=0)
    assert list(tasks.X.columns) == [0]
    nested = table.set_axis(pd.MultiIndex.from_product([["all"], table.columns]), axis=1)
    tasks = GroupedTasks.from_frame(
        nested, task=("all", "task"), target=("all", "y"), features=("all", "x")
    )
    assert list(tasks.X.columns) == [("all", "x")]


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "string", "category", "Float64", object])
def test_a_wide_table_may_have_any_dtype(dtype):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, (60, 3)).astype(object)
    values[rng.random((60, 3)) < 0.3] = None
    names = pd.MultiIndex.from_tuples([("assay", 2), ("assay", 1), ("cell", 1)])
    wide = pd.DataFrame(values, columns=names)
    tasks = GroupedTasks.from_wide(np.arange(60.0)[:, None], wide.astype(dtype), n_support=8)
    assert tasks.names.tolist() == names.tolist()
    assert tasks.n_dropped == 0
    for i, task in enumerate(tasks):
        rows = task.X_query.ravel().astype(int)
        np.testing.assert_array_equal(task.y_query.astype(int), values[rows, i].astype(int))
    scores = evaluate(KNeighborsClassifier(1), tasks, scoring="accuracy").frame
    assert list(scores.index) == names.tolist()


@pytest.mark.parametrize(
    "labels",
    [
        np.array([3, -2, 3, 127, -128], dtype=np.int8),
        np.array([2**63, 2**63 + 1, 2**64 - 1], dtype=np.uint64),
        np.array([-(2**63), 2**63 - 1, 0]),
        np.array([1.0, np.nan, -4.0, 1.0]),
        np.array([0.5, np.inf, -np.inf, 0.0]),
        np.array([True, False, True]),
        np.array(["b", "a", "b"]),
        np.array(["b", None, "a"], dtype=object),
        np.array([2**70, 1, 2**70], dtype=object),
        np.array([], dtype=float),
    ],
    ids=lambda labels: f"{labels.dtype}-{len(labels)}",
)
def test_codes_find_their_labels_again(labels):
    coded = encode(labels, what="y")
    present = coded.codes >= 0
    expected = np.array([v is not None and v == v for v in labels.tolist()], dtype=bool)
    np.testing.assert_array_equal(present, expected)
    np.testing.assert_array_equal(coded.values[coded.codes[present]], labels[present])
    np.testing.assert_array_equal(coded.values, np.unique(labels[present]))
    assert coded.values.dtype == labels.dtype
    pandas = encode(pd.Series(labels), what="y")
    np.testing.assert_array_equal(pandas.codes, coded.codes)


def peak_of(call):
    """Return the bytes that a call takes at its peak."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("stratify", [True, False, None])
def test_a_draw_does_not_grow_with_its_group(stratify):
    sizes = [500, 50_000]
    groups = np.repeat([0, 1], sizes)
    y = np.random.default_rng(0).integers(0, 2, len(groups))
    tasks = GroupedTasks(
        np.zeros((len(y), 1)), y, groups, n_support=16, n_query=100, stratify=stratify
    )
    tasks.draw(0), tasks.draw(1)
    small, large = (peak_of(lambda i=i: tasks.draw(i, 1)) for i in (0, 1))
    assert large < 1.5 * small + 2000
    assert large < 50_000


def test_five_rows_and_fifty_thousand_train_together():
    sizes = np.array([5, 50, 500, 50_000])
    groups = np.repeat(np.arange(4), sizes)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(len(groups), 2)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    y[:5] = [0, 1, 0, 1, 0]
    tasks = GroupedTasks(X, y, groups, n_support=(2, 32), n_query=64, random_state=0)
    assert len(tasks) == 4
    net = ProtoNetClassifier(backbone=MLP(hidden_layer_sizes=(8,)), max_iter=5, random_state=0)
    scores = evaluate(net.meta_fit(tasks), tasks).frame
    assert scores["n_query"].tolist()[2:] == [64, 64]
    assert scores["n_support"].between(2, 32).all()


def test_a_map_is_never_read_whole(tmp_path):
    n_rows, n_tasks = 200_000, 2000
    X = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=(n_rows, 64))
    rng = np.random.default_rng(0)
    groups, y = rng.integers(0, n_tasks, n_rows), rng.integers(0, 2, n_rows, dtype=np.int8)
    made = {}

    def build():
        made["tasks"] = GroupedTasks(X, y, groups, n_support=8, n_query=16, random_state=0)

    def iterate():
        assert sum(len(task.X_query) for task in made["tasks"][:500]) == 16 * 500

    def train():
        net = ProtoNetClassifier(backbone=MLP(hidden_layer_sizes=(4,)), max_iter=5, random_state=0)
        evaluate(net.meta_fit(made["tasks"]), made["tasks"][:20])

    assert peak_of(build) < 8 * groups.nbytes
    assert peak_of(iterate) < X.nbytes / 100
    assert peak_of(train) < X.nbytes / 10


@needs_data
def test_fsmol_becomes_a_task_for_each_assay_that_is_large_enough():
    df = pd.read_csv(DATA / "fsmol" / "train.csv.gz", dtype={"assay_id": "category"})
    tasks = GroupedTasks.from_frame(
        df, task="assay_id", target="active", features=["smiles"], n_query=128, random_state=0
    )
    sizes = df["assay_id"].value_counts()
    assert len(sizes) == 4935
    assert set(tasks.left_out) == set(sizes.index[sizes < 17])
    assert len(tasks) + tasks.n_left_out == 4935
    assert tasks.n_dropped == 0
    for i in (0, 17, len(tasks) - 1):
        task = tasks[i]
        rows = df.loc[[*task.X_support.index, *task.X_query.index]]
        assert (rows["assay_id"] == task.name).all()
        np.testing.assert_array_equal(rows["active"], [*task.y_support, *task.y_query])
        share = df.loc[df["assay_id"] == task.name, "active"].mean()
        assert abs(task.y_support.mean() - share) < 1 / 16
    values = GroupedTasks.from_frame(
        df, task="assay_id", target="log_value", features=["smiles"], random_state=0
    )
    assert values.n_dropped == int(df["log_value"].isna().sum())
    assert values.y.dtype == np.float64


@needs_data
def test_toxcast_becomes_a_task_for_each_column():
    df = pd.read_csv(DATA / "moleculenet" / "toxcast.csv.gz")
    wide = df.drop(columns="smiles")
    tasks = GroupedTasks.from_wide(df[["smiles"]], wide, n_support=20, random_state=0)
    assert len(tasks) == wide.shape[1] == 617
    assert len(tasks.y) == int(wide.notna().to_numpy().sum())
    for i in (0, 300, 616):
        task = tasks[i]
        assert task.name == wide.columns[i]
        labels = wide.loc[task.X_query.index, task.name]
        np.testing.assert_array_equal(task.y_query, labels)
        assert len(task.y_query) == wide[task.name].notna().sum() - 20


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Index])
def test_several_targets_may_come_in_any_container(kind):
    frame = pd.DataFrame({"s": list("aaabbb"), "x": range(6), "t": range(6), "u": range(6)})
    tasks = GroupedTasks.from_frame(frame, task="s", target=kind(["t", "u"]), n_support=2)
    assert tasks[0].y_support.shape == (2, 2)
    assert list(tasks[0].X_support.columns) == ["x"]
