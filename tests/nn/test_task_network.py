"""Networks with weights per task against a plain loop over the tasks, in float64.

The reference takes one task at a time through ``functional_call`` and ``torch.autograd.grad`` and
lets autograd differentiate through the steps. ``torch.func.vmap`` is known to give wrong
second-order gradients through some layers with a weight per task, and the derivatives of multilayer
perceptrons are written out by hand, so every option of every backbone is checked, values and
meta-gradients.
"""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from fewshot_sklearn import MLP, Conv4
from fewshot_sklearn.nn import MLPNetwork, TaskNetwork, task_network
from fewshot_sklearn.nn import mlp_network as mlp_network_module
from fewshot_sklearn.nn.functional import cross_entropy, gaussian_nll, squared_error
from fewshot_sklearn.nn.task_network import refuse_written_buffers
from fewshot_sklearn.tasks._batch import TaskBatch

T, S, Q, C = 3, 5, 4, 3
ALPHA = 0.3
LOSSES = {"cross_entropy": cross_entropy, "squared_error": squared_error}
MLPS = {
    f"mlp-{activation}-{norm}": MLP(
        hidden_layer_sizes=(6, 5), activation=activation, norm=norm, embedding_size=4
    )
    for activation in ("relu", "gelu", "silu", "tanh")
    for norm in (None, "layer", "rms")
}
CONVS = {
    f"conv4-{norm}": Conv4(image_shape=(2, 4, 4), n_filters=4, n_blocks=2, norm=norm)
    for norm in ("group", None)
}
KINDS = {"general": TaskNetwork, "chosen": task_network}
TOLERANCE = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(params=["dense", "low rank"])
def form(request, monkeypatch):
    """Ask for one of the forms of the first layer, whatever is cheaper."""
    gain = 0 if request.param == "low rank" else 10**6
    monkeypatch.setattr(mlp_network_module, "_LOW_RANK_GAIN", gain)
    return request.param


class Problem:
    """Some tasks, a network with a linear head, and where it starts."""

    def __init__(self, spec, loss=cross_entropy, *, kind=task_network, masked=False, head=True):
        backbone = spec.build((32,)) if hasattr(spec, "build") else spec
        n_features = backbone(torch.zeros(1, 32)).shape[1]
        self.network = kind(
            backbone.double(),
            nn.Linear(n_features, C).double() if head else None,
            n_features=n_features,
            loss=loss,
        )
        self.x = torch.randn(T, S, 32, dtype=torch.float64)
        self.x_query = torch.randn(T, Q, 32, dtype=torch.float64)
        y = torch.randn(T, S + Q, C, dtype=torch.float64)
        if loss is cross_entropy:
            y = nn.functional.one_hot(torch.randint(C, (T, S + Q)), C).double()
        self.loss = loss
        self.y, self.y_query = y.split([S, Q], dim=1)
        # Weights unlike their initial ones and zeros: a norm's scale and shift matter.
        self.parameters = [
            *backbone.parameters(),
            *(self.network.head or nn.Identity()).parameters(),
        ]
        with torch.no_grad():
            for p in self.parameters:
                p.add_(0.3 * torch.randn_like(p))
        self.mask = torch.arange(S) < torch.tensor([[5], [3], [2]]) if masked else None

    def model(self, weights, x):
        own = {k.removeprefix("backbone."): w for k, w in weights.items() if "." in k}
        z = functional_call(self.network.backbone, own, (x,))
        return z @ weights["weight"].T + weights["bias"]

    def inner_loss(self, weights, x, y):
        outputs = self.model(weights, x)
        if self.loss is cross_entropy:
            outputs = outputs.masked_fill(~y.any(dim=0), -torch.inf)
            return -(outputs.log_softmax(dim=-1)[y.bool()]).mean()
        return self.loss(outputs, y, None)

    def task(self, t):
        rows = slice(None) if self.mask is None else self.mask[t]
        return self.x[t][rows], self.y[t][rows]

    def outer(self, states):
        """Return the sum of the query losses of some states, which weigh differently."""
        outputs = [self.network.forward(state, self.x_query) for state in states]
        losses = [self.loss(o, self.y_query, None).mean() for o in outputs]
        return sum((k + 1) * loss for k, loss in enumerate(losses))

    def reference(self, rates, *, first_order=False, start=None, every_step=False):
        """Return adapted weights of every step and the outer loss of a plain loop."""
        shared, total, steps = self.network.shared_start(self.y), 0.0, []
        for t in range(T):
            x, y = self.task(t)
            theta = shared | {name: w[t] for name, w in (start or {}).items()}
            path = [theta]
            for step in rates:
                moved = [theta[name] for name in step]
                inner = self.inner_loss(theta, x, y)
                gradient = torch.autograd.grad(
                    inner, moved, create_graph=not first_order, retain_graph=True
                )
                theta = theta | {
                    name: theta[name] - rate * g
                    for (name, rate), g in zip(step.items(), gradient, strict=True)
                }
                path.append(theta)
            steps.append(path)
            path = path if every_step else path[-1:]
            losses = [
                self.loss(self.model(w, self.x_query[t]), self.y_query[t], None) for w in path
            ]
            total = total + sum((k + 1) * loss for k, loss in enumerate(losses)) / T
        return steps, total


