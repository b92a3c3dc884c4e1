"""Reading the support rows in several orders."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn.nn import (
    IncrementalRecurrentLearner,
    LRUMemoryCell,
    RecurrentLearner,
    SequentialLearner,
)
from fewshot_sklearn.nn.functional import squared_error
from fewshot_sklearn.nn.sequential import mean_outputs, support_orders

T, S, Q, C, FEATURES, R = 2, 6, 3, 3, 4, 4


@pytest.fixture
def rows():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(T, S + Q, FEATURES, generator=g, dtype=torch.float64)
    y = torch.eye(C, dtype=torch.float64)[torch.arange(S + Q) % C].expand(T, -1, -1)
    return x[:, :S], y[:, :S], x[:, S:]


def make_learner(n_orders, cls=IncrementalRecurrentLearner, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cell = LRUMemoryCell(
            FEATURES + C, n_hidden=5, n_slots=7, slot_size=3, n_read_heads=2, usage_decay=0.9
        )
        return cls(nn.Flatten(), cell, C, n_orders=n_orders, **options).double()


def test_orders_are_permutations_of_which_the_first_is_the_given_one(rows):
    orders = support_orders(rows[1], None, R)
    assert_close(orders.sort(dim=-1).values, torch.arange(S).expand(T, R, S))
    assert torch.equal(orders[:, 0], torch.arange(S).expand(T, S))
    assert len({tuple(order) for order in orders[0].tolist()}) == R


def test_orders_of_many_rows_look_random():
    """In shuffles neighbours are a third of the length apart; 100 means vary by 1 per cent."""
    n = 1000
    orders = support_orders(torch.zeros(1, n, 1), None, 101)[0, 1:].double()
    assert abs(orders.diff(dim=1).abs().mean() / n - 1 / 3) < 0.01
    assert abs(orders[:, 0].mean() / n - 0.5) < 0.12


def test_orders_of_real_rows_do_not_depend_on_padding(rows):
    y = rows[1]
    mask = torch.tensor([[True] * S + [False] * 2, [True, False, True, True, False] + [False] * 3])
    orders = support_orders(torch.cat([y, y[:, :2]], dim=1), mask, R)
    assert torch.equal(orders[0, :, :S], support_orders(y[:1], None, R)[0])
    places = torch.tensor([0, 2, 3])
    assert torch.equal(orders[1, :, :3], places[support_orders(y[:1, :3], None, R)[0]])


def test_several_orders_average_the_probabilities_of_each(rows):
    x, y, x_query = rows
    one, several = make_learner(1), make_learner(R)
    orders = support_orders(y, None, R)[0]
    alone = [one.predict(one.adapt(x[:, o], y[:, o], None), x_query).softmax(-1) for o in orders]
    together = several.predict(several.adapt(x, y, None), x_query).softmax(-1)
    assert_close(together, torch.stack(alone).mean(0))
    assert not torch.allclose(together, alone[0])


def test_several_orders_average_the_values_of_regression(rows):
    x, y, x_query = rows
    options = {"cls": RecurrentLearner, "loss": squared_error, "average": mean_outputs}
    one, several = make_learner(1, **options), make_learner(R, **options)
    orders = support_orders(y, None, R)[0]
    alone = [one.predict(one.adapt(x[:, o], y[:, o], None), x_query) for o in orders]
    assert_close(several.predict(several.adapt(x, y, None), x_query), torch.stack(alone).mean(0))


def test_classes_without_support_rows_take_no_share_of_the_average(rows):
    x, y, x_query = rows
    present = y[..., -1] == 0
    x, y = x[present].unflatten(0, (T, -1)), y[present].unflatten(0, (T, -1))
    learner = make_learner(R)
    probabilities = learner.predict(learner.adapt(x, y, None), x_query).softmax(-1)
    assert_close(probabilities[..., :-1].sum(-1), torch.ones(T, Q, dtype=torch.float64))


def test_reading_on_in_several_orders_is_reading_all(rows):
    x, y, x_query = rows
    learner = make_learner(R)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    state = learner.update(learner.adapt(x[:, :3], y[:, :3], mask), x[:, 3:], y[:, 3:], None)
    expected = learner.adapt(x, y, torch.cat([mask, torch.ones_like(mask)], dim=1))
    assert_close(learner.predict(state, x_query), learner.predict(expected, x_query))


def test_a_subclass_writes_read_and_answer(rows):
    x, y, x_query = rows
    for call in (lambda s: s.adapt(x, y, None), lambda s: s.predict({}, x_query)):
        with pytest.raises(NotImplementedError):
            call(SequentialLearner())
