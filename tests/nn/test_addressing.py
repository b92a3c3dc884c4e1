"""Addressing of a memory: shifts, sharpening, erasing and adding."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from fewshot_sklearn.nn.addressing import (
    circular_shift,
    content_weights,
    erase_and_add,
    sharpen,
)
from fewshot_sklearn.nn.functional import pairwise_cosine

N, M, W, H = 2, 7, 3, 2


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_strength_divides_looking_everywhere_from_looking_at_the_most_alike():
    memory = normal(N, M, W)
    keys = memory[:, [2, 4]]
    even = content_weights(memory, keys, torch.zeros(N, H, dtype=torch.float64))
    torch.testing.assert_close(even, torch.full_like(even, 1 / M))
    sharp = content_weights(memory, keys, torch.full((N, H), 1e4, dtype=torch.float64))
    expected = torch.zeros_like(sharp)
    expected[:, 0, 2] = expected[:, 1, 4] = 1
    torch.testing.assert_close(sharp, expected)


@pytest.mark.parametrize("with_strengths", [False, True])
def test_the_written_out_gradient_by_content_is_that_of_the_formula(with_strengths):
    """Where a slot is zero its cosine is zero, and no gradient goes there."""
    memory, keys = normal(N, M, W), normal(N, H, W, seed=1)
    memory[0, 2] = 0
    inputs = [memory, keys, *([normal(N, H, seed=2).exp()] if with_strengths else [])]
    inputs = [a.requires_grad_() for a in inputs]
    direction = normal(N, H, M, seed=3)
    got = content_weights(*inputs)
    strengths = inputs[2].unsqueeze(-1) if with_strengths else 1
    expected = (strengths * pairwise_cosine(keys, memory)).softmax(dim=-1)
    torch.testing.assert_close(got, expected)
    for ours, theirs in zip(
        torch.autograd.grad((got * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        kept = (memory != 0) if ours.shape == memory.shape else torch.ones_like(ours)
        torch.testing.assert_close(ours, theirs * kept)


@pytest.mark.parametrize("shift", [-2, -1, 0, 1, 2])
def test_a_certain_shift_moves_a_one_around_the_slots(shift):
    weights = torch.eye(M).view(1, M, M)  # a head at every slot
    shifts = torch.eye(5)[shift + 2].expand(1, M, 5)
    assert torch.equal(circular_shift(weights, shifts), weights.roll(shift, dims=-1))


def test_a_shift_is_the_circular_convolution_of_the_paper():
    weights = normal(N, H, M).softmax(-1)
    shifts = normal(N, H, 3, seed=1).softmax(-1)
    s = np.zeros((N, H, M))
    s[..., [-1, 0, 1]] = shifts
    expected = np.array(
        [
            [[sum(w[j] * f[(i - j) % M] for j in range(M)) for i in range(M)] for w, f in heads]
            for heads in (
                [*zip(w, f, strict=True)] for w, f in zip(weights.numpy(), s, strict=True)
            )
        ]
    )
    got = circular_shift(weights, shifts)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    torch.testing.assert_close(got.sum(-1), torch.ones(N, H, dtype=torch.float64))


def test_sharpening_is_a_power():
    weights, gammas = normal(N, H, M).softmax(-1), torch.tensor([[1.0, 2.0], [3.5, 10.0]]).double()
    power = weights.numpy() ** gammas.numpy()[..., None]
    np.testing.assert_allclose(
        sharpen(weights, gammas), power / power.sum(-1, keepdims=True), rtol=1e-12
    )


def test_a_power_of_one_changes_nothing_and_a_huge_one_leaves_the_largest():
    weights = torch.from_numpy(softmax(np.arange(M) * 1.0)).expand(1, 1, M)
    one = torch.ones(1, 1, dtype=torch.float64)
    torch.testing.assert_close(sharpen(weights, one), weights)
    largest = torch.eye(M, dtype=torch.float64)[-1].view(1, 1, M)
    torch.testing.assert_close(sharpen(weights, 1e6 * one), largest)


def test_sharpening_of_a_single_place_has_a_gradient_that_is_finite():
    weights = torch.eye(M)[:1].unsqueeze(0).requires_grad_()
    sharpen(weights, torch.full((1, 1), 50.0)).square().sum().backward()
    assert torch.isfinite(weights.grad).all()


@pytest.mark.parametrize("n_heads", [1, 3])
def test_every_head_erases_then_every_head_adds(n_heads):
    memory, add = normal(N, M, W), normal(N, n_heads, W, seed=1)
    weights, erase = normal(N, n_heads, M, seed=2).softmax(-1), normal(N, n_heads, W, seed=3)
    erase = erase.sigmoid()
    expected = memory.numpy().copy()
    for n in range(N):
        for h in range(n_heads):
            expected[n] *= 1 - np.outer(weights[n, h], erase[n, h])
        for h in range(n_heads):
            expected[n] += np.outer(weights[n, h], add[n, h])
    np.testing.assert_allclose(erase_and_add(memory, weights, erase, add), expected, rtol=1e-12)


def test_a_sure_write_replaces_one_slot_and_leaves_the_others():
    memory, add = torch.ones(1, M, W), torch.full((1, 1, W), 5.0)
    weights = torch.eye(M)[2].view(1, 1, M)
    written = erase_and_add(memory, weights, torch.ones(1, 1, W), add)
    expected = memory.clone()
    expected[:, 2] = 5
    assert torch.equal(written, expected)
