"""Batches made at one go hold what tasks made one by one hold, bit for bit."""

import itertools

import numpy as np
import pytest
import torch

from fewshot_sklearn.datasets import make_cubic_tasks, make_sinusoid_tasks
from fewshot_sklearn.datasets._synthetic import SinusoidTasks
from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.tasks import EpisodicTasks, GroupedTasks, Task, TaskList
from fewshot_sklearn.tasks._batch import TaskLoader
from fewshot_sklearn.tasks._random import resolve_random_state, stream, stream_uniforms
from fewshot_sklearn.tasks._targets import ClassTargets, RealTargets, find_classes
from fewshot_sklearn.tasks._tensors import TensorMaker, stack

KEY = resolve_random_state(0)[1]
STANDARD = RealTargets(np.array([0.5]), np.array([2.0]), single=True)


def as_it_is(X):
    return X


def loader_of(tasks, targets=STANDARD):
    make = TensorMaker(torch.device("cpu"), torch.float64)
    classifier = isinstance(targets, ClassTargets)
    loader = TaskLoader(
        tasks, make, read_support=as_it_is, read_query=as_it_is, classifier=classifier
    )
    loader.targets = targets
    return loader


def first_batches(loader, n_batches, size, **options):
    return list(itertools.islice(loader.batches(size, KEY, 3, **options), n_batches))


def assert_same(batches, others):
    for a, b in zip(batches, others, strict=True):
        for name, part in vars(a).items():
            other = getattr(b, name)
            assert (part is None) == (other is None), name
            assert part is None or torch.equal(part, other), name


# ---------------------------------------------------------------------------- generated tasks


@pytest.mark.parametrize("n_draws", [1, 4, 5, 21])
def test_streams_drawn_together_are_those_drawn_one_by_one(n_draws):
    task_ids, visits = np.array([0, 3, 2**40, 7]), np.array([0, 5, 2**33, 1])
    together = stream_uniforms(KEY, task_ids, visits, n_draws)
    for row, i, visit in zip(together, task_ids.tolist(), visits.tolist(), strict=True):
        np.testing.assert_array_equal(row, stream(KEY, i, visit).random(n_draws))


@pytest.mark.parametrize("make", [make_sinusoid_tasks, make_cubic_tasks])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_tasks_made_together_are_those_made_one_by_one(make, noise):
    tasks = make(30, n_support=3, n_query=4, noise=noise, random_state=1)
    positions, visits = np.array([4, 29, 4, 0]), np.array([0, 2, 1, 10**6])
    members = tasks._make_tasks(positions, visits)
    for t, (i, visit) in enumerate(zip(positions.tolist(), visits.tolist(), strict=True)):
        for member, alone in zip(members, tasks.task(i, visit), strict=True):
            np.testing.assert_array_equal(member[t], alone)


@pytest.mark.parametrize("at_once", [1, 10, 1000])
@pytest.mark.parametrize("share", [(0, 1), (1, 2)])
def test_batches_made_together_are_those_made_one_by_one(monkeypatch, at_once, share):
    """Also for a selection, over the ends of epochs, and where training goes on."""
    tasks = make_sinusoid_tasks(50, random_state=0)[3:10]
    monkeypatch.setattr(SinusoidTasks, "_n_at_once", at_once)
    loader = loader_of(tasks)
    together = first_batches(loader, 4, 9, share=share)
    monkeypatch.setattr(SinusoidTasks, "_n_at_once", 0)
    other = loader_of(tasks)
    assert_same(together, first_batches(other, 4, 9, share=share))
    assert (loader.n_drawn, loader.n_batches) == (other.n_drawn, other.n_batches)
    assert loader.n_epochs == other.n_epochs
    monkeypatch.undo()
    resumed = loader_of(tasks)
    resumed.n_drawn, resumed.n_batches = loader.n_drawn // 2, 2
    assert_same(together[2:], first_batches(resumed, 2, 9, share=share))


def test_a_subclass_that_changes_one_task_changes_those_of_batches():
    class Shifted(SinusoidTasks):
        def _make_task(self, task_id, visit):
            X_support, y_support, X_query, y_query = super()._make_task(task_id, visit)
            return Task(X_support, y_support + 100, X_query, y_query)

    tasks = Shifted(5, n_support=2, n_query=2, random_state=0)
    (batch,) = first_batches(loader_of(tasks), 1, 3)
    assert (batch.y_support > 40).all()


def test_a_wrong_task_among_many_is_named():
    class Poles(SinusoidTasks):
        @staticmethod
        def _evaluate(x, *coefficients):
            return np.where(x > 4.5, np.inf, x)

    tasks = Poles(50, n_support=5, n_query=5, random_state=0)
    with pytest.raises(TaskError, match=r"^task \d+: y_(support|query) must be finite"):
        first_batches(loader_of(tasks), 1, 40)


# ---------------------------------------------------------------------------- listed tasks


def test_a_listed_task_is_read_once():
    X, y = np.eye(4), np.arange(4.0) / 2
    loader = loader_of(TaskList([(X, y, X, y)] * 3))
    assert loader.draw(1) is loader.draw(1, visit=5)
    assert loader.draw(1) is not loader.draw(2)


def test_a_listed_task_that_a_subclass_changes_is_read_at_every_visit():
    class Growing(TaskList):
        def _make_task(self, task_id, visit):
            X_support, y_support, X_query, y_query = super()._make_task(task_id, visit)
            return Task(X_support, y_support + visit, X_query, y_query)

    X, y = np.eye(2), np.zeros(2)
    loader = loader_of(Growing([(X, y, X, y)]))
    assert [loader.draw(0, visit).y_support[0] for visit in (0, 3)] == [0, 3]


