"""The least-recently-used memory against its equations, written in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot_sklearn.nn import LRUMemoryCell
from fewshot_sklearn.nn.memory import cosine_read, least_used, lru_write

N, M, W, H = 2, 7, 3, 2  # sequences, slots, their width, heads


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(a)) for a in arrays]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def softmax(a):
    e = np.exp(a - a.max())
    return e / e.sum()


def read_by_loop(memory, keys):
    """Equations 2 to 4 of Santoro et al. (2016), one head of one sequence at a time."""
    reads, weights = np.zeros((*keys.shape[:2], W)), np.zeros((*keys.shape[:2], len(memory[0])))
    for n, h in np.ndindex(keys.shape[:2]):
        norms = np.linalg.norm(keys[n, h]) * np.linalg.norm(memory[n], axis=1)
        similarity = np.divide(
            memory[n] @ keys[n, h], norms, out=np.zeros(len(norms)), where=norms > 0
        )
        weights[n, h] = softmax(similarity)
        reads[n, h] = weights[n, h] @ memory[n]
    return reads, weights


def marks_by_loop(usage, n):
    """Equation 6, with ties broken towards the first slots so that exactly n are marked."""
    marks = np.zeros_like(usage)
    for row, used in zip(marks, usage, strict=True):
        row[sorted(range(len(used)), key=lambda i: (used[i], i))[:n]] = 1
    return marks


def write_by_loop(memory, keys, gate, last_read, marks):
    """Equations 7 and 8: erase the least used slots, then add every head's key."""
    written, weights = memory.copy(), np.zeros_like(last_read)
    for n in range(len(memory)):
        written[n][marks[n] == 1] = 0
        for h in range(keys.shape[1]):
            share = sigmoid(gate[h, 0])
            weights[n, h] = share * last_read[n, h] + (1 - share) * marks[n]
            written[n] += np.outer(weights[n, h], keys[n, h])
    return written, weights


def lstm(cell, inputs, reads, hidden, state):
    """A long short-term memory step with the weights of an LSTMCell."""
    w_ih, b, w_hh = (p.detach().numpy() for p in cell.parameters())
    beside = np.concatenate([hidden, reads], axis=1)
    i, f, g, o = np.split(inputs @ w_ih.T + b + beside @ w_hh.T, 4, axis=1)
    state = sigmoid(f) * state + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(state), state


def step_by_loop(cell, x, state):
    """One step of the whole cell, in the paper's order: control, write, read, account."""
    hidden, cell_state = lstm(
        cell.controller,
        x,
        state["reads"].reshape(len(x), -1),
        state["hidden"][:, 0],
        state["cell"][:, 0],
    )
    w, b = (p.detach().numpy() for p in cell.key.parameters())
    keys = np.tanh(hidden @ w.T + b).reshape(len(x), cell.n_read_heads, cell.slot_size)
    marks = marks_by_loop(state["usage"], cell.n_read_heads)
    memory, write_weights = write_by_loop(
        state["memory"], keys, cell.gate.detach().numpy(), state["read_weights"], marks
    )
    reads, read_weights = read_by_loop(memory, keys)
    usage = cell.usage_decay * state["usage"] + read_weights.sum(1) + write_weights.sum(1)
    after = {
        "hidden": hidden[:, None],
        "cell": cell_state[:, None],
        "memory": memory,
        "usage": usage,
        "read_weights": read_weights,
        "write_weights": write_weights,
        "reads": reads,
    }
    return np.concatenate([hidden, reads.reshape(len(x), -1)], axis=1), after


@pytest.fixture
def cell():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cell = LRUMemoryCell(
            4, n_hidden=5, n_slots=M, slot_size=W, n_read_heads=H, usage_decay=0.9
        ).double()
        with torch.no_grad():
            cell.gate.copy_(torch.tensor([[0.7], [-1.2]]))
    return cell


def test_reading_is_a_softmax_of_cosines_over_the_slots():
    memory, keys = normal(N, M, W), normal(N, H, W, seed=1)
    memory[0, 2] = 0
    got = cosine_read(*tensors(memory, keys))
    for ours, reference in zip(got, read_by_loop(memory, keys), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-12)


def test_an_empty_memory_is_read_evenly_and_gives_zeros():
    reads, weights = cosine_read(torch.zeros(1, M, W), torch.ones(1, H, W))
    torch.testing.assert_close(weights, torch.full((1, H, M), 1 / M))
    assert torch.equal(reads, torch.zeros(1, H, W))


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), min_size=1, max_size=8),
    st.integers(1, 10),
)
def test_exactly_the_least_used_slots_are_marked(usage, n):
    usage = np.array([usage])
    marks = least_used(torch.from_numpy(usage), n).numpy()
    assert set(np.unique(marks)) <= {0.0, 1.0}
    assert marks.sum() == min(n, usage.shape[1])
    np.testing.assert_array_equal(marks, marks_by_loop(usage, n))
    if 0 < marks.sum() < usage.shape[1]:
        assert usage[marks == 1].max() <= usage[marks == 0].min()


