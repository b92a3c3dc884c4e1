"""Prototypical networks against scikit-learn's nearest centroid and explicit NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import MLP, EpisodicTasks, ProtoNetClassifier, TaskList
from fewshot_sklearn.metric_based._protonet import ProtoNetLearner
from fewshot_sklearn.tasks._batch import TaskBatch


class Scaled(nn.Module):
    """The identity up to one weight, so that there is something to meta-train."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return self.scale * x.flatten(1)


def identity_protonet(**params):
    """Return a meta-fitted ProtoNet whose backbone is the identity to 1e-12."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(8, 3)), np.repeat([0, 1], 4)
    params = {"max_iter": 1, "meta_learning_rate": 1e-13, "precision": "float64"} | params
    clf = ProtoNetClassifier(backbone=Scaled(), random_state=0, **params)
    return clf.meta_fit(TaskList([(X, y, X, y)], shared_classes=False))


def sqeuclidean(X, prototypes):
    return np.array([[((x - c) ** 2).sum() for c in prototypes] for x in X])


def cosine(X, prototypes):
    return np.array([[x @ c / np.sqrt((x @ x) * (c @ c)) for c in prototypes] for x in X])


@st.composite
def tasks(draw):
    """Return a support set with unequal shots of two to five classes, and query rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shots = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    shots[0] += 1  # NearestCentroid divides by the number of rows less that of classes
    y = rng.permutation(np.repeat(np.arange(len(shots)), shots))
    return rng.normal(size=(len(y), 3)) + y[:, None], y, rng.normal(size=(7, 3)) * 2


# ---------------------------------------------------------------------------- one task


@pytest.fixture(scope="module")
def protonet():
    return identity_protonet()


@given(tasks())
def test_with_the_identity_backbone_predictions_are_those_of_nearest_centroid(protonet, task):
    X, y, X_query = task
    clf = clone(protonet).fit(X, y)
    reference = NearestCentroid().fit(X, y)
    np.testing.assert_array_equal(clf.predict(X_query), reference.predict(X_query))


@given(tasks())
def test_probabilities_are_the_softmax_of_minus_squared_distances(protonet, task):
    X, y, X_query = task
    distances = sqeuclidean(X_query, NearestCentroid().fit(X, y).centroids_)
    got = clone(protonet).fit(X, y).predict_proba(X_query)
    np.testing.assert_allclose(got, softmax(-distances, axis=1), rtol=1e-8)


def test_decisions_are_minus_squared_distances_and_for_two_classes_their_difference(protonet):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 3)), np.repeat([0, 1, 2], 4)
    centroids = NearestCentroid().fit(X, y).centroids_
    scores = clone(protonet).fit(X, y).decision_function(X)
    np.testing.assert_allclose(scores, -sqeuclidean(X, centroids), rtol=1e-9)
    scores = clone(protonet).fit(X[:8], y[:8]).decision_function(X)
    d = sqeuclidean(X, centroids[:2])
    np.testing.assert_allclose(scores, d[:, 0] - d[:, 1], rtol=1e-9)


def test_with_cosine_the_similarity_stands_for_minus_the_distance():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 3)), np.repeat([0, 1, 2], 4)
    clf = identity_protonet(distance="cosine", temperature=0.1).fit(X, y)
    similarity = cosine(X, NearestCentroid().fit(X, y).centroids_)
    assert np.abs(similarity).max() <= 1
    np.testing.assert_allclose(clf.decision_function(X), similarity / 0.1, rtol=1e-9)
    np.testing.assert_allclose(clf.predict_proba(X), softmax(similarity / 0.1, axis=1), rtol=1e-9)


def test_the_temperature_may_change_after_meta_training(protonet):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 3)), np.repeat([0, 1, 2], 4)
    d = sqeuclidean(X, NearestCentroid().fit(X, y).centroids_)
    for temperature in (0.5, 1.0, 20.0):
        clf = clone(protonet).set_params(temperature=temperature).fit(X, y)
        np.testing.assert_allclose(clf.predict_proba(X), softmax(-d / temperature, axis=1))


