"""The differentiable neural computer's cell against its equations in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit as sigmoid
from scipy.special import softmax

from fewshot_sklearn.nn import DNCCell
from fewshot_sklearn.nn.dnc import allocation_weights, linked_read_weights, next_links
from tests.nn._numpy_cells import assert_the_cell_is, by_content, controller_of, weights_of

M, W, H = 6, 3, 2  # slots, their width, read heads


def oneplus(a):
    return 1 + np.log1p(np.exp(a))


def allocation_by_loop(usage):
    free_list = sorted(range(len(usage)), key=lambda i: (max(usage[i], 1e-6), i))
    weights, product = np.zeros(len(usage)), 1.0
    for i in free_list:
        u = max(usage[i], 1e-6)
        weights[i] = (1 - u) * product
        product *= u
    return weights


class NumPyDNC:
    """One sequence, from the Methods of Graves et al. (2016)."""

    def __init__(self, cell):
        self.w = w = weights_of(cell)
        self.controller = controller_of(cell)(w, prefix="controller.")
        self.memory, self.L = np.zeros((M, W)), np.zeros((M, M))
        self.u, self.p = np.zeros((2, M))
        self.w_r, self.w_w, self.r = np.zeros((H, M)), np.zeros((1, M)), np.zeros((H, W))

    def step(self, x):
        h = self.controller.step(x, self.r.ravel())
        xi = self.w["interface.weight"] @ h + self.w["interface.bias"]
        sizes = [H * W, H, 3 * H, H, W, W, W, 1, 1, 1]
        keys, strengths, modes, free, key, add, erase, strength, g_a, g_w = np.split(
            xi, np.cumsum(sizes)[:-1]
        )
        keys, modes = keys.reshape(H, W), softmax(modes.reshape(H, 3), axis=1)
        # Usage and allocation.
        psi = np.ones(M)
        for f, w in zip(sigmoid(free), self.w_r, strict=True):
            psi *= 1 - f * w
        w_w = self.w_w[0]
        self.u = (self.u + w_w - self.u * w_w) * psi
        # Write.
        c = by_content(key, oneplus(strength), self.memory)
        w_w = sigmoid(g_w) * (sigmoid(g_a) * allocation_by_loop(self.u) + (1 - sigmoid(g_a)) * c)
        self.memory = self.memory * (1 - np.outer(w_w, sigmoid(erase))) + np.outer(w_w, add)
        # Temporal links.
        L = np.zeros((M, M))
        for i, j in np.ndindex(M, M):
            if i != j:
                L[i, j] = (1 - w_w[i] - w_w[j]) * self.L[i, j] + w_w[i] * self.p[j]
        self.L = L
        self.p = (1 - w_w.sum()) * self.p + w_w
        # Read.
        self.w_r = np.array(
            [
                pi[0] * L.T @ w + pi[1] * by_content(k, oneplus(b), self.memory) + pi[2] * L @ w
                for pi, w, k, b in zip(modes, self.w_r, keys, strengths, strict=True)
            ]
        )
        self.r, self.w_w = self.w_r @ self.memory, w_w[None]
        return np.concatenate([h, self.r.ravel()])


def make_cell(**options):
    torch.manual_seed(0)
    sizes = {"n_hidden": 5, "n_slots": M, "slot_size": W, "n_read_heads": H}
    cell = DNCCell(4, **sizes, **options).double()
    with torch.no_grad():
        for p in cell.interface.parameters():
            p *= 3
    return cell


@pytest.fixture(autouse=True)
def _own_generator():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("controller", ["lstm", "feedforward"])
def test_a_sequence_is_the_papers_equations(controller):
    names = {
        "memory": "memory", "usage": "u", "links": "L", "precedence": "p",
        "read_weights": "w_r", "write_weights": "w_w", "reads": "r",
    }  # fmt: skip
    cell = make_cell(controller=controller)
    assert_the_cell_is(cell, NumPyDNC, n_steps=10, n_inputs=4, names=names)


def test_weights_usage_and_links_stay_in_their_bounds():
    cell = make_cell()
    x = 3 * torch.randn(20, 2, 4, dtype=torch.float64)
    state = cell.initial_state(x[0])
    for row in x:
        _, state = cell(row, state)
        assert ((state["usage"] >= 0) & (state["usage"] <= 1)).all()
        for name in ("read_weights", "write_weights", "links"):
            assert (state[name] >= 0).all(), name
            assert (state[name].sum(-1) <= 1 + 1e-12).all(), name
        assert (state["links"].sum(-2) <= 1 + 1e-12).all()
        assert (state["precedence"].sum(-1) <= 1 + 1e-12).all()
        assert not state["links"].diagonal(dim1=-2, dim2=-1).any()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_allocation_takes_the_freest_slots_first(usage):
    usage = np.array([usage])
    weights = allocation_weights(torch.from_numpy(usage)).numpy()
    np.testing.assert_allclose(weights[0], allocation_by_loop(usage[0]), rtol=1e-12, atol=1e-300)
    assert weights.min() >= 0
    assert weights.sum() <= 1 + 1e-12


def test_a_free_slot_is_allocated_whole_and_a_full_memory_not_at_all():
    usage = torch.tensor([[1.0, 0.5, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    expected = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0] * 4])
    torch.testing.assert_close(allocation_weights(usage), expected, atol=1e-5, rtol=0)


def test_links_lead_from_what_was_written_to_what_was_written_next():
    links, precedence = torch.zeros(1, M, M), torch.zeros(1, M)
    written = torch.eye(M)[[4, 1, 3]]
    for slot in written:
        links = next_links(links, precedence, slot.unsqueeze(0))
        precedence = slot.unsqueeze(0)
    at_1, by_content = torch.eye(M)[1].view(1, 1, M), torch.full((1, 1, M), 1 / M)
    for mode, expected in ((0, torch.eye(M)[4]), (1, by_content[0, 0]), (2, torch.eye(M)[3])):
        modes = torch.eye(3)[mode].view(1, 1, 3)
        got = linked_read_weights(links, at_1, by_content, modes)
        torch.testing.assert_close(got[0, 0], expected)


@pytest.mark.parametrize("controller", ["lstm", "feedforward"])
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(controller):
    cell = make_cell(controller=controller).float()
    x = torch.randn(6, 2, 4)
    state = cell.initial_state(x[0])
    for row in x:
        output, state = cell(row, state)
    output.square().sum().backward()
    for name, p in cell.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name
        assert p.grad.abs().max() < 1e3, name


def test_the_gradient_of_a_sequence_is_right():
    """Compare with finite differences from a state without empty slots or tied usages."""
    cell = make_cell()
    x = torch.randn(3, 1, 4, dtype=torch.float64, requires_grad=True)
    rng = np.random.default_rng(0)
    start = cell.initial_state(x[0])
    start["memory"] = torch.from_numpy(rng.normal(size=(1, M, W)))
    start["usage"] = torch.from_numpy(rng.uniform(0.2, 0.8, size=(1, M)))

    def outputs(x):
        state, result = start, []
        for row in x:
            output, state = cell(row, state)
            result.append(output)
        return torch.stack(result)

    assert torch.autograd.gradcheck(outputs, (x,))
