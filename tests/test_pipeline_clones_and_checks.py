"""MetaPipeline: clones of its slices, and what it refuses with a sentence that says what to do."""

import re

import numpy as np
import pytest
import skops.io
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

import fewshot_sklearn
from fewshot_sklearn import (
    MLP,
    ClassFoldSplit,
    ClassFoldTasks,
    EpisodicTasks,
    MAMLRegressor,
    MetaPipeline,
    ProtoNetClassifier,
    TaskLearner,
    evaluate,
    make_meta_pipeline,
)
from fewshot_sklearn import _container as container
from fewshot_sklearn.exceptions import TaskError

X, y = load_digits(return_X_y=True)
X, y = X[:500], y[:500]
TASKS = EpisodicTasks(X, y, n_way=3, n_shot=2, n_query=4, n_tasks=12, random_state=0)
SUPPORT, QUERY = TASKS[0][:2], TASKS[0][2:]


def protonet(**params):
    params = {"max_iter": 3, "random_state": 0} | params
    return ProtoNetClassifier(backbone=MLP(hidden_layer_sizes=(8,)), **params)


@pytest.fixture
def pipe():
    return make_meta_pipeline(MinMaxScaler(), PCA(8, random_state=0), protonet()).meta_fit(TASKS)


# ---------------------------------------------------------------------- slices


def test_a_clone_of_a_slice_keeps_its_last_transformer(pipe):
    front = pipe[:-1]
    copied = clone(front)
    np.testing.assert_array_equal(copied.transform(X), front.transform(X))
    copied.set_params(pca__n_components=2)
    assert front[-1].n_components == 8


def test_a_slice_stands_in_front_of_an_estimator_that_is_cross_validated(pipe):
    behind = make_pipeline(pipe[:-1], LogisticRegression())
    expected = cross_val_score(LogisticRegression(), pipe[:-1].transform(X), y, cv=3)
    np.testing.assert_allclose(cross_val_score(behind, X, y, cv=3), expected)
    assert evaluate(behind, TASKS).mean > 0.5


# ---------------------------------------------------------------------- what was changed since


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_a_changed_transformer_is_refused_when_predicting(pipe, method):
    pipe.fit(*SUPPORT).set_params(minmaxscaler__clip=True)
    with pytest.raises(ValueError, match="minmaxscaler__clip=True was changed after meta_fit"):
        getattr(pipe, method)(QUERY[0])


def test_an_exchanged_transformer_is_refused_when_scoring_and_transforming(pipe):
    front = pipe.fit(*SUPPORT)[:-1]
    pipe.set_params(pca=PCA(8).fit(X))
    with pytest.raises(ValueError, match="'pca' was exchanged after meta_fit"):
        pipe.score(*QUERY)
    assert front.transform(X).shape == (500, 8)
    front.set_params(pca=PCA(8).fit(X))
    with pytest.raises(ValueError, match="'pca' was exchanged after meta_fit"):
        front.transform(X)


def test_it_has_the_methods_that_its_steps_give_it(pipe):
    regressor = make_meta_pipeline(StandardScaler(), MAMLRegressor())
    assert hasattr(pipe, "predict_proba")
    assert not hasattr(pipe, "transform")
    assert not hasattr(regressor, "predict_proba")
    assert not hasattr(pipe[:-1], "predict")
    assert hasattr(pipe[:-1], "transform")


# ---------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("transformer", "name"),
    [
        (TruncatedSVD(3), "truncatedsvd__random_state is None"),
        (
            make_column_transformer((TruncatedSVD(3), [0, 1, 2, 3])),
            "columntransformer__truncatedsvd__random_state is None",
        ),
        (
            TruncatedSVD(3, random_state=np.random.RandomState(0)),
            "truncatedsvd__random_state is RandomState",
        ),
    ],
)
@pytest.mark.parametrize("method", ["meta_fit", "partial_meta_fit"])
def test_a_checkpoint_needs_transformers_with_a_seed(tmp_path, transformer, name, method):
    pipe = make_meta_pipeline(transformer, protonet())
    with pytest.raises(ValueError, match=f"{re.escape(name)}.*; set it to an int"):
        getattr(pipe, method)(TASKS, checkpoint=tmp_path / "file")
    assert not hasattr(pipe[0], "components_")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_needs_no_seed_of_transformers_that_are_kept(tmp_path):
    pipe = make_meta_pipeline(TruncatedSVD(3), protonet()).meta_fit(TASKS)
    pipe.partial_meta_fit(TASKS, checkpoint=tmp_path / "file")
    assert pipe[-1].n_meta_iter_ == 6


