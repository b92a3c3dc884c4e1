"""Implicit MAML against closed forms, dense solves and autograd through every step."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.testing import assert_close

from fewshot_sklearn import IMAMLRegressor
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.gradient_based._imaml import IMAMLLearner
from fewshot_sklearn.nn import task_network
from fewshot_sklearn.nn.functional import cross_entropy, squared_error
from fewshot_sklearn.tasks._batch import TaskBatch

LAM = 2.0


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_learner(backbone, head, n_features, loss, **options):
    options = {
        "n_inner_steps": 5, "inner_learning_rate": 0.1, "proximal_strength": LAM,
        "n_cg_steps": 30, "cg_damping": 0.0,
    } | options  # fmt: skip
    network = task_network(backbone, head, n_features=n_features, loss=loss)
    return IMAMLLearner(network, **options).double()


def linear_learner(**options):
    return make_learner(nn.Flatten(), nn.Linear(2, 1), 2, squared_error, **options)


def deep_learner(head=True, **options):
    backbone = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
    head = nn.Linear(3, 3) if head else None
    return make_learner(backbone, head, 3, cross_entropy, **options)


def regression_batch(n_tasks=3):
    x = torch.randn(n_tasks, 10, 2, dtype=torch.float64)
    y = torch.randn(n_tasks, 10, 1, dtype=torch.float64)
    return TaskBatch(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])


def classification_batch(n_tasks=3, n_classes=3):
    """Return tasks with two support and two query rows of every class."""
    x = torch.randn(n_tasks, 4 * n_classes, 2, dtype=torch.float64)
    y = torch.eye(n_classes, dtype=torch.float64).repeat(n_tasks, 4, 1)
    half = 2 * n_classes
    return TaskBatch(x[:, :half], y[:, :half], x[:, half:], y[:, half:])


def gradients(learner, batch):
    learner.zero_grad(set_to_none=True)
    learner.meta_gradient(batch)
    return {name: p.grad.clone() for name, p in learner.named_parameters()}


def with_ones(x):
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def flat(head):
    return torch.cat([head.weight, head.bias[:, None]], dim=1).detach().numpy()[0]


# ---------------------------------------------------------------------------- linear closed forms


def test_linear_regression_arrives_at_the_proximal_minimum():
    r"""With :math:`\tilde X = [X, 1]` the minimum is that of ridge regression about the start,

    .. math:: \theta^* = (H + \lambda I)^{-1} (g + \lambda \theta), \qquad
        H = \tfrac2S \tilde X^T \tilde X, \quad g = \tfrac2S \tilde X^T y .
    """
    batch, learner = regression_batch(), linear_learner(n_inner_steps=500)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    for t in range(3):
        X, y = with_ones(batch.x_support[t].numpy()), batch.y_support[t, :, 0].numpy()
        H, g = 2 / 5 * X.T @ X, 2 / 5 * X.T @ y
        expected = np.linalg.solve(H + LAM * np.eye(3), g + LAM * flat(learner.head))
        got = torch.cat([state["weight"][t, 0], state["bias"][t]])
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_the_implicit_gradient_of_linear_regression_is_the_closed_form():
    r"""It is :math:`\lambda (H + \lambda I)^{-1} v`, with v the gradient of the query loss."""
    batch, learner = regression_batch(), linear_learner(n_inner_steps=500)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    expected, losses = np.zeros(3), []
    for t in range(3):
        X = with_ones(batch.x_support[t].numpy())
        A, b = with_ones(batch.x_query[t].numpy()), batch.y_query[t, :, 0].numpy()
        theta = torch.cat([state["weight"][t, 0], state["bias"][t]]).numpy()
        losses.append(np.mean((A @ theta - b) ** 2))
        outer = 2 / 5 * A.T @ (A @ theta - b)
        H = 2 / 5 * X.T @ X
        expected += LAM * np.linalg.solve(H + LAM * np.eye(3), outer) / 3
    loss = learner.meta_gradient(batch)
    assert not loss.requires_grad
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-10)
    got = torch.cat([learner.head.weight.grad[0], learner.head.bias.grad])
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_an_exact_minimum_has_the_gradient_of_autograd_through_the_closed_form():
    batch, learner = regression_batch(), linear_learner(n_inner_steps=500)
    theta = torch.tensor(flat(learner.head), requires_grad=True)
    ones = torch.ones(3, 5, 1, dtype=torch.float64)
    X = torch.cat([batch.x_support, ones], dim=2)
    A = torch.cat([batch.x_query, ones], dim=2)
    H = 2 / 5 * X.mT @ X + LAM * torch.eye(3)
    right = 2 / 5 * X.mT @ batch.y_support + LAM * theta[:, None]
    loss = (A @ torch.linalg.solve(H, right) - batch.y_query).square().mean()
    (expected,) = torch.autograd.grad(loss, theta)
    got = gradients(learner, batch)
    assert_close(torch.cat([got["head.weight"][0], got["head.bias"]]), expected, rtol=1e-9, atol=0)


# ---------------------------------------------------------------------------- networks


def descended(learner, theta, batch, t):
    """Return the weights of task t after plain steps, with their graph."""
    support = batch.x_support[t], batch.y_support[t]
    weights = theta
    for _ in range(learner.n_steps):
        distance = sum((weights[k] - theta[k].detach()).square().sum() for k in theta)
        loss = plain_loss(learner, weights, *support) + LAM / 2 * distance
        gradient = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        pull = [
            LAM * (weights[k] - theta[k]) - LAM * (weights[k] - theta[k].detach()) for k in theta
        ]
        weights = {
            k: weights[k] - learner.inner_learning_rate * (g + p)
            for k, g, p in zip(theta, gradient, pull, strict=True)
        }
    return weights


def plain_loss(learner, weights, x, y):
    own = {k.removeprefix("backbone."): w for k, w in weights.items() if k.startswith("backbone")}
    z = functional_call(learner.backbone, own, (x,))
    outputs = z @ weights["head.weight"].T + weights["head.bias"]
    return nn.functional.cross_entropy(outputs, y)


def test_the_inner_steps_descend_on_the_proximal_loss():
    batch, learner = classification_batch(), deep_learner()
    state = learner.adapt(batch.x_support, batch.y_support, None)
    for t in range(3):
        expected = descended(learner, dict(learner.named_parameters()), batch, t)
        for name, w in expected.items():
            assert_close(state[name.removeprefix("head.")][t], w.detach(), rtol=1e-9, atol=1e-12)


def test_at_the_minimum_it_is_the_gradient_through_all_steps():
    """The steps forget where they began but for the penalty, so unrolling gives the same."""
    batch = classification_batch(2)
    learner = deep_learner(n_inner_steps=150, inner_learning_rate=0.2)
    theta = dict(learner.named_parameters())
    losses = [
        plain_loss(learner, descended(learner, theta, batch, t), batch.x_query[t], batch.y_query[t])
        for t in range(2)
    ]
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(theta.values()))
    for got, reference in zip(gradients(learner, batch).values(), expected, strict=True):
        assert_close(got, reference, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("damping", [0.0, 10.0])
def test_conjugate_gradients_are_the_dense_solve(damping):
    batch, learner = classification_batch(1), deep_learner(cg_damping=damping, n_cg_steps=60)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    names = [*learner.backbone.state_dict()]
    theta = {f"backbone.{n}": state[f"backbone.{n}"][0] for n in names}
    theta |= {"head.weight": state["weight"][0], "head.bias": state["bias"][0]}
    shapes = {k: w.shape for k, w in theta.items()}

    def loss(vector, x, y):
        parts = vector.split([s.numel() for s in shapes.values()])
        weights = {k: p.view(s) for (k, s), p in zip(shapes.items(), parts, strict=True)}
        return plain_loss(learner, weights, x, y)

    vector = torch.cat([w.flatten() for w in theta.values()])
    H = hessian(lambda v: loss(v, batch.x_support[0], batch.y_support[0]), vector)
    outer = torch.func.grad(loss)(vector, batch.x_query[0], batch.y_query[0])
    expected = torch.linalg.solve(torch.eye(len(H)) + H / (LAM + damping), outer)
    got = torch.cat([g.flatten() for g in gradients(learner, batch).values()])
    assert_close(got, expected, rtol=1e-8, atol=1e-10)


def test_without_conjugate_gradients_it_is_the_first_order_gradient():
    batch, learner = classification_batch(), deep_learner(n_cg_steps=0)
    by_name = {n: torch.zeros_like(p) for n, p in learner.named_parameters()}
    for t in range(3):
        weights = descended(learner, dict(learner.named_parameters()), batch, t)
        weights = {k: w.detach().requires_grad_() for k, w in weights.items()}
        loss = plain_loss(learner, weights, batch.x_query[t], batch.y_query[t])
        for name, g in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            by_name[name] += g / 3
    for name, got in gradients(learner, batch).items():
        assert_close(got, by_name[name], rtol=1e-9, atol=1e-12)


def test_a_great_damping_is_the_first_order_gradient_in_the_limit():
    batch = classification_batch()
    learner = deep_learner(cg_damping=1e9, n_cg_steps=5)
    damped = gradients(learner, batch)
    learner.n_cg_steps = 0
    for name, expected in gradients(learner, batch).items():
        assert_close(damped[name], expected, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------------------- ragged batches


@pytest.mark.parametrize("head", [True, False])
def test_a_ragged_batch_is_its_tasks_one_by_one(head):
    batch = classification_batch(2)
    rows = batch.y_support[1, :, 2] == 0
    queries = batch.y_query[1, :, 2] == 0
    queries[0] = False
    support_mask = torch.stack([torch.ones_like(rows), rows])
    query_mask = torch.stack([torch.ones_like(queries), queries])
    class_mask = torch.tensor([[True, True, True], [True, True, False]])
    ragged = TaskBatch(
        torch.where(support_mask[..., None], batch.x_support, 77.0),
        batch.y_support * support_mask[..., None],
        torch.where(query_mask[..., None], batch.x_query, 77.0),
        batch.y_query * query_mask[..., None],
        support_mask,
        query_mask,
        class_mask,
    )
    small = TaskBatch(
        batch.x_support[1:, rows],
        batch.y_support[1:, rows],
        batch.x_query[1:, queries],
        batch.y_query[1:, queries],
        class_mask=class_mask[1:],
    )
    learner = deep_learner(head, n_cg_steps=5)
    alone = [gradients(learner, part) for part in (batch[:1], small)]
    for name, got in gradients(learner, ragged).items():
        assert_close(got, (alone[0][name] + alone[1][name]) / 2, rtol=1e-9, atol=1e-12)
    losses = torch.stack([learner.meta_gradient(part) for part in (batch[:1], small)])
    assert_close(learner.meta_gradient(ragged), losses.mean(), rtol=1e-10, atol=0)


def test_a_batch_in_pieces_is_the_batch_at_once(monkeypatch):
    batch, learner = classification_batch(5), deep_learner(n_cg_steps=5)
    expected = gradients(learner, batch)
    monkeypatch.setattr(learner, "tasks_at_once", lambda batch: 2)
    for name, got in gradients(learner, batch).items():
        assert_close(got, expected[name], rtol=1e-10, atol=1e-13)


# ---------------------------------------------------------------------------- the estimator


def test_a_stronger_penalty_keeps_predictions_nearer_to_the_start():
    tasks = make_sinusoid_tasks(20, random_state=0)
    reg = IMAMLRegressor(
        max_iter=2, inner_learning_rate=0.001, n_inner_steps=100, random_state=0
    ).meta_fit(tasks)
    X, y, X_query, _ = tasks[0]
    start = reg.set_params(n_inner_steps=0).fit(X, y).predict(X_query)
    moves = [
        np.abs(
            reg.set_params(n_inner_steps=100, proximal_strength=s).fit(X, y).predict(X_query)
            - start
        ).mean()
        for s in (0.1, 10.0, 900.0)
    ]
    assert moves == sorted(moves, reverse=True)
    assert moves[2] < moves[0] / 5