def test_a_backbone_without_parameters_has_nothing_to_meta_learn_and_works():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 10)
    X = rng.normal(size=(30, 3)) + y[:, None]
    clf = ProtoNetClassifier(backbone=nn.Flatten(), max_iter=2, random_state=0)
    expected = NearestCentroid().fit(X, y).predict(X)
    np.testing.assert_array_equal(clf.fit(X, y).predict(X), expected)
    clf.meta_fit([(X, y, X, y)])
    np.testing.assert_array_equal(clone(clf).fit(X, y).predict(X), expected)


# ---------------------------------------------------------------------------- batches of tasks


def random_batch(n_classes=3, n_support=6, n_query=4):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(3, n_support + n_query, 3)))
    codes = np.stack([rng.permutation(np.resize(np.arange(n_classes), len(r))) for r in x])
    y = torch.eye(n_classes, dtype=torch.float64)[torch.from_numpy(codes)]
    return TaskBatch(x[:, :n_support], y[:, :n_support], x[:, n_support:], y[:, n_support:])


def numpy_loss(x, y, x_query, y_query, temperature):
    """Return the mean cross-entropy of one task; classes are those of its support."""
    classes = np.flatnonzero(y.any(axis=0))
    prototypes = [x[y[:, c] == 1].mean(axis=0) for c in classes]
    log_p = log_softmax(-sqeuclidean(x_query, prototypes) / temperature, axis=1)
    return -(y_query[:, classes] * log_p).sum(axis=1).mean()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_meta_loss_is_the_mean_cross_entropy_of_the_queries(temperature):
    batch = random_batch()
    loss = ProtoNetLearner(nn.Flatten(), "sqeuclidean", temperature).meta_loss(batch)
    parts = (batch.x_support, batch.y_support, batch.x_query, batch.y_query)
    expected = [numpy_loss(*(a[t].numpy() for a in parts), temperature) for t in range(3)]
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-10)


def test_prototypes_and_meta_loss_ignore_padded_rows():
    batch = random_batch(n_support=9, n_query=6)
    mask = torch.arange(9) < torch.tensor([[9], [7], [8]])
    query_mask = torch.arange(6) < torch.tensor([[2], [6], [5]])
    parts = [
        numpy_loss(
            batch.x_support[t, mask[t]].numpy(),
            batch.y_support[t, mask[t]].numpy(),
            batch.x_query[t, query_mask[t]].numpy(),
            batch.y_query[t, query_mask[t]].numpy(),
            1.0,
        )
        for t in range(3)
    ]
    learner = ProtoNetLearner(nn.Flatten(), "sqeuclidean", 1.0)
    for filler in (0.0, 1e3):
        ragged = TaskBatch(
            torch.where(mask[..., None], batch.x_support, filler),
            batch.y_support * mask[..., None],
            torch.where(query_mask[..., None], batch.x_query, filler),
            batch.y_query * query_mask[..., None],
            mask,
            query_mask,
        )
        np.testing.assert_allclose(learner.meta_loss(ragged), np.mean(parts), rtol=1e-10)


def test_tasks_of_different_ways_share_a_batch():
    batch = random_batch()
    y, y_query = batch.y_support.clone(), batch.y_query.clone()
    for labels in (y, y_query):  # the first task has two classes
        labels[0, :, 0] += labels[0, :, 2]
        labels[0, :, 2] = 0
    class_mask = torch.tensor([[True, True, False], [True] * 3, [True] * 3])
    mixed = TaskBatch(batch.x_support, y, batch.x_query, y_query, class_mask=class_mask)
    loss = ProtoNetLearner(nn.Flatten(), "sqeuclidean", 1.0).meta_loss(mixed)
    parts = (mixed.x_support, y, mixed.x_query, y_query)
    expected = [numpy_loss(*(a[t].numpy() for a in parts), 1.0) for t in range(3)]
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-10)