# ---------------------------------------------------------------------- tasks that cannot be used


def refuse_marked_rows(rows):
    if (rows < 0).any():
        raise ValueError("a row is below zero")
    return rows


def with_a_marked_row(kind):
    rows = X.copy()
    rows[TASKS.draw(5)[1][0]] = -1
    named = EpisodicTasks(rows, y, n_way=3, n_shot=2, n_query=4, n_tasks=12, random_state=0)
    return named if kind == "data set" else [tuple(task) for task in named]


@pytest.mark.parametrize("kind", ["data set", "list"])
@pytest.mark.parametrize("call", ["evaluate", "predict_tasks", "validation"])
def test_a_transformer_that_fails_on_a_task_names_it(kind, call):
    pipe = make_meta_pipeline(FunctionTransformer(refuse_marked_rows), protonet()).meta_fit(TASKS)
    tasks = with_a_marked_row(kind)
    first = next(i for i, task in enumerate(tasks) if any((part < 0).any() for part in task[::2]))
    calls = {
        "evaluate": lambda: evaluate(pipe, tasks),
        "predict_tasks": lambda: pipe.predict_tasks(tasks),
        "validation": lambda: pipe.meta_fit(TASKS, tasks),
    }
    with pytest.raises(TaskError, match=rf"^task {first}: a row is below zero"):
        calls[call]()


def refuse_many_rows(rows):
    if len(rows) > 100:
        raise ValueError("too many rows at once")
    return rows


def test_what_no_task_leads_to_by_itself_is_raised_as_it_is():
    pipe = make_meta_pipeline(FunctionTransformer(refuse_many_rows), protonet())
    pipe.meta_fit([tuple(task) for task in TASKS[:2]])
    with pytest.raises(ValueError, match=r"^too many rows at once$"):
        pipe.predict_tasks(TASKS)


# ---------------------------------------------------------------------- files


def load_with(tmp_path, transformers):
    """Load a file with these bytes in place of the transformers."""
    make_meta_pipeline(StandardScaler(), protonet()).meta_fit(TASKS).save(tmp_path / "good")
    options = {"entry": "fewshot_sklearn"}
    tensors, content = container.read_file(tmp_path / "good", version=1, cure="", **options)
    (name,) = (key for key in tensors if "transformers" in key)
    tensors[name] = torch.frombuffer(bytearray(transformers), dtype=torch.uint8)
    container.write_file(tmp_path / "bad", content, tensors, **options)
    return fewshot_sklearn.load(tmp_path / "bad")


def test_a_file_whose_transformers_cannot_be_unpacked_is_named(tmp_path):
    with pytest.raises(ValueError, match="bad cannot be loaded: its transformers are not what"):
        load_with(tmp_path, b"hello world")


def test_a_file_with_a_step_that_transforms_nothing_is_named(tmp_path):
    steps = skops.io.dumps({"steps": [("standardscaler", 5)]})
    message = "bad cannot be loaded: its step 'standardscaler' is no transformer, but int"
    with pytest.raises(ValueError, match=message):
        load_with(tmp_path, steps)


def test_a_pipeline_in_a_pipeline_is_not_saved(tmp_path, pipe):
    nested = MetaPipeline([("scale", StandardScaler()), ("rest", clone(pipe))]).meta_fit(TASKS)
    with pytest.raises(ValueError, match="a pipeline inside a pipeline cannot be saved; make one"):
        nested.save(tmp_path / "file")


# ---------------------------------------------------------------------- what the guide says


class Listener:
    """A callback that is not passed on to inner estimators."""

    def __init__(self):
        self.names = []

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context):
        self.names.append(context.task_name)


def test_a_callback_on_the_last_step_hears_of_meta_iterations_through_a_task_learner():
    listener = Listener()
    last = protonet().set_callbacks(listener)
    TaskLearner(make_meta_pipeline(StandardScaler(), last)).fit(TASKS)
    assert listener.names.count("meta-iteration") == 3


def test_class_folds_are_no_partition():
    folds = ClassFoldTasks(X, y, n_folds=3, n_way=3, n_query=4, n_tasks=6, random_state=0)
    with pytest.raises(ValueError, match="only works for partitions"):
        cross_val_predict(TaskLearner(protonet()), folds, cv=ClassFoldSplit())
