"""MetaPipeline: transformers fitted once and frozen in front of a few-shot estimator."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    StandardScaler,
    TargetEncoder,
)
from sklearn.utils.estimator_checks import parametrize_with_checks

import fewshot_sklearn
from fewshot_sklearn import (
    MLP,
    EpisodicTasks,
    GroupedTasks,
    MAMLRegressor,
    MetaPipeline,
    ProtoNetClassifier,
    TaskLearner,
    TaskList,
    evaluate,
    make_meta_pipeline,
)
from fewshot_sklearn.datasets import make_sinusoid_tasks

X, y = load_digits(return_X_y=True)
X, y = X[:500], y[:500]
WAYS = {"n_way": 3, "n_shot": 2, "n_query": 4}
rng = np.random.default_rng(0)


def protonet(**params):
    params = {"max_iter": 3, "random_state": 0} | params
    return ProtoNetClassifier(backbone=MLP(hidden_layer_sizes=(8,)), **params)


def episodes(X=X, y=y, **options):
    return EpisodicTasks(X, y, **{**WAYS, "n_tasks": 12, "random_state": 0} | options)


def new_pipe(**params):
    return make_meta_pipeline(StandardScaler(), PCA(8, random_state=0), protonet(**params))


@pytest.fixture
def pipe():
    return new_pipe().meta_fit(episodes())


TASK = episodes(random_state=1)[0]
SUPPORT, QUERY = TASK[:2], TASK.X_query


def shops(n_shops=12, seed=0):
    """Return a mixed table: numbers with gaps, categories, strings; what sells depends on both."""
    rng = np.random.default_rng(seed)
    n = 16 * n_shops
    df = pd.DataFrame(
        {
            "price": rng.normal(size=n),
            "kind": rng.choice(["book", "toy", "tool"], n),
            "size": pd.Categorical(rng.choice(["s", "m", "l"], n)),
            "shop": np.repeat([f"shop {i}" for i in range(n_shops)], 16),
        }
    )
    df["sold"] = np.where((df["kind"] == "toy") | (df["size"] == "l"), "yes", "no")
    df.loc[::7, "price"] = np.nan
    df.loc[::11, "kind"] = None
    return GroupedTasks.from_frame(df, task="shop", target="sold", n_support=6, random_state=0)


def columns():
    return make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["price"]),
        (
            make_pipeline(
                SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")
            ),
            ["kind", "size"],
        ),
    )


TEXTS = ["please book a flight", "what is the weather", "play some jazz", "transfer money now"]
TEXTS = [f"{text} {word}" for word in ("today", "quickly", "for me", "again") for text in TEXTS]
INTENTS = np.tile(np.arange(4), 4)


def text_tasks():
    return EpisodicTasks(TEXTS, INTENTS, n_way=3, n_query=2, n_tasks=8, random_state=0)


# ---------------------------------------------------------------------- what it learns


def test_it_equals_transforming_by_hand_to_the_last_bit(pipe):
    scaler, pca = StandardScaler(), PCA(8, random_state=0)
    Xt = pca.fit_transform(scaler.fit_transform(X))
    bare = protonet().meta_fit(episodes(Xt))
    assert pipe[-1].meta_loss_curve_ == bare.meta_loss_curve_
    X_support, y_support = SUPPORT
    bare.fit(pca.transform(scaler.transform(X_support)), y_support)
    np.testing.assert_array_equal(
        pipe.fit(*SUPPORT).predict_proba(QUERY),
        bare.predict_proba(pca.transform(scaler.transform(QUERY))),
    )


def test_a_list_of_tasks_equals_pooling_their_rows_by_hand():
    tasks = TaskList([tuple(task) for task in episodes()])
    rows = np.concatenate([part for task in tasks for part in (task.X_support, task.X_query)])
    scaler = StandardScaler().fit(rows)
    pipe = make_meta_pipeline(StandardScaler(), protonet()).meta_fit(tasks)
    np.testing.assert_array_equal(pipe[0].mean_, scaler.mean_)
    by_hand = [(scaler.transform(t[0]), t[1], scaler.transform(t[2]), t[3]) for t in tasks]
    assert pipe[-1].meta_loss_curve_ == protonet().meta_fit(by_hand).meta_loss_curve_


@pytest.mark.parametrize("kind", ["stream", "made when asked for"])
def test_tasks_that_come_one_by_one_are_transformed_as_they_come(kind):
    tasks = make_sinusoid_tasks(20, random_state=0)
    regressor = MAMLRegressor(backbone=MLP(hidden_layer_sizes=(8,)), max_iter=3, random_state=0)
    given = (tuple(task) for task in tasks) if kind == "stream" else tasks
    pipe = make_meta_pipeline(StandardScaler(), regressor).meta_fit(given)
    rows = np.concatenate([part for task in tasks for part in (task.X_support, task.X_query)])
    np.testing.assert_allclose(pipe[0].mean_, rows.mean(axis=0))
    assert pipe[-1].n_meta_iter_ == 3
    assert pipe.fit(*tasks[0][:2]).predict(tasks[0].X_query).shape == tasks[0].y_query.shape


def test_transformers_are_frozen(pipe):
    mean, components = pipe[0].mean_.copy(), pipe[1].components_.copy()
    pipe.fit(SUPPORT[0] + 100, SUPPORT[1])
    pipe[:-1].fit_transform(SUPPORT[0])
    pipe[1:].fit(pipe[0].transform(SUPPORT[0]), SUPPORT[1])
    pipe.partial_meta_fit(episodes(X + 100))
    np.testing.assert_array_equal(pipe[0].mean_, mean)
    np.testing.assert_array_equal(pipe[1].components_, components)


def test_rows_of_tasks_that_are_held_out_do_not_reach_the_transformers():
    far = X.copy()
    far[y == 9] = 1e6
    tasks = GroupedTasks(far, y % 2, y, n_support=8, stratify=None, shared_classes=False)
    pipe = make_meta_pipeline(StandardScaler(), MAMLRegressor(max_iter=1, random_state=0))
    pipe.meta_fit(tasks[:9], tasks[9:])
    np.testing.assert_allclose(pipe[0].mean_, X[y < 9].mean(axis=0))


def test_partial_meta_fit_goes_on_with_the_same_transformers(pipe):
    scaler = StandardScaler().fit(X)
    bare = protonet().meta_fit(episodes(scaler.transform(X)))
    pipe = make_meta_pipeline(StandardScaler(), protonet()).meta_fit(episodes())
    more = episodes(X[::-1] / 2, y[::-1])
    bare.partial_meta_fit(episodes(scaler.transform(X[::-1] / 2), y[::-1]))
    assert pipe.partial_meta_fit(more)[-1].meta_loss_curve_ == bare.meta_loss_curve_
    assert pipe[-1].n_meta_iter_ == 6


def test_partial_meta_fit_of_a_new_pipeline_is_meta_fit(pipe):
    assert new_pipe().partial_meta_fit(episodes())[-1].meta_loss_curve_ == (
        pipe[-1].meta_loss_curve_
    )


def test_warm_start_keeps_the_transformers_and_a_plain_second_call_does_not(pipe):
    shifted = episodes(X + 1)
    warm = new_pipe(warm_start=True).meta_fit(episodes())
    mean = warm[0].mean_
    assert warm.meta_fit(shifted)[0].mean_ is mean
    assert warm[-1].n_meta_iter_ == 6
    np.testing.assert_allclose(pipe.meta_fit(shifted)[0].mean_, mean + 1)
    assert pipe[-1].n_meta_iter_ == 3


def test_validation_tasks_are_transformed(pipe):
    early = new_pipe(early_stopping=True, validation_interval=1)
    early.meta_fit(episodes(), episodes(X * 3, random_state=2))
    bare = protonet(early_stopping=True, validation_interval=1)
    Xt, Xv = pipe[:-1].transform(X), pipe[:-1].transform(X * 3)
    bare.meta_fit(episodes(Xt), episodes(Xv, random_state=2))
    assert early[-1].validation_scores_ == bare.validation_scores_


def test_a_checkpoint_is_resumed_behind_the_same_transformers(tmp_path, pipe):
    path = tmp_path / "checkpoint"
    new_pipe(max_iter=2).meta_fit(episodes(), checkpoint=path)
    with pytest.raises(ValueError, match="max_iter"):
        new_pipe().meta_fit(episodes(), checkpoint=path)
    again = new_pipe(max_iter=2).meta_fit(episodes(), checkpoint=path)
    assert again[-1].meta_loss_curve_ == pipe[-1].meta_loss_curve_[:2]
    np.testing.assert_array_equal(again[1].components_, pipe[1].components_)


# ---------------------------------------------------------------------- kinds of data


def test_a_mixed_table_is_learned_from_and_predicted():
    tasks = shops(40)
    pipe = make_meta_pipeline(columns(), protonet(max_iter=60)).meta_fit(tasks[:20])
    assert pipe.feature_names_in_.tolist() == ["price", "kind", "size"]
    assert evaluate(pipe, tasks[20:]).mean > 0.75
    X_support, y_support, X_query, _ = tasks[29]
    probabilities = pipe.fit(X_support, y_support).predict_proba(X_query)
    assert probabilities.shape == (10, 2)
    assert pipe.classes_.tolist() == ["no", "yes"]


@pytest.mark.parametrize("kind", [list, np.array, pd.Series])
def test_texts_are_learned_from_as_a_list_an_array_or_a_series(kind):
    tasks = EpisodicTasks(kind(TEXTS), INTENTS, n_way=3, n_query=2, n_tasks=8, random_state=0)
    pipe = make_meta_pipeline(
        TfidfVectorizer(), TruncatedSVD(8, random_state=0), protonet(max_iter=20)
    ).meta_fit(tasks)
    pipe.fit(kind(TEXTS[:4]), INTENTS[:4])
    assert pipe.predict(["a flight to book", "some jazz"]).tolist() == [0, 2]
    assert evaluate(pipe, tasks).mean > 0.9


def test_sparse_features_equal_dense_ones():
    make = {"sparse": lambda: TfidfVectorizer(), "dense": lambda: _dense_tfidf()}
    p = {}
    for name, vectorizer in make.items():
        pipe = make_meta_pipeline(vectorizer(), protonet()).meta_fit(text_tasks())
        p[name] = pipe.fit(TEXTS[:8], INTENTS[:8]).predict_proba(TEXTS[8:])
    np.testing.assert_allclose(p["sparse"], p["dense"], atol=1e-6)


def _dense_tfidf():
    to_dense = FunctionTransformer(lambda X: X.toarray(), accept_sparse=True)
    return make_pipeline(TfidfVectorizer(), to_dense)


def test_sparse_features_are_never_made_dense_as_a_whole(monkeypatch):
    heights = []
    for cls in (sparse.csr_array, sparse.csr_matrix):
        dense = cls.toarray
        monkeypatch.setattr(
            cls, "toarray", lambda X, *a, d=dense, **k: heights.append(X.shape[0]) or d(X, *a, **k)
        )
    onehot = OneHotEncoder(handle_unknown="ignore")
    tasks = episodes(n_way=2, n_shot=1, n_query=1)
    pipe = make_meta_pipeline(onehot, protonet(meta_batch_size=2)).meta_fit(tasks)
    evaluate(pipe, tasks)
    assert 0 < max(heights) <= 12 * 4 < len(X)


def test_frames_may_go_from_step_to_step():
    tasks = shops()
    onehot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encoder = make_column_transformer((onehot, ["kind"]), verbose_feature_names_out=False)
    pipe = make_meta_pipeline(encoder, protonet()).set_output(transform="pandas")
    pipe.meta_fit(tasks)
    assert pipe[-1].feature_names_in_.tolist() == pipe[:-1].get_feature_names_out().tolist()
    assert pipe.fit(*tasks[0][:2]).predict(tasks[0].X_query).shape == (10,)


@pytest.mark.parametrize("nothing", ["passthrough", None])
def test_steps_may_be_skipped(nothing):
    steps = [("scale", StandardScaler()), ("nothing", nothing), ("clf", protonet())]
    skipped = MetaPipeline(steps).meta_fit(episodes())
    without = make_meta_pipeline(StandardScaler(), protonet()).meta_fit(episodes())
    np.testing.assert_array_equal(
        skipped.fit(*SUPPORT).predict_proba(QUERY), without.fit(*SUPPORT).predict_proba(QUERY)
    )
    alone = MetaPipeline([("nothing", nothing), ("clf", protonet())]).meta_fit(episodes())
    assert alone[-1].meta_loss_curve_ == protonet().meta_fit(episodes()).meta_loss_curve_
    assert clone(alone).fit(*SUPPORT).predict(QUERY).shape == QUERY.shape[:1]


def test_a_memory_map_is_learned_from_like_the_array(tmp_path, pipe):
    mapped = np.memmap(tmp_path / "X", dtype=X.dtype, mode="w+", shape=X.shape)
    mapped[:] = X
    other = new_pipe().meta_fit(episodes(mapped))
    np.testing.assert_array_equal(other[0].mean_, pipe[0].mean_)
    np.testing.assert_allclose(other[-1].meta_loss_curve_, pipe[-1].meta_loss_curve_, rtol=1e-4)


def test_rows_with_gaps_pass_if_a_transformer_fills_them():
    holes = X.copy()
    holes[::5, 3] = np.nan
    pipe = make_meta_pipeline(SimpleImputer(), protonet()).meta_fit(episodes(holes))
    assert pipe[0].statistics_[3] == pytest.approx(np.nanmean(holes[:, 3]))
    with pytest.raises(ValueError, match="must be finite"):
        make_meta_pipeline(StandardScaler(), protonet()).meta_fit(episodes(holes))


# ---------------------------------------------------------------------- labels


def test_a_transformer_sees_the_classes_of_the_data_set():
    used = X[:, X.std(axis=0) > 0]
    tasks = episodes(used, n_tasks=5)
    pipe = make_meta_pipeline(SelectKBest(f_classif, k=10), protonet())
    pipe.meta_fit(tasks)
    by_hand = SelectKBest(f_classif, k=10).fit(used, y)
    np.testing.assert_array_equal(pipe[0].scores_, by_hand.scores_)


def test_training_features_of_a_target_encoder_are_cross_fitted_as_in_a_pipeline():
    tasks = shops()
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    encoder = make_column_transformer((TargetEncoder(cv=folds), ["kind"]))
    pipe = make_meta_pipeline(encoder, protonet()).meta_fit(tasks)
    Xt = clone(encoder).fit_transform(tasks.X, tasks.y)
    names = [f"shop {i // 16}" for i in tasks.X.index]
    by_hand = GroupedTasks(Xt, tasks.y, names, n_support=6, random_state=0)
    assert pipe[-1].meta_loss_curve_ == protonet().meta_fit(by_hand).meta_loss_curve_


def test_a_transformer_that_needs_labels_is_told_why_there_are_none():
    wide = GroupedTasks.from_wide(X, np.c_[y % 2, y > 4], n_support=6, random_state=0)
    pipe = make_meta_pipeline(SelectKBest(k=10), protonet())
    with pytest.raises(ValueError, match="without labels, because a row has several labels"):
        pipe.meta_fit(wide)
    tasks = GroupedTasks(X, y % 2, np.arange(500) // 25, shared_classes=False, random_state=0)
    with pytest.raises(ValueError, match=r"something else in each task \(shared_classes=False\)"):
        pipe.meta_fit(tasks)


# ---------------------------------------------------------------------- clones and changes


def test_a_clone_keeps_what_meta_fit_learned_and_shares_the_arrays(pipe):
    pipe.fit(*SUPPORT)
    other = clone(pipe)
    with pytest.raises(NotFittedError):
        other.predict(QUERY)
    assert other[1].components_ is pipe[1].components_
    np.testing.assert_array_equal(
        other.fit(*SUPPORT).predict_proba(QUERY), pipe.predict_proba(QUERY)
    )


def test_what_is_done_to_a_clone_does_not_reach_the_original():
    tasks = shops()
    pipe = make_meta_pipeline(columns(), protonet()).meta_fit(tasks)
    expected = pipe.fit(*tasks[0][:2]).predict_proba(tasks[0].X_query)
    other = clone(pipe)
    other.set_params(**{"columntransformer__pipeline-1__standardscaler__with_mean": False})
    other[0].fit(tasks[0].X_support)
    np.testing.assert_array_equal(pipe.fit(*tasks[0][:2]).predict_proba(tasks[0].X_query), expected)


@pytest.mark.parametrize("cloned", [False, True])
def test_a_changed_transformer_is_refused_by_name_at_the_next_fit(pipe, cloned):
    pipe = clone(pipe) if cloned else pipe
    pipe.set_params(pca__n_components=3)
    with pytest.raises(ValueError, match=r"pca__n_components=3 .*pca__n_components=8; call meta_f"):
        pipe.fit(*SUPPORT)
    for call in (pipe.partial_meta_fit, pipe.predict_tasks):
        with pytest.raises(ValueError, match="pca__n_components=3 was changed"):
            call(episodes())
    with pytest.raises(ValueError, match="pca__n_components=3 was changed"):
        clone(pipe).fit(*SUPPORT)
    pipe.set_params(pca__n_components=8).fit(*SUPPORT)
    pipe.set_params(pca__n_components=3).meta_fit(episodes()).fit(*SUPPORT)
    assert pipe[1].n_components_ == 3


def test_a_changed_parameter_deep_inside_is_named():
    pipe = make_meta_pipeline(columns(), protonet()).meta_fit(shops())
    name = "columntransformer__pipeline-1__standardscaler__with_mean"
    with pytest.raises(ValueError, match=f"{name}=False was changed"):
        pipe.set_params(**{name: False}).fit(*shops()[0][:2])


def test_an_exchanged_step_is_refused(pipe):
    with pytest.raises(ValueError, match="'standardscaler' was exchanged after meta_fit"):
        clone(pipe).set_params(standardscaler=MinMaxScaler()).fit(*SUPPORT)
    with pytest.raises(ValueError, match="'standardscaler' was exchanged after meta_fit"):
        clone(pipe).set_params(standardscaler="passthrough").fit(*SUPPORT)
    with pytest.raises(ValueError, match="'protonetclassifier' was exchanged after meta_fit"):
        clone(pipe).set_params(protonetclassifier=protonet()).fit(*SUPPORT)
    with pytest.raises(ValueError, match=r"the steps \['pca', .* were changed after meta_fit"):
        clone(pipe).set_params(steps=pipe.steps[1:]).fit(*SUPPORT)


def test_harmless_and_adaptation_parameters_may_change(pipe):
    pipe.set_params(protonetclassifier__temperature=2.0).fit(*SUPPORT)
    tables = make_meta_pipeline(columns(), protonet()).meta_fit(shops())
    tables.set_params(columntransformer__n_jobs=1, columntransformer__verbose=True)
    tables.set_params(columntransformer__verbose=False).fit(*shops()[0][:2])
    with pytest.raises(ValueError, match=r"max_iter=9 was changed after meta_fit"):
        pipe.set_params(protonetclassifier__max_iter=9).fit(*SUPPORT)


def test_a_meta_fit_that_fails_leaves_the_pipeline_as_it_was(pipe):
    expected = pipe.fit(*SUPPORT).predict_proba(QUERY)
    scaler = pipe[0]
    with pytest.raises(TypeError, match="tasks must be a sequence"):
        pipe.meta_fit(X)
    broken = X.copy()
    broken[3, 3] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        pipe.meta_fit(episodes(broken))
    with pytest.raises(ValueError, match="classes"):
        pipe.meta_fit(GroupedTasks(X, X[:, 20] / 7, y, n_support=8))  # no classes: the last step
    assert pipe[0] is scaler
    np.testing.assert_array_equal(pipe.fit(*SUPPORT).predict_proba(QUERY), expected)


# ---------------------------------------------------------------------- a pipeline like any other


def test_before_meta_fit_it_is_an_ordinary_pipeline():
    ours = new_pipe().fit(X[:100], y[:100])
    theirs = make_pipeline(*(clone(step) for _, step in ours.steps)).fit(X[:100], y[:100])
    np.testing.assert_array_equal(ours.predict_proba(QUERY), theirs.predict_proba(QUERY))
    np.testing.assert_array_equal(ours[0].mean_, X[:100].mean(axis=0))


def test_an_ordinary_pipeline_of_a_meta_fitted_estimator_fits_its_transformers_again():
    clf = protonet().meta_fit(episodes())
    for make in (make_pipeline, make_meta_pipeline):
        pipe = make(StandardScaler(), clone(clf)).fit(*SUPPORT)
        np.testing.assert_allclose(pipe[0].mean_, SUPPORT[0].mean(axis=0))
        assert pipe[-1].n_meta_iter_ == 3


def test_it_indexes_slices_and_displays(pipe):
    assert len(pipe) == 3
    assert pipe["pca"] is pipe[1] is pipe.named_steps["pca"]
    assert isinstance(pipe[:2], MetaPipeline)
    np.testing.assert_array_equal(pipe[:2].transform(X), pipe[1].transform(pipe[0].transform(X)))
    assert "Meta-fitted" in pipe._repr_html_()
    assert "Not fitted" in new_pipe()._repr_html_()
    assert ">Fitted<" in pipe.fit(*SUPPORT)._repr_html_()
    assert pipe.get_params()["pca__n_components"] == 8
    assert repr(new_pipe()).startswith("MetaPipeline(steps=[('standardscaler'")
    assert pipe.n_features_in_ == 64


def test_it_scores_and_predicts_through_all_steps(pipe):
    pipe.fit(*SUPPORT)
    Xt = pipe[:-1].transform(QUERY)
    for method in ("predict", "predict_proba", "decision_function"):
        np.testing.assert_array_equal(getattr(pipe, method)(QUERY), getattr(pipe[-1], method)(Xt))
    assert pipe.score(QUERY, TASK.y_query) == pipe[-1].score(Xt, TASK.y_query)


def test_it_pickles(pipe):
    pipe.fit(*SUPPORT)
    other = pickle.loads(pickle.dumps(pipe))
    np.testing.assert_array_equal(other.predict_proba(QUERY), pipe.predict_proba(QUERY))
    other.set_params(pca__n_components=3)
    with pytest.raises(ValueError, match="pca__n_components=3 was changed"):
        other.fit(*SUPPORT)


def test_predictions_of_many_tasks_are_those_of_fitting_each(pipe):
    tasks = episodes(random_state=5)
    for method in ("predict", "predict_proba"):
        together = pipe.predict_tasks(tasks, method=method)
        for task, got in zip(tasks, together, strict=True):
            one = getattr(clone(pipe).fit(*task[:2]), method)(task.X_query)
            np.testing.assert_allclose(got, one, atol=1e-6)


def test_evaluate_takes_it_in_batches(pipe, monkeypatch):
    tasks = episodes(random_state=5)
    scores = [clone(pipe).fit(*task[:2]).score(*task[2:]) for task in tasks]
    fits = []
    monkeypatch.setattr(MetaPipeline, "fit", lambda *args: fits.append(args))
    for scoring in (None, "accuracy"):
        np.testing.assert_array_equal(evaluate(pipe, tasks, scoring=scoring).scores, scores)
    assert not fits


def test_evaluate_takes_a_new_one_task_by_task():
    tasks = episodes(n_shot=8, n_tasks=2)
    result = evaluate(make_meta_pipeline(StandardScaler(), protonet()), tasks)
    assert len(result) == 2


def test_what_it_cannot_do_it_says(pipe):
    with pytest.raises(NotFittedError, match="needs a meta-fitted MetaPipeline"):
        new_pipe().predict_tasks(episodes())
    ordinary = MetaPipeline([("scale", StandardScaler()), ("clf", LogisticRegression())])
    assert not hasattr(ordinary, "meta_fit")
    with pytest.raises(AttributeError) as raised:
        ordinary.meta_fit(episodes())
    assert "the last step must be a few-shot estimator" in str(raised.value.__cause__)
    with pytest.raises(ValueError, match="takes X and y alone, got"):
        pipe.fit(*SUPPORT, protonetclassifier__sample_weight=1)
    with pytest.raises(ValueError, match="leave transform_input=None"):
        make_meta_pipeline(protonet(), transform_input=["X_val"]).meta_fit(episodes())


def test_memory_caches_the_transformers(tmp_path, pipe):
    calls = tmp_path / "calls"
    calls.mkdir()
    for _ in range(2):
        count = CountingScaler(str(calls))
        cached = make_meta_pipeline(count, protonet(), memory=str(tmp_path / "cache"))
        cached.meta_fit(episodes()).fit(*SUPPORT)
    assert len(list(calls.iterdir())) == 1


class CountingScaler(StandardScaler):
    """A scaler that leaves a file for every fit."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def fit(self, X, y=None):
        import tempfile

        tempfile.mkstemp(dir=self.folder)
        return super().fit(X, y)


