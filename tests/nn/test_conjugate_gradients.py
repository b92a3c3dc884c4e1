"""Conjugate gradients against dense solves, and where they must stop."""

import pytest
import torch
from torch.testing import assert_close

from fewshot_sklearn.nn.conjugate_gradients import conjugate_gradients


def systems(n_tasks=3, smallest=0.5, seed=0):
    """Return symmetric matrices with known eigenvalues, and right-hand sides."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n_tasks, 6, 6, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(noise)[0]
    values = torch.linspace(smallest, 4.0, 6, dtype=torch.float64)
    b = torch.randn(n_tasks, 6, generator=generator, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.mT, b


def as_weights(flat):
    return {"matrix": flat[:, :4].unflatten(1, (2, 2)), "vector": flat[:, 4:]}


def as_vector(weights):
    return torch.cat([weights["matrix"].flatten(1), weights["vector"]], dim=1)


def solve(A, b, n_steps):
    def product(v):
        return as_weights((A @ as_vector(v).unsqueeze(-1)).squeeze(-1))

    return as_vector(conjugate_gradients(product, as_weights(b), n_steps))


def test_as_many_steps_as_unknowns_solve_the_system():
    A, b = systems()
    assert_close(solve(A, b, 6), torch.linalg.solve(A, b), rtol=1e-10, atol=1e-10)


def test_no_step_leaves_the_right_hand_side():
    A, b = systems()
    assert_close(solve(A, b, 0), b, rtol=0, atol=0)


def test_every_step_comes_nearer_in_the_norm_of_the_matrix():
    A, b = systems()
    exact = torch.linalg.solve(A, b)
    errors = [((e := solve(A, b, n) - exact) * (A @ e[..., None])[..., 0]).sum() for n in range(6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < errors[0]


def test_a_batch_of_systems_is_its_systems_one_by_one():
    A, b = systems()
    A[1] = torch.eye(6)  # solved before the first step
    alone = [solve(A[t : t + 1], b[t : t + 1], 4) for t in range(3)]
    assert_close(solve(A, b, 4), torch.cat(alone), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_after_convergence_change_nothing(dtype):
    A, b = (part.to(dtype) for part in systems())
    assert_close(solve(A, b, 200), solve(A, b, 12), rtol=1e-4, atol=1e-5)
    assert_close(solve(torch.eye(6, dtype=dtype).expand(3, 6, 6), b, 5), b, rtol=0, atol=0)


def test_a_matrix_that_is_not_positive_definite_stops_its_task_alone():
    A, b = systems()
    expected = solve(A, b, 6)
    A = A.clone()
    A[1] = -A[1]
    got = solve(A, b, 6)
    assert_close(got[[0, 2]], expected[[0, 2]])
    assert_close(got[1], b[1], rtol=0, atol=0)