def leaf(tensor):
    return tensor.detach().requires_grad_()


def assert_same_gradients(got, expected, leaves):
    """Compare the derivatives of two losses with respect to some leaves."""
    assert_close(got, expected, rtol=1e-9, atol=0)
    pair = [torch.autograd.grad(loss, leaves, allow_unused=True) for loss in (got, expected)]
    for k, (a, b) in enumerate(zip(*pair, strict=True)):
        b = torch.zeros_like(leaves[k]) if b is None else b
        error = (a - b).norm() / b.norm().clamp_min(1e-8)
        assert error < 1e-9, f"derivative {k} of shape {tuple(b.shape)} is {error:.1e} off"


# ---------------------------------------------------------------------------- descent


@pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("spec", [*MLPS.values(), *CONVS.values()], ids=[*MLPS, *CONVS])
def test_meta_gradients_are_those_of_a_plain_loop(spec, kind, first_order):
    problem = Problem(spec, kind=kind)
    rates = problem.network.rates(ALPHA, 2)
    state = problem.network.descend(rates, problem.x, problem.y, None, first_order=first_order)
    _, expected = problem.reference(rates, first_order=first_order)
    assert_same_gradients(problem.outer([state]), expected, problem.parameters)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("n_steps", [1, 5])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("spec", ["mlp-relu-None", "mlp-tanh-layer", "mlp-gelu-rms"])
def test_both_forms_of_the_first_layer_are_those_of_a_plain_loop(spec, loss, n_steps, masked, form):
    problem = Problem(MLPS[spec], loss, masked=masked)
    rates = problem.network.rates(ALPHA, n_steps)
    state = problem.network.descend(rates, problem.x, problem.y, problem.mask)
    assert ("update" in state) == (form == "low rank")
    _, expected = problem.reference(rates)
    assert_same_gradients(problem.outer([state]), expected, problem.parameters)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_weights_after_every_step_can_be_differentiated(kind, form):
    problem = Problem(MLPS["mlp-silu-layer"], kind=kind)
    rates = problem.network.rates(ALPHA, 3)
    states = problem.network.trajectory(rates, problem.x, problem.y, None)
    assert len(states) == 4
    _, expected = problem.reference(rates, every_step=True)
    # The first state is the start, which low rank leaves dense.
    assert_same_gradients(problem.outer(states), expected, problem.parameters)


@pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_rates_can_be_learned(kind, first_order):
    problem = Problem(MLPS["mlp-tanh-rms"], kind=kind)
    shared = problem.network.shared_start(problem.y)
    by_entry = {name: leaf(0.1 + 0.3 * torch.rand_like(w)) for name, w in shared.items()}
    states = problem.network.descend(
        [by_entry] * 2, problem.x, problem.y, None, first_order=first_order
    )
    _, expected = problem.reference([by_entry] * 2, first_order=first_order)
    leaves = [*by_entry.values(), *problem.parameters]
    assert_same_gradients(problem.outer([states]), expected, leaves)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_rate_a_layer_and_step_can_be_learned(kind, form):
    problem = Problem(MLPS["mlp-relu-layer"], kind=kind)
    shared = problem.network.shared_start(problem.y)
    rates = [{name: leaf(torch.rand(()).double()) for name in shared} for _ in range(3)]
    state = problem.network.descend(rates, problem.x, problem.y, None)
    _, expected = problem.reference(rates)
    leaves = [*(r for step in rates for r in step.values()), *problem.parameters]
    assert_same_gradients(problem.outer([state]), expected, leaves)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])
@pytest.mark.parametrize("learned", [False, True], ids=["one rate", "learned rates"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_outer_loss_with_its_gradient_at_hand_is_that_of_its_parts(
    loss, learned, first_order, masked, form
):
    """MLPs know the gradient of the outer loss with it; ``TaskNetwork`` composes it."""
    problem = Problem(MLPS["mlp-silu-layer"], loss, masked=masked)
    network, query_mask, class_mask = problem.network, None, None
    if masked:
        query_mask = torch.arange(Q) < torch.tensor([[4], [3], [2]])
    if loss is cross_entropy:
        class_mask = torch.tensor([[True, True, True]] * (T - 1) + [[True, False, True]])
        problem.y[T - 1] = problem.y_query[T - 1] = torch.eye(C)[0].double()
    shared, rates = network.shared_start(problem.y), network.rates(ALPHA, 2)
    if learned:
        rates = [{name: leaf(torch.rand_like(w)) for name, w in shared.items()}] * 2
    batch = TaskBatch(
        problem.x, problem.y, problem.x_query, problem.y_query,
        problem.mask, query_mask, class_mask,
    )  # fmt: skip
    got = network.outer_loss(rates, batch, first_order=first_order)
    assert type(got.grad_fn).__name__ == (
        "OuterLossBackward" if learned or form == "dense" else "MeanBackward0"
    )
    expected = TaskNetwork.outer_loss(network, rates, batch, first_order=first_order)
    leaves = problem.parameters + (list(rates[0].values()) if learned else [])
    assert_same_gradients(3 * got, 3 * expected, leaves)
    with torch.no_grad():
        assert_close(network.outer_loss(rates, batch, first_order=first_order), got)


@pytest.mark.parametrize("learned", ["x", "x_query"])
def test_the_outer_loss_can_be_differentiated_with_respect_to_rows(learned, form):
    problem = Problem(MLPS["mlp-tanh-layer"])
    rows = leaf(getattr(problem, learned))
    setattr(problem, learned, rows)
    batch = TaskBatch(problem.x, problem.y, problem.x_query, problem.y_query)
    rates = problem.network.rates(ALPHA, 2)
    got = problem.network.outer_loss(rates, batch, first_order=False)
    _, expected = problem.reference(rates)
    assert_same_gradients(got, expected, [rows, *problem.parameters])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_weights_without_a_rate_stay_and_are_learned_through_the_others(kind):
    problem = Problem(MLPS["mlp-gelu-layer"], kind=kind)
    names = [name for name in problem.network.shared_start(problem.y) if "." in name]
    rates = problem.network.rates(ALPHA, 2, names)
    state = problem.network.descend(rates, problem.x, problem.y, None)
    assert_close(state["weight"], problem.network.start(problem.y)["weight"])
    _, expected = problem.reference(rates)
    assert_same_gradients(problem.outer([state]), expected, problem.parameters)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_tasks_can_start_differently_from_rows_that_are_learned(kind):
    problem = Problem(nn.Identity(), kind=kind, head=False)
    x = problem.x = leaf(problem.x)
    start = {
        "weight": leaf(torch.randn(T, C, 32).double()),
        "bias": leaf(torch.randn(T, C).double()),
    }
    rates = problem.network.rates(ALPHA, 3)
    state = problem.network.descend(rates, x, problem.y, None, start=start)
    _, expected = problem.reference(rates, start=start)
    assert_same_gradients(problem.outer([state]), expected, [x, *start.values()])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_steps_return_the_start_for_every_task(kind):
    problem = Problem(MLPS["mlp-relu-None"], kind=kind)
    state = problem.network.descend([], problem.x, problem.y, None)
    for name, value in problem.network.start(problem.y).items():
        assert_close(state[name], value, rtol=0, atol=0)
    assert_same_gradients(problem.outer([state]), problem.reference([])[1], problem.parameters)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_adapting_without_autograd_gives_the_same_weights(kind, form):
    problem = Problem(MLPS["mlp-relu-layer"], kind=kind)
    rates = problem.network.rates(ALPHA, 3)
    state = problem.network.descend(rates, problem.x, problem.y, None)
    with torch.no_grad():
        alone = problem.network.descend(rates, problem.x, problem.y, None)
        outputs = problem.network.forward(alone, problem.x_query)
    for name, value in alone.items():
        assert not value.requires_grad
        assert_close(value, state[name].detach(), rtol=1e-12, atol=1e-12)
    assert_close(outputs, problem.network.forward(state, problem.x_query), rtol=1e-12, atol=1e-12)


def test_padding_rows_change_neither_values_nor_meta_gradients(form):
    problem = Problem(MLPS["mlp-relu-rms"], squared_error, masked=True)
    rates = problem.network.rates(ALPHA, 2)

    def gradients():
        state = problem.network.descend(rates, problem.x, problem.y, problem.mask)
        return torch.autograd.grad(problem.outer([state]), problem.parameters)

    before = gradients()
    problem.x = torch.where(problem.mask[..., None], problem.x, 99.0)
    problem.y = torch.where(problem.mask[..., None], problem.y, 7.0)
    for a, b in zip(gradients(), before, strict=True):
        assert_close(a, b, **TOLERANCE)


def test_first_order_leaves_out_second_derivatives_only():
    problem = Problem(MLPS["mlp-tanh-None"])
    rates = problem.network.rates(ALPHA, 2)
    states = [
        problem.network.descend(rates, problem.x, problem.y, None, first_order=f)
        for f in (True, False)
    ]
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name])
    pair = [torch.autograd.grad(problem.outer([s]), problem.parameters) for s in states]
    assert any((a - b).norm() > 1e-3 * b.norm() for a, b in zip(*pair, strict=True))


