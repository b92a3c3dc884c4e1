"""Tables drawn from a prior: what was asked for, the same from every direction."""

import pickle

import numpy as np
import pytest

from fewshot_sklearn.datasets import make_prior_tasks
from fewshot_sklearn.datasets._random_tables import draw_disguise, draw_network, draw_trees
from fewshot_sklearn.tasks import TaskSet

KINDS = ["classification", "regression"]
kinds = pytest.mark.parametrize("kind", KINDS)


def assert_same_task(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@kinds
def test_counts_are_those_that_were_asked_for(kind):
    tasks = make_prior_tasks(
        60, kind=kind, n_features=(2, 5), n_classes=3, n_support=(9, 12), n_query=7, random_state=0
    )
    assert isinstance(tasks, TaskSet)
    assert len(tasks) == 60
    assert {task.X_support.shape[1] for task in tasks} == {2, 3, 4, 5}
    assert {task.X_support.shape[0] for task in tasks} == {9, 10, 11, 12}
    for task in tasks:
        assert task.X_query.shape == (7, task.X_support.shape[1])
        assert task.y_query.shape == (7,)
        for part in task:
            assert np.isfinite(part).all()


def test_every_class_of_the_queries_is_in_the_support():
    for task in make_prior_tasks(200, n_classes=(2, 8), n_support=8, random_state=0):
        assert set(task.y_query) <= set(task.y_support) <= set(range(8))


def test_real_targets_are_standardised_and_vary():
    for task in make_prior_tasks(50, kind="regression", n_support=40, n_query=60, random_state=0):
        y = np.concatenate([task.y_support, task.y_query])
        np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-6)


@kinds
def test_a_task_depends_on_seed_and_number_only(kind):
    tasks = make_prior_tasks(30, kind=kind, random_state=3)
    assert_same_task(tasks[7], make_prior_tasks(1000, kind=kind, random_state=3)[7])
    assert_same_task(tasks[7], tasks[5:][2])
    assert_same_task(tasks[7], pickle.loads(pickle.dumps(tasks))[7])
    other = make_prior_tasks(30, kind=kind, random_state=4)[7]
    assert not np.array_equal(tasks[7].X_query, other.X_query)


@kinds
def test_a_visit_draws_new_rows_of_the_same_size(kind):
    tasks = make_prior_tasks(3, kind=kind, random_state=0)
    first, second = tasks.task(1, visit=0), tasks.task(1, visit=1)
    assert first.X_support.shape == second.X_support.shape
    assert not np.array_equal(first.X_support, second.X_support)


def test_without_a_seed_a_task_set_agrees_with_itself_and_leaves_global_state_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    tasks = make_prior_tasks(3)
    assert_same_task(tasks[0], tasks[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_million_tasks_take_no_memory():
    assert len(pickle.dumps(make_prior_tasks(1_000_000, random_state=0))) < 2_000


def test_tables_can_be_learned():
    """A nearest neighbour does better than chance on most tables."""
    better = []
    for task in make_prior_tasks(60, n_classes=2, n_support=50, n_query=100, random_state=0):
        scale = task.X_support.std(axis=0) + 1e-9
        distance = np.abs((task.X_query[:, None] - task.X_support) / scale).sum(axis=-1)
        guess = task.y_support[distance.argmin(axis=1)]
        share = np.bincount(task.y_query, minlength=2).max() / 100
        better.append((guess == task.y_query).mean() - min(share, 0.5))
    assert np.mean(better) > 0.1


def test_a_network_is_what_its_weights_say():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6, 4))
    for _ in range(20):
        network = draw_network(rng, 4, 2)
        expected = network.activation(X @ network.first + network.bias) @ network.second
        np.testing.assert_allclose(network(X), expected)


def test_trees_are_walked_question_by_question():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6, 4))
    for _ in range(20):
        trees = draw_trees(rng, 4, 2)
        for row, got in zip(X, trees(X), strict=True):
            expected = np.zeros(2)
            for features, cuts, leaves in zip(*trees, strict=True):
                leaf = sum(2**d for d, j in enumerate(features) if row[j] > cuts[d])
                expected += leaves[leaf]
            np.testing.assert_allclose(got, expected)


def test_levels_are_few_and_noise_keeps_its_values():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 6))
    for _ in range(20):
        disguise = draw_disguise(rng, 6)
        shown = disguise(X, rng)
        for j in np.flatnonzero(disguise.n_levels):
            assert len(np.unique(shown[:, j])) <= disguise.n_levels[j]
        plain = disguise._replace(is_noise=np.zeros(6, dtype=bool))(X, rng)
        np.testing.assert_allclose(np.sort(shown, axis=0), np.sort(plain, axis=0))


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"n_tasks": 0}, "n_tasks must be an integer of at least 1; got 0"),
        ({"kind": "ranking"}, "kind must be one of"),
        ({"n_features": 0}, "n_features must be an integer of at least 1; got 0"),
        ({"n_features": (5, 2)}, "n_features must be a pair"),
        ({"n_support": (5, 6, 7)}, "n_support must be an integer or a pair"),
        ({"n_classes": 1}, "n_classes must be an integer of at least 2"),
        ({"n_classes": 9, "n_support": 8}, "n_support must be at least 9"),
        ({"random_state": "x"}, "random_state must be"),
    ],
)
def test_a_wrong_parameter_is_answered_with_a_sentence(parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_prior_tasks(**parameters)


def test_every_support_set_has_two_classes():
    tasks = make_prior_tasks(400, n_classes=(2, 3), n_support=(4, 8), random_state=0)
    assert all(len(np.unique(task.y_support)) > 1 for task in tasks)
