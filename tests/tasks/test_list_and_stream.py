import itertools

import numpy as np
import pandas as pd
import pytest

from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.tasks import EpisodicTasks, StreamTasks, Task, TaskList, as_task_set

X = np.eye(4)


def four(labels="abab"):
    y = np.array(list(labels))
    return X, y, X, y


def test_classes_are_shared_if_every_task_has_the_same_labels():
    assert TaskList([four("abab"), four("bbaa")]).shared_classes
    assert not TaskList([four("abab"), four("acac")]).shared_classes
    assert not TaskList([four(), four()], shared_classes=False).shared_classes
    assert TaskList([four("abab"), four("acac")], shared_classes=True)[1:].shared_classes


def test_names_come_from_the_tasks_or_the_caller():
    tasks = [Task(*four(), name="x"), four()]
    assert TaskList(tasks).names.tolist() == ["x", 1]
    assert TaskList(tasks, names=["u", "v"])[1:].names.tolist() == ["v"]
    with pytest.raises(ValueError, match="got 1 names for 2 tasks"):
        TaskList(tasks, names=["u"])


def test_an_empty_list_gets_a_sentence():
    with pytest.raises(ValueError, match="a TaskList needs at least one task, got none"):
        TaskList([])
    with pytest.raises(ValueError, match="at least one task is needed, got an empty list"):
        as_task_set([])
    with pytest.raises(TypeError, match=r"made of an iterable of tasks .* got NoneType"):
        TaskList(None)


def test_task_sets_and_lists_are_recognised():
    tasks = EpisodicTasks(np.zeros((20, 1)), np.arange(20) % 5)
    assert as_task_set(tasks) is tasks
    listed = [four()] * 4
    for some in (listed, tuple(listed), [list(task) for task in listed], [Task(*four())] * 4):
        assert isinstance(as_task_set(some), TaskList)
        assert len(as_task_set(some)) == 4
    objects = np.empty(4, dtype=object)
    objects[:] = [Task(*four())] * 4
    assert len(as_task_set(objects)) == 4
    stream = as_task_set(task for task in listed)
    assert isinstance(stream, StreamTasks)
    assert as_task_set(stream) is stream


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (Task(*four()), r"got a single task; put it in a list: \[task\]"),
        (four(), "got a single task"),
        (list(four()), "got a single task"),
        (([[1], [2]], [0, 1], [[1], [2]], [0, 1]), "got a single task"),
        (pd.DataFrame({"a": [1]}), r"got a DataFrame; use GroupedTasks.from_frame\(df"),
        (np.eye(3), r"got an array of shape \(3, 3\), which holds rows; cut it into tasks with"),
        ("tasks", "got str; use TaskList, EpisodicTasks"),
        ({"a": four()}, "got dict; use TaskList"),
        (None, "got NoneType; use TaskList"),
        (3, "got int; use TaskList"),
    ],
)
def test_things_that_are_no_tasks_get_a_sentence(mistake, sentence):
    with pytest.raises(TypeError, match=sentence):
        as_task_set(mistake)


def test_a_stream_is_read_on_demand_and_revisited_when_it_ends():
    pulled = []

    def tasks():
        for i in range(3):
            pulled.append(i)
            yield four()

    stream = StreamTasks(tasks())
    assert not pulled
    assert [task.name for task in stream.next_tasks(2)] == [0, 1]
    assert pulled == [0, 1]
    assert not stream.exhausted
    assert [task.name for task in stream.next_tasks(6)] == [2, 0, 1, 2, 0, 1]
    assert stream.exhausted
    assert stream.n_seen == 3
    assert [task.name for task in itertools.islice(stream, 2)] == [2, 0]


def test_looking_ahead_uses_no_task_up():
    stream = StreamTasks(four() for _ in itertools.count())
    assert stream.shared_classes
    assert stream.n_seen == 16
    assert [task.name for task in stream.head(2)] == [0, 1]
    assert [task.name for task in stream.next_tasks(20)] == list(range(20))
    short = StreamTasks(four(labels) for labels in ("abab", "acac"))
    assert short.next_tasks(2)[1].name == 1
    assert not short.shared_classes
    assert StreamTasks([four("abab"), four("acac")], shared_classes=True).shared_classes


def test_an_endless_stream_remembers_only_so_much():
    stream = StreamTasks((four() for _ in range(10)), n_remembered=4)
    assert [t.name for t in stream.next_tasks(15)] == [*range(10), 0, 1, 2, 3, 0]


def test_streams_of_nothing_and_of_no_tasks_get_a_sentence():
    for ask in (lambda s: s.next_tasks(1), lambda s: s.head(1), lambda s: s.shared_classes):
        with pytest.raises(ValueError, match="the iterable of tasks is empty"):
            ask(StreamTasks(iter(())))
    with pytest.raises(TaskError, match="task 1 must be a Task or a tuple"):
        StreamTasks(iter([four(), 3])).next_tasks(2)
    with pytest.raises(TaskError, match=r"task 0: .* as many rows as each other, got 4 and 1"):
        StreamTasks(iter([(X, [0], X, [0])])).head(1)