def test_adapting_changes_no_parameter_and_leaves_no_gradient():
    problem = Problem(MLPS["mlp-relu-layer"])
    before = [p.detach().clone() for p in problem.parameters]
    problem.network.descend(problem.network.rates(ALPHA, 2), problem.x, problem.y, None)
    for p, value in zip(problem.parameters, before, strict=True):
        assert torch.equal(p, value)
        assert p.grad is None


# ---------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("spec", ["mlp-relu-None", "mlp-tanh-layer", "mlp-silu-rms"])
def test_gradients_and_curvature_are_those_of_autograd(spec, loss, kind, masked):
    problem = Problem(MLPS[spec], loss, kind=kind, masked=masked)
    start = problem.network.start(problem.y)
    weights = {n: w.detach() + 0.1 * torch.randn_like(w) for n, w in start.items()}
    v = {name: torch.randn_like(w) for name, w in weights.items()}
    arguments = (weights, problem.x, problem.y, problem.mask)
    gradient, losses = problem.network.gradient(*arguments)
    product = problem.network.curvature(*arguments)(v)
    for t in range(T):
        own = {name: leaf(w[t]) for name, w in weights.items()}
        loss = problem.inner_loss(own, *problem.task(t))
        assert_close(losses[t], loss.detach(), **TOLERANCE)
        expected = torch.autograd.grad(loss, list(own.values()), create_graph=True)
        along = sum((g * v[n][t]).sum() for n, g in zip(own, expected, strict=True))
        bent = torch.autograd.grad(along, list(own.values()))
        for name, g, h in zip(own, expected, bent, strict=True):
            assert_close(gradient[name][t], g.detach(), msg=f"{name}: {{}}", **TOLERANCE)
            assert_close(product[name][t], h, msg=f"{name}: {{}}", **TOLERANCE)
    assert not any(g.requires_grad for g in [*gradient.values(), *product.values(), losses])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_classes_without_support_rows_are_left_out_of_the_inner_loss(kind):
    problem = Problem(MLPS["mlp-relu-None"], kind=kind)
    problem.y = nn.functional.one_hot(torch.tensor([[0, 2, 0, 2, 2]] * T), C).double()
    gradient, losses = problem.network.gradient(
        problem.network.start(problem.y), problem.x, problem.y, None
    )
    assert_close(
        losses[0], problem.inner_loss(problem.network.shared_start(problem.y), *problem.task(0))
    )
    assert_close(gradient["weight"][:, 1], torch.zeros_like(gradient["weight"][:, 1]))


