"""Generated regression tasks: the right functions, the same from every direction."""

import pickle

import numpy as np
import pytest

from fewshot_sklearn.datasets import make_cubic_tasks, make_sinusoid_tasks
from fewshot_sklearn.tasks import TaskSet

both = pytest.mark.parametrize("make", [make_sinusoid_tasks, make_cubic_tasks])


def assert_same_task(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@both
def test_targets_lie_on_the_function(make):
    tasks = make(20, random_state=0)
    assert isinstance(tasks, TaskSet)
    for i, (X_support, y_support, X_query, y_query) in enumerate(tasks):
        np.testing.assert_array_equal(tasks.function(i)(X_support), y_support)
        np.testing.assert_array_equal(tasks.function(i)(X_query), y_query)


def test_a_sinusoid_is_what_the_paper_says():
    tasks = make_sinusoid_tasks(2000, n_support=5, n_query=1, random_state=0)
    coefficients = [tasks.coefficients(i) for i in range(2000)]
    amplitude = np.array([c["amplitude"] for c in coefficients])
    phase = np.array([c["phase"] for c in coefficients])
    x = np.array([task.X_support.ravel() for task in tasks])
    y = np.array([task.y_support for task in tasks])
    np.testing.assert_allclose(y, amplitude[:, None] * np.sin(x - phase[:, None]), atol=1e-12)
    for values, low, high in [(amplitude, 0.1, 5), (phase, 0, np.pi), (x, -5, 5)]:
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)


def test_a_cubic_is_a_polynomial_of_its_coefficients():
    tasks = make_cubic_tasks(5, random_state=0)
    assert [member.shape for member in tasks[0]] == [(40, 1), (40,), (80, 1), (80,)]
    for i, task in enumerate(tasks):
        c = tasks.coefficients(i)
        x = task.X_query[:, 0]
        np.testing.assert_allclose(
            task.y_query, c["a"] * x**3 + c["b"] * x**2 + c["c"] * x + c["d"], atol=1e-12
        )


@both
def test_a_visit_draws_new_points_of_the_same_function(make):
    tasks = make(3, random_state=0)
    first, second = tasks.task(1, visit=0), tasks.task(1, visit=1)
    assert not np.isin(first.X_support, second.X_support).any()
    np.testing.assert_array_equal(tasks.function(1)(second.X_query), second.y_query)


@both
def test_a_task_depends_on_seed_and_number_only(make):
    tasks = make(50, random_state=3)
    assert_same_task(tasks[7], make(1000, random_state=3)[7])
    assert_same_task(tasks[7], tasks[5:][2])
    assert_same_task(tasks[7], pickle.loads(pickle.dumps(tasks))[7])
    assert tasks[5:].coefficients(2) == tasks.coefficients(7) == tasks.coefficients(-43)
    assert tasks.coefficients(7) != tasks.coefficients(8)
    assert tasks.coefficients(7) != make(50, random_state=4).coefficients(7)
    with pytest.raises(IndexError):
        tasks.coefficients(50)


@both
def test_without_a_seed_a_task_set_still_agrees_with_itself(make):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    tasks = make(3)
    assert_same_task(tasks[0], tasks[0])
    assert tasks.coefficients(0) != make(3).coefficients(0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_million_tasks_take_no_memory():
    tasks = make_sinusoid_tasks(1_000_000, random_state=0)
    assert len(pickle.dumps(tasks)) < 2_000
    assert tasks[999_999].X_support.shape == (10, 1)


def test_noise_has_the_standard_deviation_that_was_asked_for():
    noisy = make_sinusoid_tasks(20, n_query=500, noise=0.5, random_state=0)
    residuals = [task.y_query - noisy.function(i)(task.X_query) for i, task in enumerate(noisy)]
    assert abs(np.std(residuals) - 0.5) < 0.02
    clean = make_sinusoid_tasks(20, n_query=500, random_state=0)
    np.testing.assert_array_equal(clean[0].X_query, noisy[0].X_query)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"n_tasks": 0}, "n_tasks must be an integer of at least 1; got 0"),
        ({"n_support": 0}, "n_support must be an integer"),
        ({"n_query": 1.5}, "n_query must be an integer"),
        ({"noise": -1}, "noise must be a finite number of at least 0; got -1"),
        ({"noise": float("nan")}, "noise must be"),
        ({"noise": "much"}, "noise must be"),
        ({"random_state": "x"}, "random_state must be"),
    ],
)
def test_a_wrong_parameter_is_answered_with_a_sentence(parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_cubic_tasks(**parameters)
