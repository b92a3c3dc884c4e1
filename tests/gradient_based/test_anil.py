"""ANIL against MAML on a head, plain loops and the backbone's own rows."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import MLP, ANILClassifier, ANILRegressor, Conv4, MAMLRegressor
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.gradient_based._anil import ANILLearner
from fewshot_sklearn.gradient_based._maml import MAMLLearner
from fewshot_sklearn.nn import task_network
from fewshot_sklearn.nn.functional import cross_entropy, squared_error
from fewshot_sklearn.tasks._batch import TaskBatch
from tests.gradient_based._plain import (
    assert_is_plain,
    classification_batch,
    gradients,
    relative_difference,
    tanh_network,
)

OPTIONS = {"n_inner_steps": 3, "inner_learning_rate": 0.5, "first_order": False}


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_learner(learner=ANILLearner, backbone=None, head="per_class", loss=cross_entropy, **given):
    start = nn.Linear(2, 3) if head == "per_class" else None
    network = task_network(backbone or tanh_network(), start, n_features=2, loss=loss)
    return learner(network, **OPTIONS | given).double()


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("head", ["shared", "per_class"])
def test_with_the_identity_backbone_it_is_maml_on_the_head(head, first_order):
    batch = classification_batch()
    anil = make_learner(backbone=nn.Identity(), head=head, first_order=first_order)
    maml = MAMLLearner(anil.network, **OPTIONS | {"first_order": first_order})
    outputs = [
        learner.predict(learner.adapt(batch.x_support, batch.y_support, None), batch.x_query)
        for learner in (anil, maml)
    ]
    assert_close(*outputs, rtol=1e-12, atol=1e-14)
    assert_close(anil.meta_loss(batch), maml.meta_loss(batch), rtol=1e-12, atol=0)
    if head == "per_class":
        assert relative_difference(gradients(anil, batch), gradients(maml, batch)) < 1e-12


@pytest.mark.parametrize("head", ["shared", "per_class"])
@pytest.mark.parametrize("loss", [cross_entropy, squared_error])
def test_it_is_a_plain_loop_in_which_the_head_alone_has_a_rate(loss, head):
    learner = make_learner(head=head, loss=loss)
    rates = [{"weight": 0.5, "bias": 0.5}] * 3
    assert_is_plain(learner, classification_batch(), rates)


def test_first_order_still_teaches_the_backbone_through_the_query_rows():
    learner, batch = make_learner(first_order=True), classification_batch()
    found = gradients(learner, batch)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    state = {name: value.detach() for name, value in state.items()}
    loss = learner.loss(learner.predict(state, batch.x_query), batch.y_query, None).mean()
    reference = torch.autograd.grad(loss, list(learner.backbone.parameters()))
    for (name, _), g in zip(learner.backbone.named_parameters(), reference, strict=True):
        assert_close(found[f"backbone.{name}"], g)


def test_rows_go_through_the_backbone_once_whatever_the_number_of_steps():
    class Counted(nn.Linear):
        n_rows = 0

        def forward(self, x):
            Counted.n_rows += len(x)
            return super().forward(x)

    batch = classification_batch()
    learner = make_learner(backbone=Counted(2, 2), n_inner_steps=9)
    learner.meta_loss(batch)
    assert Counted.n_rows == 3 * (6 + 6)


def test_the_rows_of_a_convolutional_backbone_go_through_together():
    backbone = Conv4(image_shape=(1, 4, 4), n_filters=8, n_blocks=2).build((16,))
    network = task_network(backbone, None, n_features=8, loss=cross_entropy)
    learner = ANILLearner(network, **OPTIONS).double()
    x = torch.randn(6, 12, 16, dtype=torch.float64)
    y = torch.eye(3, dtype=torch.float64).repeat(6, 4, 1)
    batch = TaskBatch(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])
    assert learner.tasks_at_once(batch) >= 6
    together = gradients(learner, batch)
    learner.tasks_at_once = lambda batch: 1
    assert relative_difference(gradients(learner, batch), together) < 1e-12


def test_a_thousand_tasks_of_images_go_through_in_pieces():
    backbone = Conv4(n_filters=64).build((784,))
    learner = ANILLearner(
        task_network(backbone, None, n_features=64, loss=cross_entropy), **OPTIONS
    )
    image = torch.empty(1, 1, 784).expand(1000, 80, 784)
    y = torch.empty(1, 1, 5).expand(1000, 80, 5)
    batch = TaskBatch(image[:, :5], y[:, :5], image[:, 5:], y[:, 5:])
    rows = 80 * learner.tasks_at_once(batch)
    assert rows >= 80
    assert 4 * rows * backbone.bytes_per_row <= 2**28


def test_fitting_leaves_the_embedding_as_it_is():
    """The fitted function is linear in the meta-learned embedding."""
    tasks = make_sinusoid_tasks(20, random_state=0)
    reg = ANILRegressor(
        backbone=MLP(hidden_layer_sizes=(6,)), max_iter=5, random_state=0, precision="float64"
    )
    X, y, _, _ = tasks[0]
    prediction = reg.meta_fit(tasks).fit(X, y).predict(np.linspace(-5, 5, 40)[:, None])
    x = torch.linspace(-5, 5, 40, dtype=torch.float64)[:, None]
    z = reg._meta.learner.backbone(x).detach().numpy()
    features = np.hstack([z, np.ones((40, 1))])
    residual = prediction - features @ np.linalg.lstsq(features, prediction, rcond=None)[0]
    assert np.abs(residual).max() < 1e-9


def test_the_shared_head_takes_any_number_of_classes():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 10)
    X = rng.normal(size=(6, 4))[y] * 3 + rng.normal(size=(60, 4)) / 2
    clf = ANILClassifier(max_iter=2, head="shared", random_state=0)
    clf.meta_fit([(X[i::2][:15], y[i::2][:15], X[i::2][:15], y[i::2][:15]) for i in range(2)])
    for n_classes in (2, 6):
        rows = y < n_classes
        assert clf.fit(X[rows], y[rows]).predict_proba(X).shape == (60, n_classes)


def test_without_inner_steps_it_is_maml_without_inner_steps():
    tasks = make_sinusoid_tasks(20, random_state=0)
    X, y, X_query, _ = tasks[0]
    options = {"max_iter": 4, "n_inner_steps": 0, "random_state": 0, "precision": "float64"}
    predictions = [
        reg.meta_fit(tasks).fit(X, y).predict(X_query)
        for reg in (ANILRegressor(**options), MAMLRegressor(**options))
    ]
    np.testing.assert_allclose(*predictions, rtol=1e-9)