# ---------------------------------------------------------------------------- choice


def test_layers_in_a_row_are_written_out_and_all_others_are_not():
    def kind(backbone, loss=cross_entropy):
        return type(task_network(backbone, None, n_features=4, loss=loss))

    assert kind(MLP(dropout=0.1).build((4,))) is MLPNetwork
    assert kind(nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.GELU())) is MLPNetwork
    assert kind(nn.Sequential(nn.Linear(4, 4), nn.GELU("tanh"))) is TaskNetwork
    assert kind(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))) is TaskNetwork
    assert kind(Conv4().build((784,))) is TaskNetwork
    assert kind(MLP().build((4,)), gaussian_nll) is TaskNetwork


def one_layer_twice():
    layer = nn.Linear(32, 32)
    return nn.Sequential(layer, nn.Tanh(), layer)


def one_weight_twice():
    first, second = nn.Linear(32, 32), nn.Linear(32, 32)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def hooked():
    network = nn.Sequential(nn.Linear(32, 8), nn.Tanh())
    network.register_forward_hook(lambda module, x, out: 2 * out)
    return network


@pytest.mark.parametrize("build", [one_layer_twice, one_weight_twice, hooked])
@pytest.mark.parametrize("n_tasks", [1, T])
def test_shared_weights_and_hooks_go_the_general_way_and_stay_in_their_module(build, n_tasks):
    problem = Problem(build())
    backbone, network = problem.network.backbone, problem.network
    assert type(network) is TaskNetwork
    before = {name: id(p) for name, p in backbone.named_parameters()}
    rates = network.rates(ALPHA, 2)
    state = network.descend(rates, problem.x[:n_tasks], problem.y[:n_tasks], None)
    assert {name: id(p) for name, p in backbone.named_parameters()} == before
    steps, _ = problem.reference(rates)
    for t in range(n_tasks):
        for name, w in steps[t][-1].items():
            assert_close(state[name][t], w, msg=f"{name}: {{}}", **TOLERANCE)


def test_an_activation_that_stands_in_two_places_works_in_both():
    act = nn.Tanh()
    problem = Problem(nn.Sequential(nn.Linear(32, 6), act, nn.Linear(6, 5), act))
    network = problem.network
    assert type(network) is MLPNetwork
    got = network.forward(network.start(problem.y), problem.x)[0]
    expected = problem.model(network.shared_start(problem.y), problem.x[0])
    assert_close(got, expected, **TOLERANCE)


def test_rows_that_are_flattened_late_go_the_general_way():
    backbone = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Flatten()).double()
    network = task_network(backbone, None, n_features=15, loss=cross_entropy)
    x, y = torch.randn(2, 3, 3, 4).double(), torch.eye(3).double().expand(2, 3, 3)
    state = network.descend(network.rates(ALPHA, 2), x, y, None)
    assert network.forward(state, x).shape == (2, 3, 3)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("n_tasks", [1, T])
def test_steps_that_move_nothing_are_steps(kind, n_tasks):
    network = kind(nn.Flatten(), None, n_features=32, loss=cross_entropy)
    x, y = torch.randn(n_tasks, S, 32), torch.eye(S).expand(n_tasks, S, S)
    steps = network.trajectory(network.rates(ALPHA, 2, []), x, y, None)
    assert [bool(w["weight"].any()) for w in steps] == [False] * 3


