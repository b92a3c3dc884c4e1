"""BOIL against plain loops in which the head has no rate."""

import numpy as np
import pytest
import torch
from torch import nn

from fewshot_sklearn import MLP, BOILClassifier, BOILRegressor, EpisodicTasks
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.gradient_based._boil import BOILLearner
from fewshot_sklearn.nn import task_network
from fewshot_sklearn.nn.functional import cross_entropy, squared_error
from tests.gradient_based._plain import assert_is_plain, classification_batch, tanh_network


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("loss", [cross_entropy, squared_error])
def test_it_is_a_plain_loop_in_which_the_body_alone_has_a_rate(loss, first_order):
    network = task_network(tanh_network(), nn.Linear(2, 3), n_features=2, loss=loss)
    learner = BOILLearner(
        network, n_inner_steps=3, inner_learning_rate=0.5, first_order=first_order
    ).double()
    body = [f"backbone.{name}" for name, _ in learner.backbone.named_parameters()]
    rates = [dict.fromkeys(body, 0.5)] * 3
    assert_is_plain(learner, classification_batch(), rates, first_order=first_order)


def test_a_backbone_that_shifts_its_rows_learns_by_hand_what_it_learns():
    r"""With :math:`f(x) = x + b` and the squared error one step moves b by the mean error.

    .. math:: b' = b - \alpha \frac{2}{S} \sum_i (w^T (x_i + b) + c - y_i) \, w
    """

    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x + self.b

    tasks = make_sinusoid_tasks(20, random_state=0)
    reg = BOILRegressor(
        backbone=Shift(), n_inner_steps=1, inner_learning_rate=0.1, max_iter=3,
        normalize_y=False, precision="float64", random_state=0,
    ).meta_fit(tasks)  # fmt: skip
    X, y, X_query, _ = tasks[5]
    b, w, c = (p.item() for p in reg._meta.learner.parameters())
    moved = b - 0.1 * 2 * np.mean(w * (X[:, 0] + b) + c - y) * w
    np.testing.assert_allclose(
        reg.fit(X, y).predict(X_query), w * (X_query[:, 0] + moved) + c, rtol=1e-10
    )


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(8), 10)
    return rng.normal(size=(8, 4))[y] * 3 + rng.normal(size=(80, 4)) / 2, y


def test_the_number_of_classes_is_that_of_meta_training(blobs):
    X, y = blobs
    tasks = EpisodicTasks(X, y, n_way=3, n_shot=2, n_query=2, n_tasks=20, random_state=0)
    clf = BOILClassifier(backbone=MLP(hidden_layer_sizes=(8,)), max_iter=2, random_state=0)
    clf.meta_fit(tasks)
    with pytest.raises(ValueError, match="has 4 classes, but the largest meta-training task had 3"):
        clf.fit(X[:40], y[:40])
    probabilities = clf.fit(X[:20], y[:20]).predict_proba(X)
    assert probabilities.shape == (80, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_fitting_leaves_the_head_as_it_is(blobs):
    """A row that the body maps to zero gets the bias for its logits, before and after."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.scale * x

    X, y = blobs
    clf = BOILClassifier(backbone=Scaled(), max_iter=3, random_state=0, precision="float64")
    clf.fit(X[:30], y[:30])
    bias = clf._meta.learner.head.bias.detach().numpy()
    np.testing.assert_allclose(clf.decision_function(np.zeros((1, 4)))[0], bias, rtol=1e-12)


def test_without_inner_steps_support_rows_change_nothing(blobs):
    X, y = blobs
    clf = BOILClassifier(n_inner_steps=0, max_iter=2, random_state=0)
    clf.meta_fit([(X[:30:2], y[:30:2], X[1:30:2], y[1:30:2])])
    outputs = [clf.fit(rows, y[:30:3]).decision_function(X) for rows in (X[:30:3], X[1:30:3])]
    np.testing.assert_array_equal(*outputs)
