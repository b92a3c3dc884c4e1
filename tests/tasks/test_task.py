import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from fewshot_sklearn.tasks import Task


@pytest.fixture
def members():
    return np.eye(3), np.array([0, 1, 2]), np.ones((2, 3)), np.array([0, 1])


def test_a_task_unpacks_indexes_and_slices_as_its_four_members(members):
    task = Task(*members)
    assert len(task) == 4
    assert all(a is b for a, b in zip(task, members, strict=True))
    assert task[0] is members[0]
    assert task[-1] is members[3]
    assert task[2:] == members[2:]
    assert task.X_query is members[2]


def test_a_task_is_immutable(members):
    task = Task(*members)
    with pytest.raises(AttributeError):
        task.X_query = None
    with pytest.raises(AttributeError):
        del task.name


def test_a_task_survives_pickling_with_its_name(members):
    task = pickle.loads(pickle.dumps(Task(*members, name="assay")))
    assert task.name == "assay"
    np.testing.assert_array_equal(task.X_support, members[0])


def test_the_repr_shows_shapes_and_name(members):
    assert repr(Task(*members)) == (
        "Task(X_support=(3, 3), y_support=(3,), X_query=(2, 3), y_query=(2,))"
    )
    assert repr(Task(*members, name="a")).endswith("name='a')")


def test_frames_and_sparse_matrices_are_kept_as_they_are():
    frame, matrix = pd.DataFrame({"a": [1, 2]}), sp.csr_array(np.eye(2))
    labels = pd.Series(["x", "y"])
    task = Task(frame, labels, matrix, labels)
    assert task.X_support is frame
    assert task.X_query is matrix
    assert task.y_support is labels


def test_lists_become_arrays_and_texts_arrays_of_objects():
    task = Task([[1.0], [2.0]], [0, 1], ["some text", "more"], [0, 1])
    assert task.X_support.shape == (2, 1)
    assert task.X_query.dtype == object


def test_tasks_are_equal_only_if_they_are_the_same_object(members):
    task = Task(*members)
    assert task == task
    assert task != Task(*members)
    assert len({task, Task(*members)}) == 2