# ---------------------------------------------------------------------------- labels

INTEGERS = [np.array([3, 1, 3]), np.array([7, 7, 2, 1]), np.array([2, 9])]
TEXTS = [y.astype(str) for y in INTEGERS]
OBJECTS = [y.astype(object) for y in INTEGERS]
MIXED = [INTEGERS[0], TEXTS[1], OBJECTS[2]]
WIDTHS = [INTEGERS[0].astype(np.int8), INTEGERS[1], INTEGERS[2].astype(float)]


def one_by_one(targets, supports, queries, rng):
    coded = [
        targets.encode(s, q, where="", rng=rng) for s, q in zip(supports, queries, strict=True)
    ]
    return [*zip(*coded, strict=True)]


@pytest.mark.parametrize("labels", [INTEGERS, TEXTS, OBJECTS, MIXED, WIDTHS])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_labels_encoded_together_are_those_encoded_task_by_task(labels, shuffled, shared):
    if shared and labels is MIXED:
        pytest.skip("labels of several types are never shared")
    known = np.unique(np.concatenate(labels)) if shared else None
    targets = ClassTargets(known, 6)
    queries = [y[::-1][:2] for y in labels]
    rngs = [np.random.default_rng(0) if shuffled else None for _ in range(2)]
    support, query, columns = targets.encode_many(labels, queries, where=["a"] * 3, rng=rngs[0])
    supports, queried, alone = one_by_one(targets, labels, queries, rngs[1])
    np.testing.assert_array_equal(support, np.concatenate(supports))
    np.testing.assert_array_equal(query, np.concatenate(queried))
    for ours, theirs in zip(columns, alone, strict=True):
        np.testing.assert_array_equal(ours.positions, theirs.positions)
        np.testing.assert_array_equal(ours.classes, theirs.classes)
        assert ours.classes.dtype == theirs.classes.dtype
    if shuffled:  # and the stream goes on from the same place
        assert rngs[0].random() == rngs[1].random()
    assert targets.encode_many(labels, None, where=["a"] * 3)[1] is None


def test_labels_of_one_type_are_found_together_and_others_are_not():
    assert find_classes(INTEGERS, INTEGERS) is not None
    assert find_classes(TEXTS, None) is not None
    assert find_classes(MIXED, None) is None


@pytest.mark.parametrize(
    ("targets", "queries", "sentence"),
    [
        (ClassTargets(None), [[1], [7], [3]], "^third: the query set has the label 3"),
        (ClassTargets(None), [[1], [0], [2]], "^second: the query set has the label 0"),
        (ClassTargets(None, 2), [[1], [7], [2]], "^second: it has 3 classes"),
        (ClassTargets(np.array([1, 2, 3, 7]), 4), [[1], [7], [2]], "^third: the label 9"),
    ],
)
def test_the_task_with_a_wrong_label_is_named(targets, queries, sentence):
    queries = [np.array(y) for y in queries]
    with pytest.raises(TaskError, match=sentence):
        targets.encode_many(INTEGERS, queries, where=["first", "second", "third"])


def test_targets_encoded_together_are_those_encoded_task_by_task():
    ys = [np.array([1.0, 2.5]), np.array([3, 4, 5])]
    together = STANDARD.encode_many(ys, where=["a", "b"])
    np.testing.assert_array_equal(
        together, np.concatenate([STANDARD.encode(y, where="") for y in ys])
    )
    with pytest.raises(TaskError, match=r"^b: y must have 1 column"):
        STANDARD.encode_many([ys[0], np.eye(2)], where=["a", "b"])


# ---------------------------------------------------------------------------- rows


def test_ragged_arrays_are_stacked_with_zeros_after_their_end():
    arrays = [np.ones((2, 3)), np.full((1, 3), 2.0)]
    stacked, mask = stack(arrays)
    np.testing.assert_array_equal(stacked, [np.ones((2, 3)), [[2.0] * 3, [0.0] * 3]])
    np.testing.assert_array_equal(mask, [[True, True], [True, False]])
    assert stack(arrays[:1] * 2)[1] is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8])
def test_sparse_rows_become_the_features_that_dense_ones_become(dtype):
    sparse = pytest.importorskip("scipy.sparse")
    X = np.random.default_rng(0).integers(0, 3, (40, 6)).astype(dtype)
    y, groups = np.arange(40) % 2, np.arange(40) // 10
    batches = [
        first_batches(
            loader_of(
                GroupedTasks(rows, y, groups, n_support=4, random_state=0), ClassTargets(None)
            ),
            2,
            3,
        )
        for rows in (X, sparse.csr_matrix(X))
    ]
    assert_same(*batches)


def test_every_process_of_a_group_has_its_part_of_a_batch_of_classes():
    X = np.arange(60.0).reshape(30, 2)
    tasks = EpisodicTasks(X, np.arange(30) % 5, n_way=3, n_query=2, random_state=0)
    whole = first_batches(loader_of(tasks, ClassTargets(None)), 2, 6)
    for rank in range(2):
        part = first_batches(loader_of(tasks, ClassTargets(None)), 2, 3, share=(rank, 2))
        assert_same([batch[3 * rank : 3 * rank + 3] for batch in whole], part)