def test_a_gradient_of_query_rows_does_not_miss_what_low_rank_leaves_out():
    problem = Problem(MLPS["mlp-tanh-layer"])
    network, x_query = problem.network, leaf(problem.x_query)
    state = network.descend(network.rates(ALPHA, 2), problem.x, problem.y, None)
    assert "update" in state
    got = torch.autograd.grad(network.forward(state, x_query).square().sum(), x_query)[0]
    first = "backbone.layers.0.weight"
    moved = torch.bmm(state["update"].mT, state["rows"])
    weights = state | {first: network.shared_start(problem.y)[first] + moved}
    for t in range(T):
        outputs = problem.model({n: w[t] for n, w in weights.items()}, x_query[t])
        expected = torch.autograd.grad(outputs.square().sum(), x_query)[0][t]
        assert_close(got[t], expected, **TOLERANCE)


def test_convolutions_are_known_to_need_more_memory_than_their_weights():
    network = task_network(Conv4().build((784,)), None, n_features=64, loss=cross_entropy)
    largest = 4 * 64 * 28 * 28
    assert network.bytes_per_task(5, 75, 5) > 100 * largest


def test_wide_rows_are_kept_in_low_rank_and_narrow_ones_are_not():
    problem = Problem(MLPS["mlp-relu-None"])
    rates = problem.network.rates(ALPHA, 1)
    assert "update" in problem.network.descend(rates, problem.x, problem.y, None)
    many = torch.randn(T, 20, 32).double(), problem.y.repeat(1, 4, 1)
    assert "update" not in problem.network.descend(rates, *many, None)


def test_dropout_goes_the_general_way_in_training_only():
    problem = Problem(MLP(hidden_layer_sizes=(64,), dropout=0.5))
    start, x = problem.network.start(problem.y), problem.x_query
    torch.manual_seed(0)
    assert not torch.equal(*(problem.network.forward(start, x) for _ in range(2)))
    problem.network.backbone.eval()
    assert torch.equal(*(problem.network.forward(start, x) for _ in range(2)))


def test_autocast_leaves_the_inner_loop_in_full_precision():
    problem = Problem(MLP(hidden_layer_sizes=(8,), norm="layer"))
    for module in (problem.network.backbone, problem.network.head):
        module.float()
    x, y = problem.x.float(), problem.y.float()
    rates = problem.network.rates(ALPHA, 2)

    def gradients():
        state = problem.network.descend(rates, x, y, None)
        loss = problem.network.forward(state, problem.x_query.float()).square().mean()
        return torch.autograd.grad(loss, problem.parameters)

    expected = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients()
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_have_weights_of_their_own(copied):
    problem = Problem(MLPS["mlp-relu-layer"])
    start = problem.network.start(problem.y)
    before = problem.network.forward(start, problem.x_query)
    other = copied(problem.network)
    for p in other.backbone.parameters():
        p.data.zero_()
    assert torch.equal(problem.network.forward(start, problem.x_query), before)


# ---------------------------------------------------------------------------- bad layers


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(32), nn.InstanceNorm1d(32, track_running_stats=True)]
)
def test_layers_with_running_statistics_are_refused_by_name(layer):
    backbone = nn.Sequential(nn.Linear(32, 32), layer)
    with pytest.raises(ValueError, match=r"layer '1' \((Batch|Instance)Norm1d\).*GroupNorm"):
        task_network(backbone, None, n_features=32, loss=cross_entropy)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n_seen", torch.zeros(()))

    def forward(self, x):
        self.n_seen += len(x)
        return x


def test_a_layer_that_writes_to_a_buffer_is_refused_by_name():
    backbone = nn.Sequential(nn.Linear(32, 4), nn.Sequential(Counts()))
    with pytest.raises(ValueError, match=r"layer '1.0' \(Counts\).*buffer 'n_seen'"):
        refuse_written_buffers(backbone, (32,))
    assert backbone[1][0].n_seen == 0
    refuse_written_buffers(nn.Linear(32, 4), (32,))
