"""Displays of mean scores: by inner step and by shots."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from fewshot_sklearn import MLP, MAMLClassifier, ProtoNetClassifier, evaluate
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.exceptions import TaskError
from fewshot_sklearn.inspection import AdaptationCurveDisplay, ShotCurveDisplay
from fewshot_sklearn.tasks import with_shots
from tests._data import digit_tasks


@pytest.fixture(scope="module")
def tasks():
    return digit_tasks(n_way=3, n_shot=5, n_query=5, n_tasks=12)


@pytest.fixture(scope="module")
def maml(tasks):
    net = MLP(hidden_layer_sizes=(16,))
    return MAMLClassifier(backbone=net, n_inner_steps=2, max_iter=5, random_state=0).meta_fit(tasks)


def test_each_inner_step_has_the_mean_and_interval_of_evaluate(maml, tasks):
    display = AdaptationCurveDisplay.from_estimator(maml, tasks)
    assert display.steps.tolist() == [0, 1, 2, 3, 4]
    for n_steps, mean in zip(*display.line_.get_data(), strict=True):
        result = evaluate(clone(maml).set_params(n_inner_steps=int(n_steps)), tasks)
        assert mean == pytest.approx(result.mean)
    (path,) = display.fill_between_.get_paths()
    at_four = path.vertices[path.vertices[:, 0] == 4, 1]
    assert sorted({at_four.min(), at_four.max()}) == pytest.approx(result.interval)
    assert display.ax_.get_xlabel() == "inner steps"
    assert display.figure_ is display.ax_.figure
    assert maml.n_inner_steps == 2


def test_a_score_has_the_name_of_its_scorer_and_a_curve_that_of_its_estimator(maml, tasks):
    display = AdaptationCurveDisplay.from_estimator(
        maml, tasks, steps=[1, 3], scoring="balanced_accuracy"
    )
    assert display.ax_.get_ylabel() == "Balanced accuracy"
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["MAMLClassifier"]
    display.plot(name="mine", score_name="share")
    assert display.ax_.get_ylabel() == "share"
    assert display.line_.get_label() == "mine"


def test_inner_steps_are_found_in_a_pipeline(maml, tasks):
    pipeline = make_pipeline(FunctionTransformer(), maml)
    display = AdaptationCurveDisplay.from_estimator(pipeline, tasks, steps=[0, 2])
    bare = AdaptationCurveDisplay.from_estimator(maml, tasks, steps=[0, 2])
    np.testing.assert_allclose(display.scores, bare.scores)


def test_an_estimator_without_inner_steps_gets_a_sentence(maml, tasks):
    with pytest.raises(ValueError, match=r"'n_inner_steps'.* ProtoNetClassifier takes no inner"):
        AdaptationCurveDisplay.from_estimator(ProtoNetClassifier(), tasks)
    with pytest.raises(ValueError, match="steps must hold at least one number"):
        AdaptationCurveDisplay.from_estimator(maml, tasks, steps=[])


@pytest.mark.parametrize("style", ["fill_between", "errorbar", None])
def test_an_interval_is_drawn_as_asked(style):
    scores = np.array([[0.2, 0.4, 0.6], [0.5, 0.7, 0.9]])
    display = AdaptationCurveDisplay([1, 2], scores).plot(interval_style=style)
    drawn = {"fill_between": display.fill_between_, "errorbar": display.errorbar_}
    assert [name for name, artist in drawn.items() if artist is not None] == (
        [style] if style else []
    )
    assert (display.line_ is None) == (style == "errorbar")
    line = display.errorbar_.lines[0] if style == "errorbar" else display.line_
    assert line.get_ydata().tolist() == pytest.approx([0.4, 0.7])
    assert display.ax_.get_legend() is None


def test_scores_that_do_not_fit_get_a_sentence():
    with pytest.raises(ValueError, match=r"a row for each of the 2 points .* got shape \(3, 4\)"):
        AdaptationCurveDisplay([1, 2], np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"interval_style must be one of .* got 'bars'"):
        ShotCurveDisplay([1, 2], np.zeros((2, 4))).plot(interval_style="bars")


def test_each_number_of_shots_has_the_scores_of_evaluate(tasks):
    display = ShotCurveDisplay.from_estimator(KNeighborsClassifier(1), tasks, n_shots=[1, 2, 5])
    for n_shot, scores in zip([1, 2, 5], display.scores, strict=True):
        expected = evaluate(KNeighborsClassifier(1), with_shots(tasks, n_shot)).scores
        np.testing.assert_array_equal(scores, expected)
    np.testing.assert_array_equal(
        display.scores[-1], evaluate(KNeighborsClassifier(1), tasks).scores
    )
    assert display.line_.get_xdata().tolist() == [1, 2, 5]
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["1", "2", "5"]
    assert display.ax_.get_xlabel() == "support rows of each class"


def test_several_estimators_share_axes(tasks):
    net = ProtoNetClassifier(backbone=MLP(hidden_layer_sizes=(8,)), max_iter=2, random_state=0)
    first = ShotCurveDisplay.from_estimator(net.meta_fit(tasks), tasks, n_shots=[1, 5])
    second = ShotCurveDisplay.from_estimator(
        KNeighborsClassifier(1), tasks, n_shots=[1, 5], ax=first.ax_, name="neighbour"
    )
    assert second.ax_ is first.ax_
    texts = [text.get_text() for text in first.ax_.get_legend().get_texts()]
    assert texts == ["ProtoNetClassifier", "neighbour"]
    assert first.line_.get_color() != second.line_.get_color()


def test_a_regressor_counts_shots_in_all():
    tasks = make_sinusoid_tasks(5, n_support=40, random_state=0)
    display = ShotCurveDisplay.from_estimator(
        Ridge(), tasks, n_shots=[5, 10, 40], scoring="neg_mean_squared_error"
    )
    assert display.ax_.get_xlabel() == "support rows"
    assert display.ax_.get_xscale() == "log"
    assert display.ax_.get_ylabel() == "Negative mean squared error"


def test_shots_that_the_tasks_lack_get_a_sentence(tasks):
    with pytest.raises(TaskError, match="a class with at least 6 rows"):
        ShotCurveDisplay.from_estimator(KNeighborsClassifier(1), tasks, n_shots=[6])
    with pytest.raises(ValueError, match="n_shots must hold at least one number"):
        ShotCurveDisplay.from_estimator(KNeighborsClassifier(1), tasks, n_shots=[])