class Recorder:
    """A callback that writes down which tasks begin."""

    max_propagation_depth = None

    def __init__(self):
        self.names = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        self.names.append(context.task_name)

    def on_fit_task_end(self, estimator, context):
        pass


def test_callbacks_reach_the_meta_iterations():
    recorder = Recorder()
    new_pipe().set_callbacks(recorder).meta_fit(episodes())
    assert recorder.names == ["meta_fit", "fit-transformers", "meta_fit", *["meta-iteration"] * 3]


def test_rows_of_one_task_are_cross_validated_and_searched(pipe):
    X_task, y_task = X[y < 3], y[y < 3]
    assert cross_val_score(pipe, X_task, y_task, cv=3).min() > 0.5
    grid = {"protonetclassifier__temperature": [0.5, 2.0]}
    search = GridSearchCV(pipe, grid, cv=2).fit(X_task, y_task)
    assert search.best_estimator_[-1].n_meta_iter_ == 3
    refused = GridSearchCV(pipe, {"pca__n_components": [2]}, cv=2, error_score="raise")
    with pytest.raises(ValueError, match="wrap the pipeline in TaskLearner"):
        refused.fit(X_task, y_task)


def test_transformers_and_backbones_are_searched_over_tasks():
    grid = {
        "estimator__pca__n_components": [1, 8],
        "estimator__protonetclassifier__backbone__hidden_layer_sizes": [(4,), (16,)],
    }
    learner = TaskLearner(new_pipe())
    search = GridSearchCV(learner, grid, cv=2).fit(episodes())
    assert search.best_params_["estimator__pca__n_components"] == 8
    best = search.best_estimator_.estimator_
    assert best["pca"].n_components_ == 8
    sizes = best[-1].backbone.hidden_layer_sizes
    assert sizes == search.best_params_[list(grid)[1]]
    assert best.fit(*SUPPORT).predict(QUERY).shape == QUERY.shape[:1]


