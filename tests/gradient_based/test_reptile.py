"""Reptile against joint training and plain loops of torch's own optimizers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from fewshot_sklearn import MLP, EpisodicTasks, ReptileClassifier, ReptileRegressor
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.gradient_based._reptile import ReptileLearner
from fewshot_sklearn.nn import TaskNetwork, task_network
from fewshot_sklearn.nn.functional import cross_entropy, squared_error
from fewshot_sklearn.nn.row_batches import draw_row_batches
from fewshot_sklearn.tasks._batch import TaskBatch

RATE = 0.05


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_learner(head=True, *, loss=cross_entropy, n_outputs=3, **options):
    options = {
        "n_inner_steps": 4, "n_training_steps": 3, "inner_learning_rate": RATE,
        "inner_optimizer": "sgd", "inner_batch_size": None,
    } | options  # fmt: skip
    backbone = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
    head = nn.Linear(3, n_outputs) if head else None
    network = task_network(backbone, head, n_features=3, loss=loss)
    return ReptileLearner(network, **options).double()


def make_batch(n_tasks=3, n_classes=3):
    """Return tasks with two support and two query rows of every class."""
    x = torch.randn(n_tasks, 4 * n_classes, 2, dtype=torch.float64)
    y = torch.eye(n_classes, dtype=torch.float64).repeat(n_tasks, 4, 1)
    half = 2 * n_classes
    return TaskBatch(x[:, :half], y[:, :half], x[:, half:], y[:, half:])


def ragged_batch():
    """Return two tasks: the second lacks the last class and some rows, which are garbage."""
    batch = make_batch(2)
    support = torch.ones(2, 6, dtype=torch.bool)
    support[1] = batch.y_support[1, :, 2] == 0
    query = torch.ones(2, 6, dtype=torch.bool)
    query[1] = batch.y_query[1, :, 2] == 0
    query[1, 0] = False
    return TaskBatch(
        torch.where(support[..., None], batch.x_support, 77.0),
        batch.y_support * support[..., None],
        torch.where(query[..., None], batch.x_query, 77.0),
        batch.y_query * query[..., None],
        support,
        query,
        torch.tensor([[True, True, True], [True, True, False]]),
    )


def gradients(learner, batch):
    learner.zero_grad(set_to_none=True)
    learner.meta_gradient(batch)
    return {name: p.grad.clone() for name, p in learner.named_parameters()}


def all_rows(batch):
    return torch.cat([batch.x_support, batch.x_query], 1), torch.cat(
        [batch.y_support, batch.y_query], 1
    )


def trained_by_torch(learner, batches):
    """Return the parameters after torch's own optimizer has gone through (x, y) batches."""
    own = copy.deepcopy(nn.ModuleDict({"backbone": learner.backbone, "head": learner.head}))
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    options = {"betas": (0.0, 0.999)} if learner.inner_optimizer == "adam" else {}
    optimizer = kinds[learner.inner_optimizer](
        own.parameters(), lr=learner.inner_learning_rate, **options
    )
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(own["head"](own["backbone"](x)), y).backward()
        optimizer.step()
    return {name: p.detach() for name, p in own.named_parameters()}


def start_minus(learner, trained):
    return {
        name: p.detach() - torch.stack([w[name] for w in trained]).mean(dim=0)
        for name, p in learner.named_parameters()
    }


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name in got:
        assert_close(got[name], expected[name], rtol=1e-9, atol=1e-13)


# ---------------------------------------------------------------------------- the meta-gradient


