"""Memory networks' building blocks against NumPy written from Sukhbaatar et al. (2015)."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch.testing import assert_close

from fewshot_sklearn.nn import ages, attend, encode_sentences, memory_hops, noisy_ages

N, Q, M, D = 3, 4, 5, 6


def numpy_hops(u, memories, mask, linear, H=None):
    """Eqs. 1 to 4 for one memory, query by query."""
    H = np.eye(u.shape[1]) if H is None else H
    read, attention = [], []
    for query in u:
        state, of_hops = query, []
        for m, c in memories:
            scores = np.array([state @ m_i for m_i in m])
            p = np.zeros(len(m))
            p[mask] = scores[mask] if linear else softmax(scores[mask])
            state = H @ state + sum(p_i * c_i for p_i, c_i in zip(p, c, strict=True))
            of_hops.append(p)
        read.append(state)
        attention.append(of_hops)
    return np.array(read), np.array(attention).swapaxes(0, 1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("n_hops", [1, 3])
@pytest.mark.parametrize("with_carry", [False, True])
def test_hops_are_those_of_the_paper(rng, n_hops, linear, with_carry):
    u = rng.normal(size=(N, Q, D))
    memories = [(rng.normal(size=(N, M, D)), rng.normal(size=(N, M, D))) for _ in range(n_hops)]
    mask = rng.random((N, M)) < 0.6
    mask[:, 0] = True
    H = rng.normal(size=(D, D)) if with_carry else None
    got, attention = memory_hops(
        torch.from_numpy(u),
        [(torch.from_numpy(m), torch.from_numpy(c)) for m, c in memories],
        torch.from_numpy(mask),
        linear=linear,
        carry=None if H is None else lambda state: state @ torch.from_numpy(H).T,
    )
    for t in range(N):
        of_memory = [(m[t], c[t]) for m, c in memories]
        expected, weights = numpy_hops(u[t], of_memory, mask[t], linear, H)
        np.testing.assert_allclose(got[t], expected, rtol=1e-10)
        for hop in range(n_hops):
            np.testing.assert_allclose(attention[hop][t], weights[hop], rtol=1e-10)


@pytest.mark.parametrize("linear", [False, True])
def test_a_memory_without_items_reads_as_zero_and_has_a_gradient(linear):
    u, m = torch.randn(1, Q, D, requires_grad=True), torch.randn(1, M, D)
    o, p = attend(u, m, m, torch.zeros(1, M, dtype=torch.bool), linear=linear)
    assert not o.any()
    assert not p.any()
    o.sum().backward()
    assert torch.isfinite(u.grad).all()


def test_position_encoding_is_the_formula_of_the_paper(rng):
    """l_kj = (1 - j / J) - (k / d) (1 - 2 j / J), with j and k counted from one."""
    x = rng.integers(1, 9, size=(N, M, 7))
    x[0, 0, 3:] = x[1, 2, 1:] = 0
    x[2, 1] = 0  # a sentence without words
    words = rng.normal(size=(9, 2, D))
    got = encode_sentences(torch.from_numpy(x), torch.from_numpy(words))
    assert got.shape == (N, M, 2, D)
    for n, i, r in np.ndindex(N, M, 2):
        sentence = x[n, i][x[n, i] > 0]
        J = len(sentence)
        expected = np.zeros(D)
        for j, word in enumerate(sentence, start=1):
            for k in range(1, D + 1):
                weight = (1 - j / J) - (k / D) * (1 - 2 * j / J)
                expected[k - 1] += weight * words[word, r, k - 1]
        np.testing.assert_allclose(got[n, i, r], expected, atol=1e-12)


def test_a_bag_of_words_is_their_sum(rng):
    x = torch.from_numpy(rng.integers(0, 9, size=(N, M, 7)))
    words = torch.randn(9, 2, D, dtype=torch.float64)
    expected = (words[x] * (x > 0)[..., None, None]).sum(dim=2)
    assert_close(encode_sentences(x, words, position_encoding=False), expected)


def test_word_zero_is_no_word_and_gets_no_gradient():
    words = torch.randn(9, 1, D, requires_grad=True)
    encode_sentences(torch.tensor([[3, 0, 0], [0, 0, 0]]), words).square().sum().backward()
    assert torch.isfinite(words.grad).all()
    assert words.grad.flatten(1).any(dim=1).nonzero().tolist() == [[3]]


def test_ages_count_the_newer_items():
    mask = torch.tensor([[False, True, True, True], [True, False, True, False]])
    got = ages(mask)
    assert got[mask].tolist() == [2, 1, 0, 1, 0]


def test_noise_keeps_the_order_and_puts_empty_items_between():
    torch.manual_seed(0)
    mask = torch.tensor([[False] * 5 + [True] * 25, [True] * 10 + [False] * 20])
    draws = torch.stack([noisy_ages(mask, 0.1) for _ in range(300)])
    first, second = draws[:, 0, 5:], draws[:, 1, :10]
    assert (first.diff(dim=-1) < 0).all()
    assert (second.diff(dim=-1) < 0).all()
    # ceil(0.1 n) empty items at most, every number of them as likely.
    assert first.max() == 24 + 3
    assert second.max() == 9 + 1
    assert first.min() == second.min() == 0
    assert abs((second[:, 0] - 9).double().mean() - 0.5 * 10 / 11) < 0.1


def test_no_noise_gives_the_ages():
    mask = torch.rand(N, M) < 0.7
    assert_close(noisy_ages(mask, 0.0)[mask], ages(mask)[mask])
