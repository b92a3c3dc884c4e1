"""The display of one task."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.datasets import load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsClassifier

from fewshot_sklearn import EpisodicTasks, Task
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.inspection import EpisodeDisplay


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    tasks = EpisodicTasks(X, y, n_way=3, n_shot=2, n_query=10, n_tasks=5, random_state=0)
    return tasks[0]


def test_images_stand_by_class_and_wrong_ones_are_framed(digits):
    net = KNeighborsClassifier(1)
    display = EpisodeDisplay.from_estimator(net, digits, image_shape=(8, 8), max_query=6)
    classes = np.unique(digits.y_support)
    assert len(display.support_) == 6
    assert len(display.query_) == 18
    labels = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert labels == [str(label) for label in classes]
    first = digits.X_support[digits.y_support == classes[0]][0].reshape(8, 8)
    np.testing.assert_array_equal(display.support_[0].get_array(), first)
    y_pred = net.fit(digits.X_support, digits.y_support).predict(digits.X_query)
    shown = np.concatenate([np.flatnonzero(digits.y_query == label)[:6] for label in classes])
    wrong = shown[y_pred[shown] != digits.y_query[shown]]
    assert 0 < len(wrong) < len(shown)
    assert len(display.wrong_) == len(wrong)
    said = [text.get_text() for text in display.ax_.texts]
    assert said == [str(label) for label in y_pred[wrong]]
    assert display.ax_.get_title() == "task 0"


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [((8, 8), (8, 8)), ((1, 8, 8), (8, 8)), ((3, 8, 8), (8, 8, 3)), ((8, 8, 3), (8, 8, 3))],
)
def test_rows_with_the_shape_of_an_image_are_drawn_as_images(shape, drawn):
    X = np.random.default_rng(0).random((4, *shape))
    y = np.array(["a", "b", "a", "b"])
    display = EpisodeDisplay.from_task(Task(X, y, X, y))
    assert display.support_[0].get_array().shape == drawn
    assert display.wrong_ == []


def test_other_rows_are_points_of_their_principal_components(digits):
    display = EpisodeDisplay.from_estimator(KNeighborsClassifier(1), digits)
    pca = PCA(2, svd_solver="full").fit(np.concatenate([digits.X_support, digits.X_query]))
    for label, points in zip(np.unique(digits.y_support), display.support_, strict=True):
        expected = pca.transform(digits.X_support[digits.y_support == label])
        np.testing.assert_allclose(np.asarray(points.get_offsets()), expected, atol=1e-9)
        assert points.get_label() == str(label)
    net = KNeighborsClassifier(1).fit(digits.X_support, digits.y_support)
    wrong = net.predict(digits.X_query) != digits.y_query
    assert wrong.any()
    assert len(display.wrong_[0].get_offsets()) == wrong.sum()
    assert display.ax_.get_xlabel().startswith("component 1 (")


def test_few_or_sparse_features_are_points_as_they_are():
    X, y = np.arange(8.0).reshape(4, 2), ["a", "b", "a", "b"]
    frame = pd.DataFrame(X, columns=["height", "weight"])
    display = EpisodeDisplay.from_task((frame, y, frame, y))
    np.testing.assert_array_equal(display.query_[0].get_offsets(), X[::2])
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("height", "weight")
    sparse = sp.csr_array(X)
    display = EpisodeDisplay.from_task((sparse, y, sparse, y))
    np.testing.assert_array_equal(display.query_[0].get_offsets(), X[::2])
    display = EpisodeDisplay.from_task((X[:, :1], y, X[:, :1], y))
    np.testing.assert_array_equal(display.query_[0].get_offsets(), [[0, 0], [4, 0]])


@pytest.mark.parametrize("as_frame", [False, True])
def test_regression_of_one_number_is_a_curve(as_frame):
    X_support, y_support, X_query, y_query = make_sinusoid_tasks(3, random_state=0)[1]
    if as_frame:
        X_support, X_query = (pd.DataFrame(X, columns=["time"]) for X in (X_support, X_query))
    display = EpisodeDisplay.from_estimator(
        LinearRegression(), (X_support, y_support, X_query, y_query), name="line"
    )
    x, predicted = display.line_.get_data()
    line = LinearRegression().fit(np.asarray(X_support), y_support)
    np.testing.assert_allclose(predicted, line.predict(x[:, None]))
    rows = np.concatenate([np.asarray(X_support), np.asarray(X_query)])
    assert (x[0], x[-1]) == (rows.min(), rows.max())
    np.testing.assert_array_equal(display.support_[0].get_ydata(), y_support)
    assert display.line_.get_label() == "line"
    assert display.ax_.get_xlabel() == ("time" if as_frame else "x")


def test_regression_of_many_numbers_is_points_in_colours():
    X, y = load_diabetes(return_X_y=True)
    y = y + 0.5
    display = EpisodeDisplay.from_task((X[:10], y[:10], X[10:40], y[10:40]))
    np.testing.assert_array_equal(display.support_[0].get_array(), y[:10])
    np.testing.assert_array_equal(display.query_[0].get_array(), y[10:40])
    assert display.support_[0].get_clim() == (y[:40].min(), y[:40].max())


def test_whole_numbers_of_a_regressor_are_a_curve_too():
    X, y = np.arange(6.0)[:, None], np.arange(6)
    display = EpisodeDisplay.from_estimator(LinearRegression(), (X, y, X, y))
    assert display.line_ is not None


def test_episodes_that_cannot_be_drawn_get_a_sentence(digits):
    with pytest.raises(ValueError, match=r"shape \(64,\) was to have the shape \(7, 7\); pass"):
        EpisodeDisplay.from_task(digits, image_shape=(7, 7))
    with pytest.raises(ValueError, match=r"one feature and one target, got rows of shape \(64,\)"):
        EpisodeDisplay.from_task(digits, kind="curve")
    with pytest.raises(ValueError, match=r"kind must be one of .* got 'movie'"):
        EpisodeDisplay(digits, kind="movie")
    text, y = np.array([["red"], ["blue"]], dtype=object), ["a", "b"]
    with pytest.raises(ValueError, match="rows must be numbers to be drawn as points, got object"):
        EpisodeDisplay.from_task((text, y, text, y))
    with pytest.raises(TaskError, match="task 0 must be a Task or a tuple"):
        EpisodeDisplay.from_task(3)
