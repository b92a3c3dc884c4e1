"""The learned optimizer against NumPy, torch's own LSTM and a plain loop."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import (
    MLP,
    LearnedOptimizerClassifier,
    LearnedOptimizerRegressor,
    TaskList,
)
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.gradient_based._learned_optimizer import LearnedOptimizerLearner
from fewshot_sklearn.nn import log_and_sign, task_network
from fewshot_sklearn.nn.coordinatewise import unflatten_weights
from fewshot_sklearn.nn.functional import cross_entropy, squared_error
from tests.gradient_based._plain import (
    classification_batch,
    gradients,
    plain_outputs,
    regression_batch,
    tanh_network,
)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_learner(backbone=None, head=None, *, loss=cross_entropy, scattered=True, **options):
    backbone = tanh_network() if backbone is None else backbone
    options = {
        "n_inner_steps": 3, "inner_learning_rate": 0.3, "n_hidden": 4, "learned_start": False,
    } | options  # fmt: skip
    network = task_network(backbone, head, n_features=2, loss=loss)
    learner = LearnedOptimizerLearner(network, **options).double()
    if scattered:  # weights far from those that make it gradient descent
        with torch.no_grad():
            for p in [*learner.layers.parameters(), *learner.output.parameters()]:
                p.copy_(0.5 * torch.randn_like(p))
    return learner


# ---------------------------------------------------------------------------- equations


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def numpy_lstm(cell, x, h, c):
    W, U, b, d = (p.detach().numpy() for p in cell.parameters())
    i, f, g, o = np.split(x @ W.T + b + h @ U.T + d, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize("n_steps", [0, 1, 4])
def test_the_steps_on_linear_regression_are_the_equations_of_the_paper_in_numpy(n_steps):
    batch = regression_batch()
    learner = make_learner(nn.Flatten(), nn.Linear(2, 1), loss=squared_error, n_inner_steps=n_steps)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    for t in range(len(batch)):
        X, y = batch.x_support[t].numpy(), batch.y_support[t, :, 0].numpy()
        X = np.concatenate([X, np.ones((len(X), 1))], axis=1)
        theta = np.append(learner.head.weight.detach().numpy(), learner.head.bias.item())
        h1, c1, h2, c2 = np.zeros((4, 3, 4))
        for _ in range(n_steps):
            gradient = 2 / len(X) * X.T @ (X @ theta - y)
            features = np.stack([np.log(np.abs(gradient)) / 10, np.sign(gradient)], axis=1)
            h1, c1 = numpy_lstm(learner.layers[0], features, h1, c1)
            h2, c2 = numpy_lstm(learner.layers[1], h1, h2, c2)
            weight, bias = (p.detach().numpy() for p in learner.output.parameters())
            theta = theta + 0.3 * (h2 @ weight[0] + bias)
        got = torch.cat([state["weight"][t, 0], state["bias"][t]]).detach().numpy()
        np.testing.assert_allclose(got, theta, rtol=1e-10)


def test_the_moves_are_those_of_a_two_layer_lstm_of_torch():
    learner = make_learner()
    lstm = nn.LSTM(2, 4, num_layers=2).double()
    for i, cell in enumerate(learner.layers):
        for name, p in cell.named_parameters():
            getattr(lstm, f"{name}_l{i}").data.copy_(p)
    seen = torch.randn(5, 2, 7, dtype=torch.float64)
    theta = torch.zeros(2, 7, dtype=torch.float64)
    expected = 0.3 * learner.output(lstm(log_and_sign(seen.flatten(1)))[0]).sum(dim=0)
    memory = learner.begin(theta)
    for gradient in seen:
        theta, memory = learner.move(theta, gradient, theta.new_ones(2), memory)
    assert_close(theta, expected.view(2, 7), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("head", ["shared", "per_class"])
def test_an_optimizer_whose_output_is_zero_leaves_the_weights_as_they_are(head):
    batch = classification_batch()
    learner = make_learner(head=nn.Linear(2, 3) if head == "per_class" else None)
    with torch.no_grad():
        learner.output.weight.zero_()
        learner.output.bias.zero_()
    start = learner.network.start(batch.y_support)
    for name, w in learner.adapt(batch.x_support, batch.y_support, None).items():
        assert torch.equal(w, start[name])


@pytest.mark.parametrize(("size", "tolerance"), [(1e-7, 0.35), (1e-3, 0.1), (0.1, 0.14)])
def test_before_meta_training_it_is_nearly_gradient_descent(size, tolerance):
    learner = make_learner(scattered=False, n_hidden=20)
    with torch.no_grad():
        learner.output.weight[0, 1:] = 0  # what the other, random, units add
    theta = torch.zeros(1, 6, dtype=torch.float64)
    memory = learner.begin(theta)
    for scale in (1.0, -0.7, 0.5):
        gradient = scale * size * torch.linspace(-1, 1, 6, dtype=torch.float64)[None]
        moved, memory = learner.move(theta, gradient, theta.new_ones(1), memory)
        # But for soft clipping, what is left of the step before, and tanh(1) below exp(-10).
        assert_close(moved - theta, -0.3 * gradient, rtol=tolerance, atol=0)
        theta = moved


# ---------------------------------------------------------------------------- derivatives


def plain_meta_loss(learner, batch):
    """Return the meta-loss of a loop over tasks and steps, gradients cut out of the graph."""
    losses = []
    for t in range(len(batch)):
        x, y = batch.x_support[t], batch.y_support[t]
        start = {name: w[:1] for name, w in learner.network.start(y[None]).items()}

        def weights_of(theta, start=start):
            return {k: w[0] for k, w in unflatten_weights(theta[None], start).items()}

        theta = torch.cat([w.reshape(-1) for w in start.values()])
        states = [None, None]
        for _ in range(learner.n_inner_steps):
            leaf = theta.detach().requires_grad_()
            outputs = plain_outputs(learner.network, weights_of(leaf), x)
            (gradient,) = torch.autograd.grad(learner.loss(outputs, y, None), leaf)
            z = log_and_sign(gradient)
            for i, cell in enumerate(learner.layers):
                states[i] = cell(z, states[i])
                z = states[i][0]
            theta = theta + learner.inner_learning_rate * learner.output(z)[:, 0]
            outputs = plain_outputs(learner.network, weights_of(theta), batch.x_query[t])
            losses.append(learner.loss(outputs, batch.y_query[t], None))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("learned_start", [False, True])
@pytest.mark.parametrize("head", ["shared", "per_class"])
def test_the_meta_gradient_is_that_of_a_plain_loop_without_second_derivatives(head, learned_start):
    batch = classification_batch()
    head = nn.Linear(2, 3) if head == "per_class" else None
    learner = make_learner(head=head, learned_start=learned_start)
    loss = plain_meta_loss(learner, batch)
    expected = torch.autograd.grad(loss, [p for p in learner.parameters() if p.requires_grad])
    assert_close(learner.meta_loss(batch), loss, rtol=1e-10, atol=0)
    for got, wanted in zip(gradients(learner, batch).values(), expected, strict=True):
        assert_close(got, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("learned_start", [False, True])
def test_every_parameter_gets_a_gradient_before_any_meta_training(learned_start):
    learner = make_learner(head=nn.Linear(2, 3), scattered=False, learned_start=learned_start)
    found = gradients(learner, classification_batch())
    assert ("head.weight" in found) == ("backbone.0.weight" in found) == learned_start
    for name, gradient in found.items():
        assert gradient.abs().max() > 0, name


def test_tasks_that_are_run_some_at_a_time_give_what_all_of_them_give(monkeypatch):
    batch = classification_batch(5)
    learner = make_learner()
    together = gradients(learner, batch)
    mask = torch.arange(6).expand(5, 6) < torch.tensor([[6], [4], [5], [6], [3]])
    support = batch.x_support, batch.y_support, mask
    expected = learner.adapt(*support)
    monkeypatch.setattr("fewshot_sklearn.nn.network_learner._BYTES", 1)
    assert learner.tasks_at_once(batch) == 1
    for name, w in learner.adapt(*support).items():
        assert_close(w, expected[name])
    for name, gradient in gradients(learner, batch).items():
        assert_close(gradient, together[name])


# ---------------------------------------------------------------------------- the estimators


BRIEF = {"backbone": MLP(hidden_layer_sizes=(8,)), "max_iter": 3, "random_state": 0}


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    tasks = []
    for _ in range(12):
        y = np.repeat(["a", "b", "c"], 4)
        X = 3 * rng.normal(size=(3, 4)).repeat(4, axis=0) + rng.normal(size=(12, 4))
        tasks.append((X[::2], y[::2], X[1::2], y[1::2]))
    return TaskList(tasks, shared_classes=False)


@pytest.mark.parametrize("learned_start", [False, True])
def test_meta_training_changes_the_start_only_where_it_is_learned(blobs, learned_start):
    clf = LearnedOptimizerClassifier(**BRIEF, learned_start=learned_start)
    before = clf.meta_fit(blobs)._meta.learner.state_dict()
    after = clf.partial_meta_fit(blobs)._meta.learner.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert any(name.startswith("backbone.") for name in moved) == learned_start
    assert {"output.weight", "layers.0.weight_ih"} <= moved


def test_any_number_of_classes_and_steps_can_be_taken_after_meta_training(blobs):
    clf = LearnedOptimizerClassifier(**BRIEF).meta_fit(blobs)
    X = blobs[0].X_support
    for n in (2, 3, 6):
        clf.set_params(n_inner_steps=n)
        assert clf.fit(X, np.arange(6) % n).predict_proba(X).shape == (6, n)


def test_meta_training_without_inner_steps_leaves_a_prediction_that_ignores_the_support():
    tasks = make_sinusoid_tasks(10, random_state=0)
    reg = LearnedOptimizerRegressor(**BRIEF, n_inner_steps=0, learned_start=True).meta_fit(tasks)
    X, y, X_query, _ = tasks[0]
    at_zero = reg.fit(X, y).predict(X_query)
    np.testing.assert_array_equal(reg.fit(X, -y).predict(X_query), at_zero)
