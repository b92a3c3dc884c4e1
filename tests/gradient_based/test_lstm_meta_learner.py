"""The LSTM meta-learner against NumPy, gradient descent and a plain loop."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.base import clone
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import MLP, LSTMMetaLearnerClassifier, LSTMMetaLearnerRegressor, TaskList
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.gradient_based._lstm_meta_learner import LSTMMetaLearner
from fewshot_sklearn.nn import log_and_sign, task_network
from fewshot_sklearn.nn.coordinatewise import flatten_weights, unflatten_weights
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


def make_learner(backbone=None, head=None, *, loss=cross_entropy, **options):
    backbone = tanh_network() if backbone is None else backbone
    options = {"n_inner_steps": 3, "inner_learning_rate": 0.3, "n_hidden": 4} | options
    network = task_network(backbone, head, n_features=2, loss=loss)
    learner = LSTMMetaLearner(network, **options).double()
    with torch.no_grad():  # weights that matter, where the first ones are close to zero
        for module in (learner.lstm, learner.input_gate, learner.forget_gate):
            for name, p in module.named_parameters():
                if "weight" in name:
                    p.add_(0.5 * torch.randn_like(p))
    return learner


# ---------------------------------------------------------------------------- features


def test_numbers_are_preprocessed_by_the_two_cases_of_the_paper():
    x = np.array([0.0, 1.0, -1.0, np.e, -1e-3, 1e-6, -1e-9, 5e8, np.exp(-10), -2e-5])
    large = np.abs(x) >= np.exp(-10)
    with np.errstate(divide="ignore"):
        first = np.where(large, np.log(np.abs(x)) / 10, -1)
    second = np.where(large, np.sign(x), np.exp(10) * x)
    got = log_and_sign(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, np.stack([first, second], axis=-1), rtol=1e-12, atol=1e-15)


def test_weights_come_back_from_their_vector():
    weights = {"a": torch.randn(2, 3, 4), "b": torch.randn(2, 5), "c": torch.randn(2, 1, 2)}
    flat = flatten_weights(weights)
    assert flat.shape == (2, 19)
    back = unflatten_weights(flat, weights)
    assert list(back) == list(weights)
    for name, w in weights.items():
        assert torch.equal(back[name], w)


# ---------------------------------------------------------------------------- equations


def numpy_features(x):
    small = np.abs(x) < np.exp(-10)
    size = np.where(small, -1, np.log(np.maximum(np.abs(x), 1e-300)) / 10)
    return size, np.where(small, np.exp(10) * x, np.sign(x))


def numpy_lstm(cell, x, h, c):
    W, U, b, d = (p.detach().numpy() for p in cell.parameters())
    i, f, g, o = np.split(W @ x + b + U @ h + d, 4)
    c = expit(f) * c + expit(i) * np.tanh(g)
    return expit(o) * np.tanh(c), c


def numpy_gate(layer, row):
    return expit(layer.weight.detach().numpy()[0] @ row + layer.bias.item())


def linear_gradient(x, y, theta):
    """Return the gradient and the loss of linear least squares in the weights and the bias."""
    X = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    residual = X @ theta - y
    return 2 / len(X) * X.T @ residual, np.mean(residual**2)


def numpy_descent(learner, theta, gradient_at, n_steps):
    """Run the paper's equations for one weight after the other."""
    P, H = len(theta), learner.lstm.hidden_size
    h, c, i, f = np.zeros((P, H)), np.zeros((P, H)), np.zeros(P), np.zeros(P)
    theta = theta.copy()
    for _ in range(n_steps):
        gradient, loss = gradient_at(theta)
        for j in range(P):
            row = np.array([*numpy_features(gradient[j]), *numpy_features(loss)])
            h[j], c[j] = numpy_lstm(learner.lstm, row, h[j], c[j])
            i[j] = numpy_gate(learner.input_gate, [*h[j], theta[j], i[j]])
            f[j] = numpy_gate(learner.forget_gate, [*h[j], theta[j], f[j]])
            theta[j] = f[j] * theta[j] - i[j] * gradient[j]
    return theta


@pytest.mark.parametrize("n_steps", [0, 1, 4])
def test_the_steps_are_the_equations_of_the_paper_in_numpy(n_steps):
    batch = regression_batch()
    learner = make_learner(nn.Flatten(), nn.Linear(2, 1), loss=squared_error, n_inner_steps=n_steps)
    theta = torch.cat([learner.head.weight[0], learner.head.bias]).detach().numpy()
    state = learner.adapt(batch.x_support, batch.y_support, None)
    for t in range(len(batch)):
        x, y = batch.x_support[t].numpy(), batch.y_support[t, :, 0].numpy()
        expected = numpy_descent(learner, theta, partial(linear_gradient, x, y), n_steps)
        got = torch.cat([state["weight"][t, 0], state["bias"][t]]).detach().numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize("head", ["shared", "per_class"])