@pytest.mark.parametrize("distance", ["sqeuclidean", "cosine"])
def test_the_meta_gradient_is_the_derivative_of_the_meta_loss(distance):
    """Compare with central differences in one weight."""
    batch = random_batch()
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    learner = ProtoNetLearner(network, distance, 0.5)
    learner.meta_gradient(batch)
    step = 1e-6
    for p in network.parameters():
        place = (0,) * p.ndim
        with torch.no_grad():
            values = []
            for delta in (step, -2 * step):
                p[place] += delta
                values.append(learner.meta_loss(batch).item())
            p[place] += step
        slope = (values[0] - values[1]) / (2 * step)
        assert p.grad[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_adapting_a_batch_is_adapting_its_tasks_one_by_one():
    batch = random_batch()
    learner = ProtoNetLearner(nn.Flatten(), "cosine", 1.0)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    outputs = learner.predict(state, batch.x_query)
    for t in range(3):
        one = slice(t, t + 1)
        alone = learner.adapt(batch.x_support[one], batch.y_support[one], None)
        assert_close(state["prototypes"][one], alone["prototypes"])
        assert_close(outputs[one], learner.predict(alone, batch.x_query[one]))


def test_the_state_counts_the_rows_behind_each_prototype():
    batch = random_batch(n_support=9)
    mask = torch.arange(9) < torch.tensor([[9], [4], [6]])
    state = ProtoNetLearner(nn.Flatten(), "cosine", 1.0).adapt(
        batch.x_support, batch.y_support * mask.unsqueeze(-1), mask
    )
    assert_close(state["counts"], (batch.y_support * mask.unsqueeze(-1)).sum(dim=1))
    assert state["prototypes"].shape == (3, 3, 3)


# ---------------------------------------------------------------------------- meta-training


def accuracy(clf, tasks):
    predictions = clf.predict_tasks(tasks)
    return np.mean([(p == task.y_query).mean() for p, task in zip(predictions, tasks, strict=True)])


def test_meta_training_improves_classes_that_were_held_out():
    """Rows of forty classes lie in three of thirty directions; the rest is louder noise.

    What is learned, to look away from the noise, holds for classes that were never seen.
    """
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(40), 12)
    X = np.concatenate([rng.normal(size=(40, 3))[y], rng.normal(size=(480, 27))], axis=1)
    X[:, :3] += 0.1 * rng.normal(size=(480, 3))
    options = {"n_way": 5, "n_shot": 1, "n_query": 4, "random_state": 0}
    train = EpisodicTasks(X[y < 30], y[y < 30], **options)
    test = EpisodicTasks(X[y >= 30], y[y >= 30], n_tasks=200, **options)

    def meta_trained(max_iter, rate):
        return ProtoNetClassifier(
            backbone=MLP(hidden_layer_sizes=(), embedding_size=16), max_iter=max_iter,
            meta_learning_rate=rate, random_state=0,
        ).meta_fit(train)  # fmt: skip

    untrained = accuracy(meta_trained(1, 1e-12), test)
    clf = meta_trained(200, 1e-2)
    assert untrained < 0.45
    assert accuracy(clf, test) > untrained + 0.2
    assert np.mean(clf.meta_loss_curve_[-20:]) < 0.5 * np.mean(clf.meta_loss_curve_[:20])


def test_meta_training_on_digits_improves_tasks_of_the_same_digits():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    options = {"n_way": 5, "n_shot": 1, "n_query": 5, "random_state": 0}
    train, test = np.arange(len(y)) % 2 == 0, np.arange(len(y)) % 2 == 1
    test = EpisodicTasks(X[test], y[test], n_tasks=200, **options)
    train = EpisodicTasks(X[train], y[train], **options)
    scores = [
        accuracy(
            ProtoNetClassifier(max_iter=n, meta_learning_rate=rate, random_state=0).meta_fit(train),
            test,
        )
        for n, rate in ((1, 1e-12), (100, 3e-3))
    ]
    assert scores[1] > scores[0] + 0.1