def test_a_meta_fitted_one_is_searched_without_meta_training(pipe):
    grid = {"estimator__protonetclassifier__temperature": [0.5, 2.0]}
    search = GridSearchCV(TaskLearner(pipe, prefit=True), grid, cv=2).fit(episodes())
    assert search.best_estimator_.estimator_[0].mean_ is pipe[0].mean_


@pytest.mark.filterwarnings("ignore::fewshot_sklearn.exceptions.NotMetaFittedWarning")
@parametrize_with_checks(
    [make_meta_pipeline(StandardScaler(), protonet())],
    expected_failed_checks=lambda estimator: {
        "check_estimators_overwrite_params": "fitting a pipeline fits its steps",
        "check_dont_overwrite_parameters": "fitting a pipeline fits its steps",
    },
)
def test_scikit_learns_checks_pass_as_those_of_a_pipeline(estimator, check):
    check(estimator)


# ---------------------------------------------------------------------- files


def test_a_saved_pipeline_predicts_the_same_and_goes_on(tmp_path):
    tasks, path = shops(), tmp_path / "shops.fewshot"
    pipe = make_meta_pipeline(columns(), protonet(), verbose=False).meta_fit(tasks)
    X_support, y_support, X_query, _ = tasks[0]
    pipe.fit(X_support, y_support).save(path)
    loaded = fewshot_sklearn.load(path)
    assert type(loaded) is MetaPipeline
    np.testing.assert_array_equal(loaded.predict_proba(X_query), pipe.predict_proba(X_query))
    for p in (loaded, pipe):
        p.partial_meta_fit(tasks).fit(*tasks[1][:2])
    np.testing.assert_array_equal(loaded.predict_proba(X_query), pipe.predict_proba(X_query))
    name = "columntransformer__pipeline-1__standardscaler__with_mean"
    with pytest.raises(ValueError, match=f"{name}=False was changed"):
        loaded.set_params(**{name: False}).fit(X_support, y_support)