def test_one_step_of_gradient_descent_is_joint_training():
    """Up to the inner rate: the gradient of the mean loss over all rows of all tasks."""
    batch = make_batch()
    learner = make_learner(n_training_steps=1)
    x, y = all_rows(batch)
    outputs = learner.head(learner.backbone(x))
    loss = nn.functional.cross_entropy(outputs.flatten(0, 1), y.flatten(0, 1))
    joint = torch.autograd.grad(loss, list(learner.parameters()))
    for got, expected in zip(gradients(learner, batch).values(), joint, strict=True):
        assert_close(got, RATE * expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_all_rows_in_every_step_are_a_loop_of_torch_optimizers(optimizer):
    batch = make_batch()
    learner = make_learner(inner_optimizer=optimizer)
    x, y = all_rows(batch)
    trained = [trained_by_torch(learner, [(x[t], y[t])] * 3) for t in range(3)]
    assert_same(gradients(learner, batch), start_minus(learner, trained))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_minibatches_are_a_loop_of_torch_optimizers_over_the_same_rows(optimizer):
    """A minibatch that lacks a class still lowers that class's probability."""
    batch = make_batch()
    learner = make_learner(inner_optimizer=optimizer, inner_batch_size=2, n_training_steps=7)
    x, y = all_rows(batch)
    torch.manual_seed(5)
    rows, _ = draw_row_batches(torch.ones(3, 12, dtype=torch.bool), 7, 2)
    trained = [
        trained_by_torch(learner, [(x[t, some], y[t, some]) for some in rows[t]]) for t in range(3)
    ]
    torch.manual_seed(5)
    assert_same(gradients(learner, batch), start_minus(learner, trained))


def test_minibatches_of_all_rows_are_no_minibatches():
    batch = make_batch()
    learner = make_learner(inner_optimizer="adam")
    expected = gradients(learner, batch)
    learner.inner_batch_size = 12
    assert_same(gradients(learner, batch), expected)


@pytest.mark.parametrize("size", [None, 8])
def test_a_ragged_batch_is_its_tasks_one_by_one(size):
    """The second has no more rows than a minibatch; the draws of the first come first."""
    batch = ragged_batch()
    learner = make_learner(inner_optimizer="adam", inner_batch_size=size)
    rows, queries = batch.support_mask[1], batch.query_mask[1]
    alone = TaskBatch(
        batch.x_support[1:, rows],
        batch.y_support[1:, rows],
        batch.x_query[1:, queries],
        batch.y_query[1:, queries],
        class_mask=batch.class_mask[1:],
    )
    torch.manual_seed(1)
    together = gradients(learner, batch)
    torch.manual_seed(1)
    parts = [gradients(learner, part) for part in (batch[:1], alone)]
    assert_same(together, {name: (parts[0][name] + parts[1][name]) / 2 for name in together})


def test_a_batch_in_pieces_is_the_batch_at_once(monkeypatch):
    batch = make_batch(5)
    learner = make_learner(inner_optimizer="adam")
    expected, loss = gradients(learner, batch), learner.meta_gradient(batch)
    monkeypatch.setattr(learner, "tasks_at_once", lambda batch: 2)
    assert_same(gradients(learner, batch), expected)
    assert_close(learner.meta_gradient(batch), loss)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_wide_perceptron_moves_as_any_module_does(optimizer):
    """Its network may keep the first layer's weights in another form."""
    backbone = MLP(hidden_layer_sizes=(5,)).build((80,)).double()
    head = nn.Linear(5, 3).double()
    batch = make_batch()
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(2, 3, 6, 80, generator=generator, dtype=torch.float64)
    batch = TaskBatch(wide[0], batch.y_support, wide[1], batch.y_query)
    found = []
    for make in (TaskNetwork, task_network):
        network = make(backbone, head, n_features=5, loss=cross_entropy)
        learner = ReptileLearner(
            network, n_inner_steps=1, n_training_steps=4, inner_learning_rate=RATE,
            inner_optimizer=optimizer, inner_batch_size=None,
        )  # fmt: skip
        found.append(gradients(learner, batch))
    assert_same(*found)


def test_the_reported_loss_is_that_of_the_rows_after_training():
    batch = make_batch()
    learner = make_learner()
    x, y = all_rows(batch)
    losses = []
    for t in range(3):
        trained = trained_by_torch(learner, [(x[t], y[t])] * 3)
        own = nn.ModuleDict({"backbone": learner.backbone, "head": learner.head})
        names = {k.partition(".")[2]: v for k, v in trained.items() if k.startswith("backbone")}
        z = functional_call(own["backbone"], names, (x[t],))
        outputs = z @ trained["head.weight"].T + trained["head.bias"]
        losses.append(nn.functional.cross_entropy(outputs, y[t]))
    got = learner.meta_gradient(batch)
    assert not got.requires_grad
    assert_close(got, torch.stack(losses).mean(), rtol=1e-10, atol=0)


def test_the_shared_head_moves_the_backbone_only():
    batch = make_batch()
    learner = make_learner(head=False)
    got = gradients(learner, batch)
    assert set(got) == {f"backbone.{n}" for n, _ in learner.backbone.named_parameters()}
    assert min(g.abs().max() for g in got.values()) > 0
    # The first step moves the head alone.
    learner.n_training_steps = 1
    assert max(g.abs().max() for g in gradients(learner, batch).values()) == 0


# ---------------------------------------------------------------------------- one task


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_adapting_is_torch_training_on_all_support_rows(optimizer):
    """Whatever the size of the minibatches of meta-training."""
    batch = make_batch()
    learner = make_learner(inner_optimizer=optimizer, inner_batch_size=2)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    outputs = learner.predict(state, batch.x_query)
    assert not outputs.requires_grad
    for t in range(3):
        trained = trained_by_torch(learner, [(batch.x_support[t], batch.y_support[t])] * 4)
        names = {k.removeprefix("backbone."): v for k, v in trained.items() if "backbone" in k}
        z = functional_call(learner.backbone, names, (batch.x_query[t],))
        expected = z @ trained["head.weight"].T + trained["head.bias"]
        assert_close(outputs[t], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_regressor_without_steps_predicts_from_the_start(optimizer):
    x = torch.randn(2, 4, 2, dtype=torch.float64)
    learner = make_learner(
        loss=squared_error, n_outputs=1, inner_optimizer=optimizer, n_inner_steps=0
    )
    state = learner.adapt(x, x[..., :1], None)
    assert_close(learner.predict(state, x), learner.head(learner.backbone(x)))


# ---------------------------------------------------------------------------- the estimators


def test_the_outer_step_is_the_papers():
    """The start moves by the step size times the mean displacement."""
    tasks = make_sinusoid_tasks(5, random_state=0)
    reg = ReptileRegressor(
        backbone=MLP(hidden_layer_sizes=(6,)), max_iter=1, meta_learning_rate=0.25,
        inner_batch_size=None, precision="float64", random_state=0,
    )  # fmt: skip
    still = copy.deepcopy(reg).set_params(meta_learning_rate=1e-300).meta_fit(tasks)
    whole = copy.deepcopy(reg).set_params(meta_learning_rate=1.0).meta_fit(tasks)
    quarter = reg.meta_fit(tasks)
    start, one, part = (e._meta.learner.state_dict() for e in (still, whole, quarter))
    for name in start:
        assert_close(part[name], start[name] + 0.25 * (one[name] - start[name]))
        assert not torch.equal(start[name], one[name])


def test_the_same_seed_draws_the_same_minibatches():
    tasks = make_sinusoid_tasks(20, random_state=0)
    reg = ReptileRegressor(backbone=MLP(hidden_layer_sizes=(6,)), max_iter=3, inner_batch_size=4)
    curves = [
        copy.deepcopy(reg).set_params(random_state=seed).meta_fit(tasks).meta_loss_curve_
        for seed in (0, 0, 1)
    ]
    assert curves[0] == curves[1] != curves[2]


def test_digits_are_learned_better_after_meta_training():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(20), 12)
    X = rng.normal(size=(20, 6))[y] * 2 + rng.normal(size=(240, 6))
    tasks = EpisodicTasks(X, y, n_way=3, n_shot=2, n_query=6, n_tasks=60, random_state=0)

    def loss(**params):
        clf = ReptileClassifier(
            inner_optimizer="sgd", inner_learning_rate=0.1, n_inner_steps=10, random_state=0,
            **params,
        ).meta_fit(tasks)  # fmt: skip
        probabilities = clf.predict_tasks(tasks, method="predict_proba")
        return np.mean(
            [
                -np.log(
                    p[np.arange(len(p)), np.searchsorted(np.unique(t.y_support), t.y_query)]
                ).mean()
                for p, t in zip(probabilities, tasks, strict=True)
            ]
        )

    assert loss(max_iter=60) < 0.9 * loss(max_iter=1, meta_learning_rate=1e-12)
