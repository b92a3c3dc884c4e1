"""Products with rows that are mostly zeros against plain ones."""

import pytest
import torch
from torch.testing import assert_close

from fewshot_sklearn.nn.row_product import SparseRows, row_product


def rows_and_weight(density, *, n_rows=7, width=600, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n_rows, width, generator=generator, dtype=dtype)
    x[torch.rand(n_rows, width, generator=generator) > density] = 0.0
    weight = torch.randn(5, width, generator=generator, dtype=dtype)
    return x, weight.requires_grad_()


@pytest.mark.parametrize("density", [0.0, 0.03, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_a_dense_product(density, dtype):
    x, weight = rows_and_weight(density, dtype=dtype)
    x[2] = 0.0
    assert (SparseRows.of(x) is None) == (density == 0.5)
    delta = torch.arange(35, dtype=dtype).view(7, 5)
    got, expected = row_product(x, weight), x @ weight.T
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    assert_close(got, expected, **tolerance)
    gradients = [torch.autograd.grad(out, weight, delta)[0] for out in (got, expected)]
    assert_close(*gradients, **tolerance)
    assert gradients[0].is_contiguous()


def test_transposing_twice_gives_the_same_rows():
    x, weight = rows_and_weight(0.05)
    sparse = SparseRows.of(x)
    assert_close(sparse.T.T @ weight.detach().T, x @ weight.detach().T)


def test_narrow_rows_and_full_ones_stay_dense():
    assert SparseRows.of(torch.zeros(4, 100)) is None
    assert SparseRows.of(torch.ones(4, 600)) is None
    assert SparseRows.of(torch.zeros(4, 600)) is not None


def test_autocast_does_not_round():
    x, weight = rows_and_weight(0.5, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = row_product(x, weight)
    assert got.dtype == torch.float32
    assert_close(got, x @ weight.T)
