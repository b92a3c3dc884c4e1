"""Hypernetworks against plain networks with the generated weights, in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import EpisodicTasks, HyperNetClassifier, HyperNetRegressor
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.memory_based._hyper_net import (
    HyperNetLearner,
    HyperNetRegressionLearner,
)
from fewshot_sklearn.nn import GeneratedMLP, LayerGenerator
from fewshot_sklearn.nn.dense import dense_network

T, S, Q, C, D, E = 2, 7, 4, 3, 5, 6
SMALL = {"n_unit_features": 3, "n_hidden": 8}


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def standardised(t):
    return (t - t.mean()) / np.sqrt(t.var() + 1e-5)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(T, S, D)))
    query = torch.from_numpy(rng.normal(size=(T, Q, D)))
    return x, query


def test_a_layer_is_generated_unit_by_unit():
    torch.manual_seed(0)
    generator = LayerGenerator(E, D, 4, gain=1.0, **SMALL).double()
    t = torch.randn(T, E, dtype=torch.float64)
    weight, bias = generator(t)
    assert weight.shape == (T, 4, D)
    p = {k: v.detach().numpy() for k, v in generator.named_parameters()}
    for task in range(T):
        for unit in range(4):
            h = np.tanh(
                p["of_task.weight"] @ t[task].numpy()
                + p["of_task.bias"]
                + p["of_unit.weight"] @ p["units"][unit]
            )
            expected = p["weight.weight"] @ h + p["weight.bias"]
            np.testing.assert_allclose(weight[task, unit].detach(), expected)
            np.testing.assert_allclose(
                bias[task, unit].item(), (p["bias.weight"] @ h + p["bias.bias"]).item()
            )


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_weights_start_with_the_variance_that_keeps_the_size_of_rows(gain):
    torch.manual_seed(0)
    n_inputs = 50
    network = LayerGenerator(64, n_inputs, 400, n_unit_features=16, n_hidden=64, gain=gain)
    t = torch.randn(200, 64)
    with torch.no_grad():
        weight, bias = network(t)
        x = torch.randn(200, n_inputs, 1)
        out = (weight @ x).squeeze(-1) + bias
    assert weight.var().item() == pytest.approx(gain / (2 * n_inputs), rel=0.25)
    assert out.square().mean().item() == pytest.approx(gain, rel=0.25)


def test_the_network_is_a_perceptron_with_the_generated_weights(rows):
    torch.manual_seed(0)
    network = GeneratedMLP(E, [D, 4, 2], gain=1.0, **SMALL).double()
    weights = network.generate(torch.randn(T, E, dtype=torch.float64))
    outputs = network(weights, rows[1])
    w = {k: v.detach().numpy() for k, v in weights.items()}
    for task in range(T):
        hidden = leaky(rows[1][task].numpy() @ w["weight0"][task].T + w["bias0"][task])
        expected = hidden @ w["weight1"][task].T + w["bias1"][task]
        np.testing.assert_allclose(outputs[task].detach(), expected)


def test_the_regressor_predicts_with_the_network_of_the_mean_code(rows):
    torch.manual_seed(0)
    x, query = rows
    y = torch.randn(T, S, 2, dtype=torch.float64)
    mask = torch.ones(T, S, dtype=torch.bool)
    mask[1, -2:] = False
    encoder = dense_network(D + 2, E, 2, E)
    network = GeneratedMLP(E, [D, 4, 2], gain=1.0, **SMALL)
    learner = HyperNetRegressionLearner(nn.Flatten(), encoder, network).double()
    outputs = learner.predict(learner.adapt(x, y, mask), query)
    for task in range(T):
        real = mask[task]
        pairs = torch.cat([x[task, real], y[task, real]], dim=-1)
        t = standardised(encoder(pairs).detach().numpy().mean(axis=0))
        weights = network.generate(torch.from_numpy(t)[None])
        assert_close(outputs[task], network(weights, query[task][None])[0])


def test_class_weights_are_generated_from_the_hidden_class_means(rows):
    torch.manual_seed(0)
    x, query = rows
    codes = np.arange(S) % C
    y = torch.eye(C, dtype=torch.float64)[torch.from_numpy(codes)].expand(T, -1, -1)
    encoder = dense_network(D, E, 2, E)
    network = GeneratedMLP(E, [D, 4], gain=2.0, **SMALL)
    head = nn.Linear(4, 4, bias=False)
    learner = HyperNetLearner(nn.Flatten(), encoder, network, head).double()
    outputs = learner.predict(learner.adapt(x, y, None), query)
    phi = head.weight.detach().numpy()
    for task in range(T):
        means = np.stack([x[task][codes == k].numpy().mean(axis=0) for k in range(C)])
        t = standardised(encoder(torch.from_numpy(means)).detach().numpy().mean(axis=0))
        w = {
            k: v[0].detach().numpy() for k, v in network.generate(torch.from_numpy(t)[None]).items()
        }

        def hidden(z, w=w):
            return leaky(z @ w["weight0"].T + w["bias0"])

        expected = hidden(query[task].numpy()) @ (hidden(means) @ phi.T).T / np.sqrt(4)
        np.testing.assert_allclose(outputs[task].detach(), expected)


def test_sine_waves_are_learned_without_a_gradient_step():
    tasks = make_sinusoid_tasks(random_state=0)
    reg = HyperNetRegressor(max_iter=400, random_state=0).meta_fit(tasks)
    held_out = make_sinusoid_tasks(20, n_query=50, random_state=1)
    error = np.mean(
        [
            np.mean((reg.fit(t.X_support, t.y_support).predict(t.X_query) - t.y_query) ** 2)
            for t in held_out
        ]
    )
    variance = np.mean([np.var(t.y_query) for t in held_out])
    assert error < 0.7 * variance


def test_more_classes_than_in_meta_training_are_told_apart():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(40), 10)
    X = 2 * rng.normal(size=(40, 8))[y] + 0.5 * rng.normal(size=(400, 8))
    tasks = EpisodicTasks(X, y, n_way=3, n_shot=2, n_query=3, random_state=0)
    clf = HyperNetClassifier(max_iter=60, random_state=0).meta_fit(tasks)
    few = y < 8
    assert clf.fit(X[few][::2], y[few][::2]).score(X[few][1::2], y[few][1::2]) > 0.8


@pytest.mark.parametrize("cls", [HyperNetClassifier, HyperNetRegressor])
def test_a_thousand_rows_are_read_at_once(cls):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 16))
    y = np.arange(1000) % 5
    assert cls(max_iter=2, random_state=0).fit(X, y).predict(X[:10]).shape == (10,)