@pytest.mark.parametrize("rate", [0.02, 0.4])
def test_with_a_forget_gate_of_one_and_a_constant_input_gate_it_is_gradient_descent(head, rate):
    batch = classification_batch()
    head = nn.Linear(2, 3) if head == "per_class" else None
    learner = make_learner(head=head, n_inner_steps=4)
    with torch.no_grad():
        learner.input_gate.weight.zero_()
        learner.input_gate.bias.fill_(np.log(rate / (1 - rate)))
        learner.forget_gate.weight.zero_()
        learner.forget_gate.bias.fill_(50.0)
    got = learner.adapt(batch.x_support, batch.y_support, None)
    expected = learner.network.descend(
        learner.network.rates(rate, 4), batch.x_support, batch.y_support, None, first_order=True
    )
    x = batch.x_query
    assert_close(learner.predict(got, x), learner.predict(expected, x), rtol=1e-10, atol=1e-12)


def test_before_meta_training_it_is_nearly_gradient_descent():
    network = task_network(tanh_network(), None, n_features=2, loss=cross_entropy)
    learner = LSTMMetaLearner(network, n_inner_steps=1, inner_learning_rate=0.3, n_hidden=20)
    batch = classification_batch()
    theta = flatten_weights(network.start(batch.y_support)).float()
    gradient = torch.randn_like(theta)
    _, (*_, i, f) = learner.move(theta, gradient, theta.new_ones(3), learner.begin(theta))
    assert_close(i, torch.full_like(i, 0.3), rtol=0.05, atol=0)
    assert f.min() > 0.975


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
        h = c = theta.new_zeros(len(theta), learner.lstm.hidden_size)
        i = f = theta.new_zeros(len(theta), 1)
        for _ in range(learner.n_inner_steps):
            leaf = theta.detach().requires_grad_()
            loss = learner.loss(plain_outputs(learner.network, weights_of(leaf), x), y, None)
            (gradient,) = torch.autograd.grad(loss, leaf)
            of_loss = log_and_sign(loss.detach()).expand(len(theta), 2)
            h, c = learner.lstm(torch.cat([log_and_sign(gradient), of_loss], dim=1), (h, c))
            i = learner.input_gate(torch.cat([h, theta[:, None], i], dim=1)).sigmoid()
            f = learner.forget_gate(torch.cat([h, theta[:, None], f], dim=1)).sigmoid()
            theta = f[:, 0] * theta - i[:, 0] * gradient
        outputs = plain_outputs(learner.network, weights_of(theta), batch.x_query[t])
        losses.append(learner.loss(outputs, batch.y_query[t], None))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("head", ["shared", "per_class"])
def test_the_meta_gradient_is_that_of_a_plain_loop_without_second_derivatives(head):
    batch = classification_batch()
    learner = make_learner(head=nn.Linear(2, 3) if head == "per_class" else None)
    loss = plain_meta_loss(learner, batch)
    expected = torch.autograd.grad(loss, list(learner.parameters()))
    assert_close(learner.meta_loss(batch), loss, rtol=1e-10, atol=0)
    for got, wanted in zip(gradients(learner, batch).values(), expected, strict=True):
        assert_close(got, wanted, rtol=1e-8, atol=1e-12)


def test_every_parameter_gets_a_gradient_before_any_meta_training():
    network = task_network(tanh_network(), nn.Linear(2, 3), n_features=2, loss=cross_entropy)
    learner = LSTMMetaLearner(
        network, n_inner_steps=3, inner_learning_rate=0.1, n_hidden=20
    ).double()
    for name, gradient in gradients(learner, classification_batch()).items():
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


def test_any_number_of_classes_can_be_learned(blobs):
    clf = LSTMMetaLearnerClassifier(**BRIEF).meta_fit(blobs)
    X = blobs[0].X_support
    for n in (2, 3, 6):
        assert clf.fit(X, np.arange(6) % n).predict_proba(X).shape == (6, n)


def test_more_steps_may_be_taken_after_meta_training_but_the_rate_stays(blobs):
    clf = LSTMMetaLearnerClassifier(**BRIEF).meta_fit(blobs)
    X, y, X_query, _ = blobs[0]
    before = clf.fit(X, y).predict_proba(X_query)
    other = clone(clf).set_params(n_inner_steps=9).fit(X, y).predict_proba(X_query)
    assert not np.allclose(before, other, atol=1e-3)
    with pytest.raises(ValueError, match=r"inner_learning_rate=0.2 .* call meta_fit again"):
        clf.set_params(inner_learning_rate=0.2).fit(X, y)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_an_input_gate_cannot_begin_closed_or_open(blobs, rate):
    with pytest.raises(ValueError, match="inner_learning_rate"):
        LSTMMetaLearnerClassifier(**BRIEF, inner_learning_rate=rate).meta_fit(blobs)


def test_meta_training_without_inner_steps_learns_the_start_alone():
    tasks = make_sinusoid_tasks(10, random_state=0)
    reg = LSTMMetaLearnerRegressor(**BRIEF, n_inner_steps=0).meta_fit(tasks)
    X, y, X_query, _ = tasks[0]
    at_zero = reg.fit(X, y).predict(X_query)
    np.testing.assert_array_equal(reg.fit(X, -y).predict(X_query), at_zero)


def test_adapting_leaves_parameters_as_they_are():
    learner, batch = make_learner(), classification_batch()
    before = copy.deepcopy(learner.state_dict())
    learner.predict(learner.adapt(batch.x_support, batch.y_support, None), batch.x_query)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])
