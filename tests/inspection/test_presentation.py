"""The display of accuracy by presentation."""

import numpy as np
import pytest

from fewshot_sklearn import EpisodicTasks, LSTMClassifier, ProtoNetClassifier
from fewshot_sklearn.inspection import PresentationDisplay

pytest.importorskip("matplotlib").use("agg")


class Rememberer:
    """Predicts the label that a number was last shown with, and a wrong one before."""

    def predict_sequence(self, X, y):
        known, predicted = {}, []
        for (row,), label in zip(X, y, strict=True):
            predicted.append(known.get(row, -1))
            known[row] = label
        return np.array(predicted)


@pytest.fixture
def tasks():
    y = np.repeat(np.arange(9), 12)
    X = y[:, None].astype(float)
    return EpisodicTasks(X, y, n_way=3, n_shot=2, n_query=2, n_tasks=6, random_state=0)


def test_what_is_remembered_is_known_from_the_second_presentation_on(tasks):
    display = PresentationDisplay.from_estimator(Rememberer(), tasks, random_state=0)
    np.testing.assert_array_equal(display.presentations, [1, 2, 3, 4])
    np.testing.assert_array_equal(display.scores, [[0.0] * 6, *[[1.0] * 6] * 3])
    np.testing.assert_array_equal(display.line_.get_ydata(), [0, 1, 1, 1])
    assert display.ax_.get_xlabel() == "presentation of the class"


def test_the_orders_are_those_of_the_random_state(tasks):
    clf = LSTMClassifier(n_hidden=8, max_iter=2, random_state=0).meta_fit(tasks)
    one, same, other = (
        PresentationDisplay.from_estimator(clf, tasks, random_state=seed).scores
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_an_estimator_that_reads_no_sequence_is_refused_with_the_cure(tasks):
    with pytest.raises(TypeError, match=r"must have predict_sequence, but ProtoNetClassifier"):
        PresentationDisplay.from_estimator(ProtoNetClassifier(), tasks)


def test_no_task_is_an_error():
    with pytest.raises(ValueError, match="at least one task"):
        PresentationDisplay.from_estimator(Rememberer(), [])
