"""The differentiable inner loop against a plain one, in float64.

The reference takes one task at a time through ``functional_call`` and ``torch.autograd.grad`` and
lets autograd differentiate through the steps. ``torch.func.vmap`` is known to give wrong
second-order gradients through some layers with a weight per task, so every option of every backbone
is checked, values and meta-gradients, stacked and in a loop.
"""

import pytest
import torch
from torch.func import functional_call
from torch.testing import assert_close

from fewshot_sklearn import MLP, Conv4
from fewshot_sklearn.nn import gradient_descent, map_tasks, should_loop
from fewshot_sklearn.nn.functional import cross_entropy, squared_error

T, S, Q, C = 3, 5, 4, 3
ALPHA = 0.3
LOSSES = {"cross_entropy": cross_entropy, "squared_error": squared_error}
SPECS = {
    **{
        f"mlp-{activation}-{norm}": MLP(
            hidden_layer_sizes=(6, 5), activation=activation, norm=norm, embedding_size=4
        )
        for activation in ("relu", "gelu", "silu", "tanh")
        for norm in (None, "layer", "rms")
    },
    **{
        f"conv4-{norm}": Conv4(image_shape=(2, 4, 4), n_filters=4, n_blocks=2, norm=norm)
        for norm in ("group", None)
    },
}


class Problem:
    """Some tasks, a network with a linear head, and where it starts."""

    def __init__(self, spec, loss=cross_entropy, masked=False):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            backbone = spec.build((32,))
            self.network = torch.nn.Sequential(backbone, torch.nn.Linear(4, C)).double()
            self.x, self.x_query = torch.randn(2, T, max(S, Q), 32, dtype=torch.float64)
            self.x, self.x_query = self.x[:, :S], self.x_query[:, :Q]
            if loss is cross_entropy:
                labels = torch.randint(C, (T, S + Q))
                y = torch.nn.functional.one_hot(labels, C).double()
            else:
                y = torch.randn(T, S + Q, C, dtype=torch.float64)
            # Weights unlike their initial ones and zeros: a norm's scale and shift matter.
            with torch.no_grad():
                for p in self.network.parameters():
                    p.add_(0.3 * torch.randn_like(p))
        self.loss = loss
        self.y, self.y_query = y.split([S, Q], dim=1)
        self.start = dict(self.network.named_parameters())
        self.mask = torch.arange(S) < torch.tensor([[5], [3], [2]]) if masked else None

    def model(self, parameters, x):
        return functional_call(self.network, parameters, (x,))

    def descend(self, *, loop, n_steps=2, first_order=False, learning_rate=ALPHA):
        return gradient_descent(
            self.model,
            self.loss,
            self.start,
            self.x,
            self.y,
            self.mask,
            n_steps=n_steps,
            learning_rate=learning_rate,
            first_order=first_order,
            loop=loop,
        )

    def outer(self, adapted, loop):
        """Return the query loss and the meta-gradient."""
        outputs = map_tasks(self.model, loop, (0, 0))(adapted, self.x_query)
        loss = self.loss(outputs, self.y_query, None).mean()
        return loss, torch.autograd.grad(loss, list(self.start.values()))

    def reference(self, *, n_steps=2, first_order=False):
        """Return adapted weights, query loss and meta-gradient of a plain loop."""
        adapted, losses = [], []
        for t in range(T):
            rows = slice(None) if self.mask is None else self.mask[t]
            x, y = self.x[t][rows], self.y[t][rows]
            theta = self.start
            for _ in range(n_steps):
                inner = self.loss(self.model(theta, x), y, None)
                gradient = torch.autograd.grad(
                    inner, list(theta.values()), create_graph=not first_order, retain_graph=True
                )
                theta = {
                    name: p - ALPHA * g
                    for (name, p), g in zip(theta.items(), gradient, strict=True)
                }
            adapted.append(theta)
            losses.append(self.loss(self.model(theta, self.x_query[t]), self.y_query[t], None))
        loss = torch.stack(losses).mean()
        stacked = {name: torch.stack([theta[name] for theta in adapted]) for name in self.start}
        return stacked, loss, torch.autograd.grad(loss, list(self.start.values()))

    def assert_equals_reference(self, *, loop, **options):
        adapted = self.descend(loop=loop, **options)
        loss, meta_gradient = self.outer(adapted, loop)
        expected_adapted, expected_loss, expected_gradient = self.reference(**options)
        for name, value in expected_adapted.items():
            assert_close(adapted[name], value, rtol=1e-9, atol=1e-12, msg=f"{name} adapted: {{}}")
        assert_close(loss, expected_loss, rtol=1e-9, atol=0)
        for name, got, expected in zip(self.start, meta_gradient, expected_gradient, strict=True):
            error = (got - expected).norm() / expected.norm().clamp_min(1e-8)
            assert error < 1e-9, f"the meta-gradient of {name} is {error:.1e} off"


