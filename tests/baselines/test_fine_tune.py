"""Fine-tuning against plain loops in torch."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import (
    MLP,
    Conv4,
    EpisodicTasks,
    FineTuneClassifier,
    FineTuneRegressor,
    FromScratchClassifier,
    LinearProbeClassifier,
)
from fewshot_sklearn.datasets import make_sinusoid_tasks


@pytest.fixture(scope="module")
def tasks():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 5
    X = rng.normal(size=(200, 4)) + 3 * rng.normal(size=(5, 4))[y]
    return EpisodicTasks(X, y, n_way=3, n_shot=4, n_query=4, n_tasks=40, random_state=0)


def small(cls=FineTuneClassifier, **parameters):
    options = {"backbone": MLP(hidden_layer_sizes=(8,)), "max_iter": 3, "n_inner_steps": 6}
    return cls(**options | {"precision": "float64", "random_state": 0} | parameters)


def plain_training(backbone, n_classes, x, y, *, fine_tune, optimizer, n_steps):
    """Return a network that was trained on (x, y) from a head of zeros."""
    with torch.random.fork_rng():
        width = backbone(x[:1]).shape[1]
        network = nn.Sequential(copy.deepcopy(backbone), nn.Linear(width, n_classes)).double()
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    trained = (network if fine_tune == "all" else network[1]).requires_grad_(True)
    rule = optimizer(list(trained.parameters()))
    for _ in range(n_steps):
        rule.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        rule.step()
    return network.requires_grad_(False)


@pytest.mark.parametrize("fine_tune", ["all", "head"])
@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_fit_is_a_plain_training_loop_from_the_pretrained_backbone(tasks, fine_tune, rule):
    clf = small(fine_tune=fine_tune, inner_optimizer=rule, inner_learning_rate=0.1).meta_fit(tasks)
    X, y, X_query, _ = tasks[0]
    clf.fit(X, y)
    classes = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    expected = plain_training(
        clf._meta.learner.backbone, 3, torch.from_numpy(X),
        torch.from_numpy(np.searchsorted(clf.classes_, y)),
        fine_tune=fine_tune, n_steps=6, optimizer=lambda p: classes[rule](p, lr=0.1),
    )(torch.from_numpy(X_query))  # fmt: skip
    np.testing.assert_allclose(
        clf.decision_function(X_query), expected.numpy(), rtol=1e-7, atol=1e-9
    )


def test_pretraining_is_that_of_the_linear_probe(tasks):
    options = {"backbone": MLP(hidden_layer_sizes=(8,)), "max_iter": 3, "precision": "float64"}
    tuned, probe = (
        cls(**options, random_state=0).meta_fit(tasks)._meta.learner
        for cls in (FineTuneClassifier, LinearProbeClassifier)
    )
    for name, p in probe.named_parameters():
        assert_close(tuned.get_parameter(name), p, rtol=0, atol=0)


def test_the_layers_to_train_may_be_chosen_after_meta_training(tasks):
    clf = small().meta_fit(tasks)
    X, y, X_query, _ = tasks[0]
    everything = clf.fit(X, y).predict_proba(X_query)
    head = clf.set_params(fine_tune="head").fit(X, y).predict_proba(X_query)
    assert not np.allclose(everything, head, atol=1e-4)
    expected = small(fine_tune="head").meta_fit(tasks).fit(X, y).predict_proba(X_query)
    np.testing.assert_array_equal(head, expected)


def test_a_frozen_backbone_may_have_batch_normalisation(tasks):
    X, y, X_query, _ = tasks[0]
    backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    clf = small(backbone=backbone, fine_tune="head").meta_fit(tasks)
    assert np.isfinite(clf.fit(X, y).predict_proba(X_query)).all()
    with pytest.raises(ValueError, match="BatchNorm1d"):
        small(backbone=backbone).meta_fit(tasks)


def test_convolutional_backbones_are_fine_tuned(tasks):
    X, y, X_query, _ = tasks[0]
    clf = small(backbone=Conv4(image_shape=(1, 2, 2), n_filters=8, n_blocks=1)).meta_fit(tasks)
    assert clf.fit(X, y).predict_proba(X_query).shape == (len(X_query), 3)


def test_without_steps_every_class_is_as_likely(tasks):
    clf = small(n_inner_steps=0).meta_fit(tasks)
    X, y, X_query, _ = tasks[0]
    np.testing.assert_allclose(clf.fit(X, y).predict_proba(X_query), 1 / 3)


def test_a_regressor_starts_at_the_mean_of_the_training_targets():
    tasks = make_sinusoid_tasks(20, random_state=0)
    reg = small(FineTuneRegressor, n_inner_steps=0).meta_fit(tasks)
    X, y, X_query, _ = tasks[0]
    mean = np.mean([np.concatenate([t.y_support, t.y_query]).mean() for t in tasks])
    np.testing.assert_allclose(reg.fit(X, y).predict(X_query), mean)


def test_pretraining_is_worth_more_than_nothing():
    rng = np.random.default_rng(0)
    y = np.arange(900) % 30
    X = rng.normal(size=(900, 16))
    X[:, :2] = 2 * rng.normal(size=(30, 2))[y] + 0.3 * X[:, :2]
    X = X @ np.linalg.qr(rng.normal(size=(16, 16)))[0]
    options = {"n_way": 3, "n_shot": 2, "n_query": 8, "n_tasks": 100, "random_state": 0}
    old, new = (EpisodicTasks(X[a], y[a], **options) for a in (y < 20, y >= 20))

    def accuracy(clf):
        predictions = clf.meta_fit(old).predict_tasks(new)
        return np.mean([(p == t.y_query).mean() for p, t in zip(predictions, new, strict=True)])

    tuned = accuracy(FineTuneClassifier(max_iter=150, n_inner_steps=20, random_state=0))
    scratch = accuracy(FromScratchClassifier(n_inner_steps=20, random_state=0))
    assert tuned > scratch + 0.05
