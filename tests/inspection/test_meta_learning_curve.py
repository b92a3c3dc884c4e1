"""The display of meta-training."""

import importlib

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from fewshot_sklearn import MLP, ProtoNetClassifier, TaskLearner
from fewshot_sklearn.inspection import (
    AdaptationCurveDisplay,
    EpisodeDisplay,
    MetaLearningCurveDisplay,
    ShotCurveDisplay,
)
from fewshot_sklearn.inspection._meta_learning_curve import running_mean
from tests._data import digit_tasks


@pytest.fixture(scope="module")
def tasks():
    return digit_tasks(n_query=2, n_tasks=20)


@pytest.fixture
def net():
    return ProtoNetClassifier(
        backbone=MLP(hidden_layer_sizes=(8,)), max_iter=6, validation_interval=2, random_state=0
    )


def test_losses_and_validation_scores_are_those_of_the_estimator(net, tasks):
    net.meta_fit(tasks, tasks[:5])
    display = MetaLearningCurveDisplay.from_estimator(net)
    np.testing.assert_array_equal(display.raw_line_.get_xdata(), np.arange(1, 7))
    np.testing.assert_array_equal(display.raw_line_.get_ydata(), net.meta_loss_curve_)
    iterations, scores = zip(*net.validation_scores_, strict=True)
    np.testing.assert_array_equal(display.validation_line_.get_xdata(), iterations)
    np.testing.assert_array_equal(display.validation_line_.get_ydata(), scores)
    assert display.validation_ax_ is not display.ax_
    assert display.line_.get_label() == "ProtoNetClassifier"
    assert display.ax_.get_xlabel() == "meta-iteration"


def test_without_validation_there_is_one_scale(net, tasks):
    display = MetaLearningCurveDisplay.from_estimator(net.meta_fit(tasks), name="net")
    assert display.validation_ax_ is None
    assert display.validation_line_ is None
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["net"]


def test_two_curves_share_both_scales():
    first = MetaLearningCurveDisplay([3.0, 2.0], [(2, 0.5)], name="a").plot()
    second = MetaLearningCurveDisplay([2.0, 1.0], [(2, 0.6)], name="b").plot(
        first.ax_, validation_ax=first.validation_ax_
    )
    assert second.validation_ax_ is first.validation_ax_
    assert len(first.figure_.axes) == 2
    texts = [text.get_text() for text in first.validation_ax_.get_legend().get_texts()]
    assert texts == ["a", "b"]


def test_the_thick_line_is_a_running_mean():
    values = np.array([1.0, 2.0, 6.0, 3.0, 5.0])
    np.testing.assert_allclose(running_mean(values, 3), [1.5, 3.0, 11 / 3, 14 / 3, 4.0])
    np.testing.assert_array_equal(running_mean(values, 1), values)
    np.testing.assert_allclose(running_mean(values, 99)[2], values.mean())
    display = MetaLearningCurveDisplay(values).plot(window=3)
    np.testing.assert_allclose(display.line_.get_ydata(), running_mean(values, 3))
    with pytest.raises(ValueError, match="window must be at least 1"):
        display.plot(window=0)


def test_the_trained_estimator_is_found_inside_of_a_search(net, tasks):
    search = GridSearchCV(TaskLearner(net), {"estimator__max_iter": [3]}, cv=2).fit(tasks)
    display = MetaLearningCurveDisplay.from_estimator(search)
    assert len(display.losses) == 3
    pipeline = make_pipeline(FunctionTransformer(), net.meta_fit(tasks))
    assert len(MetaLearningCurveDisplay.from_estimator(pipeline).losses) == 6


@pytest.mark.parametrize("estimator", [ProtoNetClassifier(), KNeighborsClassifier()])
def test_an_estimator_that_was_not_meta_trained_gets_a_sentence(estimator):
    with pytest.raises(
        ValueError, match=f"this {type(estimator).__name__} has none; call meta_fit"
    ):
        MetaLearningCurveDisplay.from_estimator(estimator)


def test_a_missing_matplotlib_is_named_with_its_extra(monkeypatch):
    real = importlib.import_module

    def without_matplotlib(name, package=None):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr("fewshot_sklearn.utils._optional.import_module", without_matplotlib)
    calls = {
        MetaLearningCurveDisplay: [ProtoNetClassifier()],
        AdaptationCurveDisplay: [ProtoNetClassifier(), []],
        ShotCurveDisplay: [ProtoNetClassifier(), []],
        EpisodeDisplay: [ProtoNetClassifier(), ()],
    }
    for display, arguments in calls.items():
        sentence = rf"{display.__name__} needs matplotlib: pip install 'fewshot-sklearn\[plot\]'"
        with pytest.raises(ImportError, match=sentence):
            display.from_estimator(*arguments)
    with pytest.raises(ImportError, match=r"pip install 'fewshot-sklearn\[plot\]'"):
        MetaLearningCurveDisplay([1.0]).plot()
