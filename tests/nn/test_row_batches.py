"""Minibatches of many tasks at once: passes over the real rows of each."""

import pytest
import torch

from fewshot_sklearn.nn.row_batches import draw_row_batches


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def full(n_tasks, n_rows):
    return torch.ones(n_tasks, n_rows, dtype=torch.bool)


def test_a_pass_has_every_row_once_and_goes_on_in_the_next_batch():
    rows, drawn = draw_row_batches(full(5, 7), n_batches=7, batch_size=3)
    assert rows.shape == drawn.shape == (5, 7, 3)
    assert drawn.all()
    for task in rows.flatten(1):
        for one_pass in task.view(3, 7):
            assert sorted(one_pass.tolist()) == list(range(7))


def test_padding_rows_are_never_drawn():
    mask = torch.tensor([[False, True, True, False, True, True, True]])
    rows, drawn = draw_row_batches(mask, n_batches=20, batch_size=2)
    assert drawn.all()
    assert set(rows.flatten().tolist()) == {1, 2, 4, 5, 6}


def test_a_task_with_few_rows_has_each_of_them_once_in_every_batch():
    mask = torch.tensor([[True, False, True, False, True], [True] * 5])
    rows, drawn = draw_row_batches(mask, n_batches=4, batch_size=4)
    assert drawn[1].all()
    for k in range(4):
        assert sorted(rows[0, k][drawn[0, k]].tolist()) == [0, 2, 4]


def test_every_order_of_rows_is_about_as_likely():
    rows, _ = draw_row_batches(full(6000, 3), n_batches=1, batch_size=3)
    counts = torch.unique(rows[:, 0], dim=0, return_counts=True)[1]
    assert len(counts) == 6
    assert (counts - 1000).abs().max() < 150


def test_tasks_and_passes_have_orders_of_their_own():
    rows, _ = draw_row_batches(full(2, 50), n_batches=2, batch_size=50)
    orders = {tuple(order.tolist()) for order in rows.flatten(0, 1)}
    assert len(orders) == 4


def test_the_default_generator_decides():
    torch.manual_seed(3)
    first = draw_row_batches(full(2, 9), 3, 4)[0]
    torch.manual_seed(3)
    assert torch.equal(draw_row_batches(full(2, 9), 3, 4)[0], first)
