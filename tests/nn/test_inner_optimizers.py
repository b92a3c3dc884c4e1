"""Optimizers of stacked weights against torch's own."""

import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn.nn import adam, minimize, sgd, task_network
from fewshot_sklearn.nn.functional import squared_error

RULES = {
    "sgd": (lambda: sgd(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "adam": (lambda: adam(0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
    "adam without momentum": (
        lambda: adam(0.05, beta1=0.0, beta2=0.9, eps=1e-4),
        lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.0, 0.9), eps=1e-4),
    ),
}


def quadratic_gradient(w):
    """Return the gradient of sum_i i w_i^2 / 2 and of |w|^2 / 2."""
    return {"a": w["a"] * torch.arange(1, 4), "b": w["b"]}


def start(n_tasks=3):
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (n_tasks, 3), "b": (n_tasks, 2, 2)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def descend(rule, weights, n_steps=5):
    memory = rule.init(weights)
    for _ in range(n_steps):
        moves, memory = rule.update(quadratic_gradient(weights), memory)
        weights = {name: w + moves[name] for name, w in weights.items()}
    return weights, memory


@pytest.mark.parametrize(("ours", "torchs"), RULES.values(), ids=RULES)
def test_a_stack_of_tasks_moves_as_torchs_optimizer_moves_it(ours, torchs):
    got, memory = descend(ours(), start())
    assert memory.step == 5
    parameters = {name: nn.Parameter(w.clone()) for name, w in start().items()}
    optimizer = torchs(list(parameters.values()))
    for _ in range(5):
        for name, g in quadratic_gradient(parameters).items():
            parameters[name].grad = g.detach()
        optimizer.step()
    for name, p in parameters.items():
        assert_close(got[name], p.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("ours", "torchs"), RULES.values(), ids=RULES)
def test_each_task_moves_as_it_does_alone(ours, torchs):
    together, _ = descend(ours(), start())
    for t in range(3):
        alone, _ = descend(ours(), {name: w[t : t + 1] for name, w in start().items()})
        for name, w in alone.items():
            assert torch.equal(w, together[name][t : t + 1])


@pytest.mark.parametrize(("ours", "torchs"), RULES.values(), ids=RULES)
def test_nothing_is_written_in_place(ours, torchs):
    rule, weights = ours(), start()
    gradient, memory = quadratic_gradient(weights), rule.init(weights)
    kept = {name: g.clone() for name, g in gradient.items()}
    first = rule.update(gradient, memory)[0]
    again = rule.update(gradient, memory)[0]
    for name, g in gradient.items():
        assert torch.equal(g, kept[name])
        assert torch.equal(first[name], again[name])


@pytest.mark.parametrize(("ours", "torchs"), RULES.values(), ids=RULES)
def test_an_optimizer_can_be_pickled(ours, torchs):
    rule = ours()
    loaded, _ = descend(pickle.loads(pickle.dumps(rule)), start())
    assert torch.equal(loaded["a"], descend(rule, start())[0]["a"])


def test_minimize_trains_each_task_as_a_plain_loop_does():
    torch_state = torch.random.get_rng_state()
    try:
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Linear(2, 4), nn.Tanh()).double()
        x, y = torch.randn(3, 6, 2).double(), torch.randn(3, 6, 1).double()
    finally:
        torch.random.set_rng_state(torch_state)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    network = task_network(backbone, None, n_features=4, loss=squared_error)
    got = network.forward(minimize(network, adam(0.1), x, y, mask, n_steps=7), x)
    for t in range(3):
        own = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        own[0].load_state_dict(backbone[0].state_dict())
        nn.init.zeros_(own[2].weight)
        nn.init.zeros_(own[2].bias)
        optimizer = torch.optim.Adam(own.parameters(), lr=0.1)
        for _ in range(7):
            optimizer.zero_grad()
            (own(x[t]) - y[t])[mask[t]].square().mean().backward()
            optimizer.step()
        assert_close(got[t], own(x[t]).detach(), rtol=1e-8, atol=1e-10)