@pytest.mark.parametrize("loop", [False, True], ids=["vmap", "loop"])
@pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_values_and_meta_gradients_are_those_of_a_plain_loop(spec, first_order, loop):
    Problem(spec).assert_equals_reference(loop=loop, first_order=first_order)


@pytest.mark.parametrize("loop", [False, True], ids=["vmap", "loop"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_padding_rows_change_neither_values_nor_meta_gradients(loss, loop):
    problem = Problem(MLP(hidden_layer_sizes=(6, 4), norm="rms"), loss, masked=True)
    problem.assert_equals_reference(loop=loop)
    before = problem.descend(loop=loop)
    problem.x = torch.where(problem.mask[..., None], problem.x, 99.0)
    for name, value in problem.descend(loop=loop).items():
        assert_close(value, before[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loop", [False, True], ids=["vmap", "loop"])
@pytest.mark.parametrize("n_steps", [1, 5])
def test_any_number_of_steps_is_that_of_a_plain_loop(n_steps, loop):
    problem = Problem(MLP(hidden_layer_sizes=(4,), activation="tanh"), squared_error)
    problem.assert_equals_reference(loop=loop, n_steps=n_steps)


@pytest.mark.parametrize("loop", [False, True], ids=["vmap", "loop"])
def test_no_steps_return_the_start_for_every_task(loop):
    problem = Problem(MLP(hidden_layer_sizes=(4,)))
    adapted = problem.descend(loop=loop, n_steps=0)
    for name, value in problem.start.items():
        assert_close(adapted[name], torch.stack([value] * T), rtol=0, atol=0)
    _, gradient = problem.outer(adapted, loop)
    assert all(g.norm() > 0 for g in gradient)


def test_first_order_leaves_out_second_derivatives_only():
    problem = Problem(MLP(hidden_layer_sizes=(4,), activation="tanh"))
    first, second = (problem.descend(loop=False, first_order=f) for f in (True, False))
    for name in first:
        assert torch.equal(first[name], second[name])
    gradients = [problem.outer(adapted, False)[1] for adapted in (first, second)]
    assert any((a - b).norm() > 1e-3 * b.norm() for a, b in zip(*gradients, strict=True))


def test_adapting_without_autograd_gives_the_same_weights():
    problem = Problem(MLP(hidden_layer_sizes=(4,)))
    with_graph = problem.descend(loop=False)
    with torch.no_grad():
        without = problem.descend(loop=False)
    for name, value in without.items():
        assert not value.requires_grad
        assert_close(value, with_graph[name].detach(), rtol=1e-12, atol=1e-12)


def test_adapting_changes_no_parameter_and_leaves_no_gradient():
    problem = Problem(MLP(hidden_layer_sizes=(4,)))
    before = {name: p.detach().clone() for name, p in problem.start.items()}
    problem.descend(loop=True)
    for name, p in problem.network.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None


def test_mapped_functions_return_tensors_or_dicts_with_the_task_axis_first():
    x, shared = torch.arange(6.0).view(3, 2), torch.tensor(10.0)
    for loop in (True, False):
        assert torch.equal(map_tasks(lambda a, b: a + b, loop, (0, None))(x, shared), x + 10)
        result = map_tasks(lambda a, b: {"sum": a["x"].sum() + b}, loop, (0, None))
        assert torch.equal(result({"x": x}, shared)["sum"], x.sum(dim=1) + 10)


def test_dropout_differs_between_stacked_tasks():
    dropout = torch.nn.Dropout(0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = map_tasks(dropout, False, (0,))(torch.ones(2, 64))
    assert not torch.equal(out[0], out[1])


def test_single_tasks_and_convolutions_on_a_cpu_are_looped():
    mlp, conv = MLP().build((4,)), Conv4().build((784,))
    assert not should_loop(mlp, torch.zeros(2, 3, 4))
    assert should_loop(mlp, torch.zeros(1, 3, 4))
    assert should_loop(conv, torch.zeros(2, 3, 784))