@pytest.mark.parametrize(
    "steps",
    [
        [TfidfVectorizer(), TruncatedSVD(4, random_state=0)],
        [TfidfVectorizer(analyzer="char", ngram_range=(1, 2)), SelectKBest(f_classif, k=20)],
    ],
    ids=["svd", "selection"],
)
def test_text_pipelines_are_saved(tmp_path, steps):
    pipe = make_meta_pipeline(*steps, protonet()).meta_fit(text_tasks())
    pipe.fit(TEXTS[:8], INTENTS[:8]).save(tmp_path / "texts")
    loaded = fewshot_sklearn.load(tmp_path / "texts")
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), pipe.predict_proba(TEXTS))


def test_skipped_steps_plain_fits_and_other_classes_are_saved(tmp_path):
    class Named(MetaPipeline):
        """A pipeline of one's own."""

    steps = [("a", None), ("b", "passthrough"), ("scale", StandardScaler()), ("clf", protonet())]
    fitted = Named(steps, verbose=False).fit(X[:60], y[:60])
    fitted.save(tmp_path / "fitted")
    loaded = fewshot_sklearn.load(tmp_path / "fitted")
    assert type(loaded) is Named
    assert [step for _, step in loaded.steps[:2]] == [None, "passthrough"]
    np.testing.assert_array_equal(loaded.predict_proba(QUERY), fitted.predict_proba(QUERY))
    np.testing.assert_allclose(loaded.fit(*SUPPORT)["scale"].mean_, SUPPORT[0].mean(axis=0))
    alone = make_meta_pipeline(protonet()).meta_fit(episodes())
    alone.save(tmp_path / "alone")
    fewshot_sklearn.load(tmp_path / "alone").fit(*SUPPORT)


