"""What the recurrent cells have in common, in plain NumPy, for one sequence."""

import numpy as np
import torch
from scipy.special import expit as sigmoid
from scipy.special import softmax

from fewshot_sklearn.nn import FeedForwardCell, LSTMCell


def weights_of(cell):
    return {name: p.detach().numpy() for name, p in cell.state_dict().items()}


class NumPyLSTM:
    """A stack of LSTM layers with the weights of an LSTMCell."""

    def __init__(self, weights, n_layers=1, prefix=""):
        self.w = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        n_hidden = len(self.w["inputs.bias"]) // 4
        self.h, self.c = np.zeros((2, n_layers, n_hidden))

    def step(self, x, reads=()):
        for layer in range(len(self.h)):
            if layer == 0:
                gates = self.w["inputs.weight"] @ x + self.w["inputs.bias"]
                gates += self.w["recurrent.weight"] @ np.concatenate([self.h[0], reads])
            else:
                beside = np.concatenate([self.h[layer - 1], self.h[layer]])
                above = f"above.{layer - 1}"
                gates = self.w[f"{above}.weight"] @ beside + self.w[f"{above}.bias"]
            i, f, g, o = gates.reshape(4, -1)
            self.c[layer] = sigmoid(f) * self.c[layer] + sigmoid(i) * np.tanh(g)
            self.h[layer] = sigmoid(o) * np.tanh(self.c[layer])
        return self.h[-1]


class NumPyFeedForward:
    """A layer with the weights of a FeedForwardCell."""

    def __init__(self, weights, prefix=""):
        self.w = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}

    def step(self, x, reads):
        a = self.w["inputs.weight"] @ x + self.w["inputs.bias"] + self.w["recurrent.weight"] @ reads
        return np.tanh(a)


def controller_of(cell):
    """Return the class that a memory cell's controller is in NumPy."""
    return {LSTMCell: NumPyLSTM, FeedForwardCell: NumPyFeedForward}[type(cell.controller)]


def cosine(key, memory):
    """Return the cosines of a key with every slot, zero where a slot is."""
    norms = np.linalg.norm(key) * np.linalg.norm(memory, axis=1)
    return np.divide(memory @ key, norms, out=np.zeros(len(memory)), where=norms > 0)


def by_content(key, strength, memory):
    return softmax(strength * cosine(key, memory))


def assert_the_cell_is(cell, reference, *, n_steps, n_inputs, names):
    """Compare outputs and named states of two sequences with a NumPy class made for each."""
    x = np.random.default_rng(0).normal(size=(n_steps, 2, n_inputs))
    state = cell.initial_state(torch.zeros(2, 1, dtype=torch.float64))
    references = [reference(cell), reference(cell)]
    for rows in x:
        output, state = cell(torch.from_numpy(rows), state)
        for n, (one, row) in enumerate(zip(references, rows, strict=True)):
            np.testing.assert_allclose(output[n].detach(), one.step(row), rtol=1e-9)
            for name, attribute in names.items():
                np.testing.assert_allclose(
                    state[name][n].detach(), getattr(one, attribute), rtol=1e-9, atol=1e-14
                )
    assert output.shape == (2, cell.n_outputs)
    return state
