"""Proto-MAML against prototypical networks and a plain loop over tasks."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.testing import assert_close

from fewshot_sklearn import MLP, EpisodicTasks, ProtoMAMLClassifier, ProtoNetClassifier
from fewshot_sklearn.gradient_based._proto_maml import ProtoMAMLLearner
from fewshot_sklearn.nn import task_network
from fewshot_sklearn.nn.functional import cross_entropy
from fewshot_sklearn.tasks._batch import TaskBatch


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_learner(backbone=None, **options):
    options = {"n_inner_steps": 2, "inner_learning_rate": 0.1, "first_order": False} | options
    backbone = backbone or nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
    network = task_network(backbone, None, n_features=3, loss=cross_entropy)
    return ProtoMAMLLearner(network, **options).double()


def make_batch(n_tasks=3, n_classes=3):
    """Return tasks with two support and two query rows of every class."""
    x = torch.randn(n_tasks, 4 * n_classes, 2, dtype=torch.float64)
    y = torch.eye(n_classes, dtype=torch.float64).repeat(n_tasks, 4, 1)
    half = 2 * n_classes
    return TaskBatch(x[:, :half], y[:, :half], x[:, half:], y[:, half:])


def gradients(learner, batch):
    learner.zero_grad(set_to_none=True)
    learner.meta_gradient(batch)
    return {name: p.grad.clone() for name, p in learner.named_parameters()}


def plain_meta_loss(learner, batch):
    """Return the meta-loss of a loop over tasks and classes, autograd through every step."""
    losses = []
    for t in range(len(batch)):
        x, y = batch.x_support[t], batch.y_support[t]
        theta = dict(learner.backbone.named_parameters())
        z = functional_call(learner.backbone, theta, (x,))
        means = torch.stack([z[y[:, c] == 1].mean(dim=0) for c in range(y.shape[1])])
        head = [2 * means, -(means**2).sum(dim=1)]
        weights = [*theta.values(), *head]

        def outputs(weights, rows, names=tuple(theta)):
            own = dict(zip(names, weights[:-2], strict=True))
            return functional_call(learner.backbone, own, (rows,)) @ weights[-2].T + weights[-1]

        def support_loss(weights, x=x, y=y, outputs=outputs):
            return nn.functional.cross_entropy(outputs(weights, x), y)

        for _ in range(learner.n_inner_steps):
            # The head is a weight of its own from here on, not a function of the backbone.
            gradient = grad(support_loss)(weights)
            if learner.first_order:
                gradient = [g.detach() for g in gradient]
            weights = [
                w - learner.inner_learning_rate * g for w, g in zip(weights, gradient, strict=True)
            ]
        losses.append(
            nn.functional.cross_entropy(outputs(weights, batch.x_query[t]), batch.y_query[t])
        )
    return torch.stack(losses).mean()


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("n_steps", [0, 1, 3])
def test_the_meta_gradient_is_that_of_a_plain_loop(n_steps, first_order):
    batch = make_batch()
    learner = make_learner(n_inner_steps=n_steps, first_order=first_order)
    loss = plain_meta_loss(learner, batch)
    reference = torch.autograd.grad(loss, list(learner.parameters()))
    assert_close(learner.meta_loss(batch), loss, rtol=1e-10, atol=0)
    for got, expected in zip(gradients(learner, batch).values(), reference, strict=True):
        assert_close(got, expected, rtol=1e-8, atol=1e-12)


def test_the_head_starts_from_the_prototypes_of_the_real_rows():
    batch = make_batch(1)
    learner = make_learner(nn.Flatten(), n_inner_steps=0)
    mask = torch.ones(1, 6, dtype=torch.bool)
    mask[0, 4] = False
    state = learner.adapt(batch.x_support, batch.y_support, mask)
    x, labels = batch.x_support[0].numpy(), batch.y_support[0].argmax(dim=1).numpy()
    kept = mask[0].numpy()
    means = np.stack([x[kept & (labels == c)].mean(axis=0) for c in range(3)])
    np.testing.assert_allclose(state["weight"][0], 2 * means, rtol=1e-12)
    np.testing.assert_allclose(state["bias"][0], -(means**2).sum(axis=1), rtol=1e-12)


def test_gradients_flow_through_the_prototypes_even_in_first_order():
    """With a learned shift behind the backbone frozen out, only the head's start is left."""
    batch = make_batch()
    learner = make_learner(n_inner_steps=1, inner_learning_rate=1e-9, first_order=True)
    still = copy.deepcopy(learner)
    still.n_inner_steps = 0
    for got, expected in zip(
        gradients(learner, batch).values(), gradients(still, batch).values(), strict=True
    ):
        assert expected.abs().max() > 0
        assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_a_column_without_support_rows_changes_nothing_for_the_others():
    batch = make_batch()
    learner = make_learner(n_inner_steps=3)
    wide = nn.functional.pad(batch.y_support, (0, 2))
    narrow = learner.predict(learner.adapt(batch.x_support, batch.y_support, None), batch.x_query)
    got = learner.predict(learner.adapt(batch.x_support, wide, None), batch.x_query)
    assert_close(got[..., :3], narrow, rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 10)
    return rng.normal(size=(12, 4))[y] * 2 + rng.normal(size=(120, 4)) / 2, y


@pytest.fixture(scope="module")
def tasks(blobs):
    return EpisodicTasks(*blobs, n_way=3, n_shot=2, n_query=2, n_tasks=20, random_state=0)


def test_without_steps_it_is_a_prototypical_network(blobs, tasks):
    """The whole of meta-training too: both have the same loss."""
    same = {
        "backbone": MLP(hidden_layer_sizes=(8,)), "max_iter": 3, "precision": "float64",
        "random_state": 0,
    }  # fmt: skip
    X, y = blobs
    expected = ProtoNetClassifier(**same).meta_fit(tasks).fit(X[:40:3], y[:40:3])
    got = ProtoMAMLClassifier(n_inner_steps=0, **same).meta_fit(tasks).fit(X[:40:3], y[:40:3])
    np.testing.assert_allclose(got.meta_loss_curve_, expected.meta_loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(
        got.predict_proba(X), expected.predict_proba(X), rtol=1e-7, atol=1e-12
    )


def test_any_number_of_classes_may_come_after_meta_training(blobs, tasks):
    X, y = blobs
    clf = ProtoMAMLClassifier(max_iter=2, random_state=0).meta_fit(tasks)
    for n_classes in (2, 3, 12):
        rows = y < n_classes
        assert clf.fit(X[rows], y[rows]).predict_proba(X).shape == (120, n_classes)
        assert clf.score(X[rows], y[rows]) > 0.8