def test_marking_gives_no_gradient_to_the_usage():
    usage = torch.rand(1, M, requires_grad=True, generator=torch.Generator().manual_seed(0))
    assert not least_used(usage, 2).requires_grad


def test_writing_erases_the_least_used_slots_and_adds_every_heads_key():
    memory, keys, gate = normal(N, M, W), normal(N, H, W, seed=1), normal(H, 1, seed=2)
    last_read = np.apply_along_axis(softmax, 2, normal(N, H, M, seed=3))
    marks = marks_by_loop(normal(N, M, seed=4) ** 2, H)
    arguments = (memory, keys, gate, last_read, marks)
    got = lru_write(*tensors(*arguments))
    for ours, reference in zip(got, write_by_loop(*arguments), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-12)


def test_a_closed_gate_writes_to_the_least_used_slots_only_and_an_open_one_where_it_read():
    memory, keys = torch.ones(1, 3, 1), torch.full((1, 1, 1), 5.0)
    last_read = torch.tensor([[[1.0, 0.0, 0.0]]])
    marks = torch.tensor([[0.0, 0.0, 1.0]])
    for gate, expected in ((-100.0, [1.0, 1.0, 5.0]), (100.0, [6.0, 1.0, 0.0])):
        written, _ = lru_write(memory, keys, torch.tensor([[gate]]), last_read, marks)
        torch.testing.assert_close(written.flatten(), torch.tensor(expected))


def test_the_initial_state_is_empty(cell):
    state = cell.initial_state(torch.zeros(N, 4))
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "hidden": (N, 1, 5),
        "cell": (N, 1, 5),
        "memory": (N, M, W),
        "usage": (N, M),
        "read_weights": (N, H, M),
        "write_weights": (N, H, M),
        "reads": (N, H, W),
    }
    assert not any(value.any() for value in state.values())


def test_steps_of_the_cell_are_the_papers_equations(cell):
    state = cell.initial_state(torch.zeros(N, 4, dtype=torch.float64))
    reference = {name: value.numpy() for name, value in state.items()}
    for t in range(2 * M):
        x = normal(N, 4, seed=t)
        output, state = cell(torch.from_numpy(x), state)
        expected, reference = step_by_loop(cell, x, reference)
        np.testing.assert_allclose(output.detach(), expected, rtol=1e-10, atol=1e-12)
        assert set(state) == set(reference)
        for name, value in reference.items():
            np.testing.assert_allclose(state[name].detach(), value, rtol=1e-10, atol=1e-12)
    assert cell.n_outputs == output.shape[1] == 5 + H * W


def test_sequences_do_not_see_each_other(cell):
    x = torch.from_numpy(normal(3, N, 4))

    def run(rows):
        state = cell.initial_state(rows[0])
        for row in rows:
            output, state = cell(row, state)
        return output

    torch.testing.assert_close(run(x)[:1], run(x[:, :1]))


def test_every_parameter_of_the_cell_gets_a_finite_gradient_that_is_not_zero(cell):
    state = cell.initial_state(torch.zeros(N, 4, dtype=torch.float64))
    for t in range(4):
        output, state = cell(torch.from_numpy(normal(N, 4, seed=t)), state)
    output.square().sum().backward()
    for name, p in cell.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 1e-8, name
        assert p.grad.abs().max() < 1e3, name


def test_the_gradient_of_a_sequence_is_right():
    """Compare with finite differences, where no slot is empty and no usage ties.

    The cosine with an empty slot has no derivative, and the choice of the least used slots jumps.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cell = LRUMemoryCell(
            2, n_hidden=3, n_slots=4, slot_size=2, n_read_heads=1, usage_decay=0.9
        ).double()
    state = cell.initial_state(torch.zeros(1, 2, dtype=torch.float64))
    state["memory"] = torch.from_numpy(normal(1, 4, 2))
    state["usage"] = torch.tensor([[0.3, 0.1, 0.9, 0.6]], dtype=torch.float64)
    x = torch.from_numpy(normal(3, 1, 2)).requires_grad_()

    def outputs(x):
        now, result = state, []
        for row in x:
            output, now = cell(row, now)
            result.append(output)
        return torch.stack(result)

    assert torch.autograd.gradcheck(outputs, (x,))
