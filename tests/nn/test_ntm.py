"""The neural Turing machine's cell against its equations in NumPy."""

import numpy as np
import pytest
import torch
from scipy.special import expit as sigmoid
from scipy.special import softmax

from fewshot_sklearn.nn import NTMCell
from tests.nn._numpy_cells import assert_the_cell_is, by_content, controller_of, weights_of

M, W, R = 7, 3, 2  # slots, their width, how far a head may move


def softplus(a):
    return np.log1p(np.exp(a))


class NumPyHead:
    """One head, from section 3.3 of Graves et al. (2014)."""

    def __init__(self, numbers, start, slots=M):
        self.numbers, self.w = numbers, softmax(start)

    def address(self, hidden, memory):
        """Return the weights, which become the last ones, and the further numbers."""
        weight, bias = self.numbers
        numbers = weight @ hidden + bias
        key, s, (strength, gate, power), self.more = np.split(numbers, np.cumsum([W, 2 * R + 1, 3]))
        s = softmax(s)
        w_c = by_content(key, softplus(strength), memory)  # eq. 5
        w_g = sigmoid(gate) * w_c + (1 - sigmoid(gate)) * self.w  # eq. 7
        w_s = [sum(s[k + R] * w_g[(i - k) % M] for k in range(-R, R + 1)) for i in range(M)]
        power = np.array(w_s) ** (1 + softplus(power))
        self.w = power / power.sum()  # eq. 9
        return self.w


class NumPyNTM:
    def __init__(self, cell):
        w = weights_of(cell)
        self.controller = controller_of(cell)(w, prefix="controller.")
        self.memory = np.full((M, W), 1e-6)
        self.r = w["start"]
        self.readers, self.writers = (
            [
                NumPyHead(numbers, start)
                for *numbers, start in zip(
                    np.split(w[f"{kind}.interface.weight"], len(w[f"{kind}.start"])),
                    np.split(w[f"{kind}.interface.bias"], len(w[f"{kind}.start"])),
                    w[f"{kind}.start"],
                    strict=True,
                )
            ]
            for kind in ("read_heads", "write_heads")
        )

    def step(self, x):
        h = self.controller.step(x, self.r.ravel())
        before = self.memory
        weights = [head.address(h, before) for head in self.writers]
        erase = [sigmoid(head.more[:W]) for head in self.writers]
        add = [np.tanh(head.more[W:]) for head in self.writers]
        for w, e in zip(weights, erase, strict=True):
            self.memory = self.memory * (1 - np.outer(w, e))  # eq. 3
        for w, a in zip(weights, add, strict=True):
            self.memory = self.memory + np.outer(w, a)  # eq. 4
        self.r = np.array([head.address(h, self.memory) @ self.memory for head in self.readers])
        self.w_r = np.array([head.w for head in self.readers])
        self.w_w = np.array(weights)
        return np.concatenate([h, self.r.ravel()])


def make_cell(**options):
    torch.manual_seed(0)
    sizes = {"n_hidden": 5, "n_slots": M, "slot_size": W, "shift_range": R}
    cell = NTMCell(4, **sizes, **options).double()
    with torch.no_grad():
        for name, p in cell.named_parameters():
            if name.endswith("start"):
                p.normal_()
            elif "interface" in name:
                p *= 3
    return cell


@pytest.fixture(autouse=True)
def _own_generator():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize(("n_read_heads", "n_write_heads"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("controller", ["lstm", "feedforward"])
def test_a_sequence_is_the_papers_equations(n_read_heads, n_write_heads, controller):
    cell = make_cell(n_read_heads=n_read_heads, n_write_heads=n_write_heads, controller=controller)
    names = {"memory": "memory", "reads": "r", "read_weights": "w_r", "write_weights": "w_w"}
    state = assert_the_cell_is(cell, NumPyNTM, n_steps=8, n_inputs=4, names=names)
    for kind in ("read_weights", "write_weights"):
        torch.testing.assert_close(state[kind].sum(-1), torch.ones_like(state[kind][..., 0]))


def test_heads_begin_at_the_first_slot():
    state = NTMCell(4, n_hidden=5, n_slots=9, slot_size=W).initial_state(torch.zeros(2, 4))
    for kind in ("read_weights", "write_weights"):
        assert state[kind].shape == (2, 1, 9)
        assert (state[kind][..., 0] > 0.9).all()


def test_what_needs_no_state_can_be_taken_for_all_rows():
    cell = make_cell()
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    state = cell.initial_state(x[0])
    for row, projected in zip(x, cell.project(x), strict=True):
        expected, after = cell(row, state)
        output, state = cell.step(projected, state)
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(state["memory"], after["memory"])


@pytest.mark.parametrize("controller", ["lstm", "feedforward"])
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(controller):
    cell = NTMCell(4, n_hidden=5, n_slots=M, slot_size=W, controller=controller)
    x = torch.randn(4, 2, 4)
    state = cell.initial_state(x[0])
    for row in x:
        output, state = cell(row, state)
    output.square().sum().backward()
    for name, p in cell.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name
        assert p.grad.abs().max() < 1e3, name


def test_the_gradient_of_a_sequence_is_right():
    cell = make_cell(n_read_heads=2)
    x = torch.randn(3, 1, 4, dtype=torch.float64, requires_grad=True)

    def outputs(x):
        state, result = cell.initial_state(x[0]), []
        for row in x:
            output, state = cell(row, state)
            result.append(output)
        return torch.stack(result)

    assert torch.autograd.gradcheck(outputs, (x,))


def test_a_head_that_moves_further_than_half_around_is_refused():
    with pytest.raises(ValueError, match="shift_range=3 must be less than half of n_slots=6"):
        NTMCell(4, n_hidden=5, n_slots=6, slot_size=W, shift_range=3)
