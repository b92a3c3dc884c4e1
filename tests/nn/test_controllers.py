"""LSTM and feed-forward cells against NumPy."""

import numpy as np
import pytest
import torch

from fewshot_sklearn.nn.controllers import FeedForwardCell, LSTMCell
from tests.nn._numpy_cells import NumPyFeedForward, NumPyLSTM, assert_the_cell_is, weights_of


@pytest.mark.parametrize("n_layers", [1, 3])
def test_an_lstm_is_its_equations(n_layers):
    cell = LSTMCell(3, 5, n_layers=n_layers).double()
    assert_the_cell_is(
        cell,
        lambda c: NumPyLSTM(weights_of(c), n_layers),
        n_steps=6,
        n_inputs=3,
        names={"hidden": "h", "cell": "c"},
    )


def test_an_lstm_is_that_of_torch():
    cell, other = LSTMCell(3, 5).double(), torch.nn.LSTMCell(3, 5).double()
    with torch.no_grad():
        other.weight_ih.copy_(cell.inputs.weight)
        other.bias_ih.copy_(cell.inputs.bias)
        other.weight_hh.copy_(cell.recurrent.weight)
        other.bias_hh.zero_()
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    state, theirs = cell.initial_state(x[0]), None
    for row in x:
        output, state = cell(row, state)
        theirs = other(row, theirs)
        torch.testing.assert_close(output, theirs[0])
        torch.testing.assert_close(state["cell"][:, 0], theirs[1])


@pytest.mark.parametrize("cell", [LSTMCell(3, 5, n_reads=4), FeedForwardCell(3, 5, n_reads=4)])
def test_a_controller_is_its_equations(cell):
    cell = cell.double()
    make = NumPyLSTM if isinstance(cell, LSTMCell) else NumPyFeedForward
    reference = make(weights_of(cell))
    rng = np.random.default_rng(0)
    state = cell.initial_state(torch.zeros(1, 1, dtype=torch.float64))
    for _ in range(4):
        x, reads = rng.normal(size=3), rng.normal(size=4)
        projected = cell.project(torch.from_numpy(x[None]))
        output, state = cell.step(projected, state, torch.from_numpy(reads[None]))
        np.testing.assert_allclose(output[0].detach(), reference.step(x, reads), rtol=1e-9)


def test_forget_gates_begin_open():
    cell = LSTMCell(3, 5, n_layers=2)
    for layer in (cell.inputs, cell.above[0]):
        assert layer.bias.view(4, 5)[1].eq(1).all()