def test_what_is_code_is_refused_when_saving(tmp_path):
    code = FunctionTransformer(shrink)
    pipe = make_meta_pipeline(code, protonet()).meta_fit(episodes())
    with pytest.raises(ValueError, match=r"the transformers hold .*shrink, what a file without"):
        pipe.save(tmp_path / "code")
    assert not (tmp_path / "code").exists()


def shrink(X):
    """Do what a user's function might."""
    return X / 16


def test_what_is_code_is_refused_when_loading(tmp_path, monkeypatch):
    module = fewshot_sklearn._pipeline_file
    pipe = make_meta_pipeline(FunctionTransformer(shrink), protonet()).meta_fit(episodes())
    with monkeypatch.context() as attacker:
        attacker.setattr(module, "_check_types", lambda data, why: None)
        pipe.save(tmp_path / "code")
    with pytest.raises(ValueError, match=r"code cannot be loaded: the transformers hold .*shrink"):
        fewshot_sklearn.load(tmp_path / "code")


def test_a_damaged_file_is_refused(tmp_path, pipe):
    pipe.save(tmp_path / "whole")
    data = bytearray((tmp_path / "whole").read_bytes())
    place = data.index(b"PK\x03\x04")  # inside the transformers
    data[place + 40] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        fewshot_sklearn.load(tmp_path / "damaged")


def test_a_changed_or_new_pipeline_is_not_saved(tmp_path, pipe):
    with pytest.raises(NotFittedError, match="has learned nothing that could be saved"):
        new_pipe().save(tmp_path / "new")
    ordinary = MetaPipeline([("scale", StandardScaler()), ("clf", LogisticRegression())])
    with pytest.raises(NotFittedError, match="fit of a few-shot estimator first"):
        ordinary.fit(X, y > 4).save(tmp_path / "ordinary")
    with pytest.raises(ValueError, match="pca__n_components=3 was changed"):
        pipe.set_params(pca__n_components=3).save(tmp_path / "changed")


def test_without_skops_the_sentence_names_the_extra(tmp_path, pipe, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(ImportError, match=r"skops: pip install 'fewshot-sklearn\[save\]'"):
        pipe.save(tmp_path / "pipe")


def test_it_is_a_pipeline(pipe):
    assert isinstance(pipe, Pipeline)
