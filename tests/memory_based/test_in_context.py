"""In-context learners: attention as torch and NumPy have it, and what must mean nothing."""

import time

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import rankdata
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import InContextClassifier, InContextRegressor, load
from fewshot_sklearn.datasets import make_prior_tasks
from fewshot_sklearn.memory_based import _in_context
from fewshot_sklearn.memory_based._in_context import (
    InContextClassifierLearner,
    InContextRegressorLearner,
)
from fewshot_sklearn.nn import TableBlock, alike_tables, describe_columns, functional, place_cells
from fewshot_sklearn.nn.table_attention import RowAttention, RowToken, attend, padding_bias
from fewshot_sklearn.tasks._batch import TaskBatch

T, S, Q, C, J, D, HEADS = 2, 7, 4, 3, 5, 8, 2
LEARNERS = [InContextClassifierLearner, InContextRegressorLearner]
ESTIMATORS = [InContextClassifier, InContextRegressor]
both = pytest.mark.parametrize("make", LEARNERS)
both_estimators = pytest.mark.parametrize("estimator", ESTIMATORS)


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def made(module, *args, **kwargs):
    """Return a module in float64, none of whose parameters is zero or symmetric."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = module(*args, **kwargs).double()
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.2 * torch.randn_like(p))
    return module


def make_batch(make):
    x = draw(T, S + Q, J)
    y = draw(T, S + Q, 2, seed=1)
    if make is InContextClassifierLearner:
        y = torch.eye(C, dtype=torch.float64)[torch.arange(S + Q) % C].expand(T, -1, -1)
    return TaskBatch(x[:, :S], y[:, :S], x[:, S:], y[:, S:])


def outputs(learner, batch, x_query=None):
    state = learner.adapt(batch.x_support, batch.y_support, batch.support_mask)
    return learner.predict(state, batch.x_query if x_query is None else x_query)


# ---------------------------------------------------------------------------- attention


def reference(layer, n_heads=HEADS):
    """Return torch's attention with the weights of one of ours."""
    size = layer.out.out_features
    theirs = nn.MultiheadAttention(size, n_heads, batch_first=True).double()
    parts = (layer.query, layer.key, layer.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(layer.out.state_dict())
    return theirs


def test_attention_within_columns_is_that_of_torch():
    layer, h = made(RowAttention, D, HEADS, tied=False), draw(T, J, S, D)
    mask = torch.arange(S) < torch.tensor([[S], [3]])
    relation = draw(T, S, S, seed=2)
    got, _ = layer(h, torch.ones(T, J, dtype=torch.bool), padding_bias(mask, h), None, relation)
    z = layer.norm(h).flatten(0, 1)
    bias = layer.likeness[:, None, None] * relation[:, None]
    bias = bias.masked_fill(~mask[:, None, None], -torch.inf)
    bias = bias.repeat_interleave(J, dim=0).flatten(0, 1)
    expected, _ = reference(layer)(z, z, z, attn_mask=bias, need_weights=False)
    assert_close(got, h + expected.unflatten(0, (T, J)))


def test_attention_of_queries_to_a_memory_is_that_of_torch():
    layer, h, queries = made(RowAttention, D, HEADS, tied=False), draw(T, J, S, D), draw(T, J, Q, D)
    present = torch.ones(T, J, dtype=torch.bool)
    _, memory = layer(h, present, None)
    got, _ = layer(queries, present, None, memory)
    z, q = (layer.norm(part).flatten(0, 1) for part in (h, queries))
    expected, _ = reference(layer)(q, z, z, need_weights=False)
    assert_close(got, queries + expected.unflatten(0, (T, J)))


def test_tied_attention_is_its_equation_in_numpy():
    layer, h = made(RowAttention, D, HEADS, tied=True), draw(T, J, S, D)
    relation = draw(T, S, S, seed=2)
    present = torch.tensor([[True] * J, [True, True, False, True, False]])
    got, _ = layer(h, present, None, None, relation)
    z = layer.norm(h).detach().numpy()
    w = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    q, k, v = (z @ w[f"{name}.weight"].T for name in ("query", "key", "value"))
    width = D // HEADS
    for t in range(T):
        columns = np.flatnonzero(present[t])
        read = np.zeros((J, S, D))
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            scores = sum(q[t, j, :, part] @ k[t, j, :, part].T for j in columns)
            scores = scores / np.sqrt(width * len(columns))
            scores += w["likeness"][head] * relation[t].numpy()
            a = np.exp(scores - logsumexp(scores, axis=1, keepdims=True))
            read[:, :, part] = a @ v[t, :, :, part]
        expected = h[t].numpy() + read @ w["out.weight"].T + w["out.bias"]
        np.testing.assert_allclose(got[t].detach().numpy(), expected, rtol=1e-9)


def test_the_token_of_a_row_attends_as_torch_has_it():
    layer, h = made(RowToken, D, HEADS), draw(T, J, S, D)
    present = torch.tensor([[True] * J, [True, True, False, True, False]])
    got = layer(h, present)
    z = layer.norm(h).transpose(1, 2).flatten(0, 1)
    absent = (~present).repeat_interleave(S, dim=0)
    expected, _ = reference(layer)(z[:, :1], z, z, key_padding_mask=absent, need_weights=False)
    assert_close(got[:, 0], h[:, 0] + expected.squeeze(1).unflatten(0, (T, S)))
    assert torch.equal(got[:, 1:], h[:, 1:])


def test_attention_in_pieces_is_attention_at_once(monkeypatch):
    q, k, v, bias = draw(T, S, D), draw(T, Q, D), draw(T, Q, D, seed=1), draw(T, S, Q, seed=2)
    for b in (None, bias, bias[:, :1]):
        expected = attend(q, k, v, b)
        with monkeypatch.context() as patch:
            patch.setattr(functional, "BLOCK_BYTES", 200)
            assert_close(attend(q, k, v, b), expected)


def test_queries_get_from_a_block_what_support_rows_would():
    """Without labels, a support row that asks as a query gets the same cells."""
    block, h = made(TableBlock, D, HEADS), draw(T, J, S, D)
    present = torch.ones(T, J, dtype=torch.bool)
    expected, memories = block(h, present, None)
    assert_close(block(h, present, None, memories)[0], expected)


# ---------------------------------------------------------------------------- cells


def test_cells_are_standard_scores_and_ranks():
    x, new = draw(1, 9, 2), draw(1, 4, 2, seed=1)
    x[0, 3, 0] = x[0, 5, 0] = new[0, 0, 0]
    places = place_cells(new, describe_columns(x, None))[0].numpy()
    for j in range(2):
        column = x[0, :, j].numpy()
        z = (new[0, :, j].numpy() - column.mean()) / column.std()
        np.testing.assert_allclose(places[j, :, 0], np.clip(z, -5, 5), rtol=1e-9)
        for value, rank in zip(new[0, :, j].numpy(), places[j, :, 1], strict=True):
            expected = ((column < value).mean() + (column <= value).mean()) - 1
            assert rank == pytest.approx(expected)


def test_the_ranks_of_support_rows_are_those_of_scipy():
    x = draw(1, 9, 1).round()
    ranks = place_cells(x, describe_columns(x, None))[0, 0, :, 1].numpy()
    np.testing.assert_allclose(ranks, (2 * rankdata(x[0, :, 0]) - 1) / 9 - 1, atol=1e-12)


def test_alike_tables_have_every_task_once_and_lose_no_row():
    x, y = draw(4, S, J), torch.eye(C, dtype=torch.float64)[torch.arange(S) % C].expand(4, -1, -1)
    x[1, :, 3:] = 0
    x[2, :, 1:] = 0
    mask = torch.arange(S) < torch.tensor([[S], [3], [5], [S]])
    x = x * mask[..., None]
    batch = TaskBatch(x, y, x[:, :2], y[:, :2], mask)
    parts = list(alike_tables(batch, 2))
    assert [len(part) for part in parts] == [2, 2]
    assert parts[0].x_support.shape == (2, 5, 3)
    sums = torch.cat([part.x_support.sum(dim=(1, 2)) for part in parts])
    assert_close(sums.sort().values, x.sum(dim=(1, 2)).sort().values)


# ---------------------------------------------------------------------------- learners


def test_classes_get_the_votes_of_their_rows():
    learner, batch = made(InContextClassifierLearner, D, 1, HEADS), make_batch(LEARNERS[0])
    state = learner.adapt(batch.x_support, batch.y_support, None)
    scores = learner._read_queries(batch.x_query, state)[1].detach().numpy()
    got = learner.predict(state, batch.x_query).detach().numpy()
    for k in range(C):
        rows = batch.y_support[0, :, k].numpy() == 1
        np.testing.assert_allclose(got[..., k], logsumexp(scores[..., rows], axis=-1), rtol=1e-9)


@both
def test_the_order_of_features_means_nothing(make):
    learner, batch = made(make, D, 2, HEADS), make_batch(make)
    order = torch.tensor([3, 1, 4, 0, 2])
    other = TaskBatch(
        batch.x_support[..., order], batch.y_support, batch.x_query[..., order], batch.y_query
    )
    assert_close(outputs(learner, other), outputs(learner, batch))


@both
def test_the_order_of_support_rows_means_nothing(make):
    learner, batch = made(make, D, 2, HEADS), make_batch(make)
    order = torch.tensor([3, 1, 6, 4, 0, 2, 5])
    other = TaskBatch(
        batch.x_support[:, order], batch.y_support[:, order], batch.x_query, batch.y_query
    )
    assert_close(outputs(learner, other), outputs(learner, batch))


@both
def test_the_order_of_classes_or_targets_moves_along(make):
    learner, batch = made(make, D, 2, HEADS), make_batch(make)
    n = batch.y_support.shape[-1]
    order = torch.arange(n).roll(1)
    other = TaskBatch(
        batch.x_support, batch.y_support[..., order], batch.x_query, batch.y_query[..., order]
    )
    expected = outputs(learner, batch)
    if expected.shape[-1] > n:
        order = torch.cat([order, order + n])
    assert_close(outputs(learner, other), expected[..., order])


@both
def test_units_and_constant_features_mean_nothing(make):
    learner, batch = made(make, D, 2, HEADS), make_batch(make)
    scale, shift = draw(J, seed=3).abs() + 0.5, draw(J, seed=4)
    x, q = (part * scale + shift for part in (batch.x_support, batch.x_query))
    x, q = (torch.cat([part, torch.full_like(part[..., :2], 3.0)], dim=-1) for part in (x, q))
    other = TaskBatch(x, batch.y_support, q, batch.y_query)
    assert_close(outputs(learner, other), outputs(learner, batch))


def test_units_of_the_targets_are_those_of_the_predictions():
    learner, batch = made(InContextRegressorLearner, D, 2, HEADS), make_batch(LEARNERS[1])
    other = TaskBatch(batch.x_support, 3 * batch.y_support + 5, batch.x_query, batch.y_query)
    mean, std = outputs(learner, batch).chunk(2, dim=-1)
    assert_close(outputs(learner, other), torch.cat([3 * mean + 5, 3 * std], dim=-1))


@both
def test_queries_do_not_see_each_other(make, monkeypatch):
    learner, batch = made(make, D, 2, HEADS), make_batch(make)
    together = outputs(learner, batch)
    alone = [outputs(learner, batch, batch.x_query[:, q : q + 1]) for q in range(Q)]
    assert_close(torch.cat(alone, dim=1), together)
    monkeypatch.setattr(functional, "BLOCK_BYTES", 1)
    assert_close(outputs(learner, batch), together)


@both
def test_padding_rows_and_columns_mean_nothing(make):
    learner, batch = made(make, D, 2, HEADS), make_batch(make)
    mask = torch.arange(S) < torch.tensor([[S], [4]])
    x = torch.where(mask[..., None], batch.x_support, 99.0)
    x = torch.cat([x, torch.zeros_like(x[..., :2])], dim=-1)
    q = torch.cat([batch.x_query, torch.zeros_like(batch.x_query[..., :2])], dim=-1)
    padded = outputs(learner, TaskBatch(x, batch.y_support * mask[..., None], q, q, mask))[1:]
    short = TaskBatch(
        batch.x_support[1:, :4], batch.y_support[1:, :4], batch.x_query[1:], batch.y_query[1:]
    )
    assert_close(padded, outputs(learner, short))


@both
def test_the_meta_loss_of_parts_is_that_of_the_whole(make, monkeypatch):
    learner, batch = made(make, D, 1, HEADS), make_batch(make)
    whole = learner.meta_loss(batch)
    monkeypatch.setattr(_in_context, "_TABLES_AT_ONCE", 1)
    assert_close(learner.meta_loss(batch), whole)


# ---------------------------------------------------------------------------- estimators


@pytest.fixture(scope="module")
def fitted():
    """Estimators that were meta-fitted on tables of two to four features and two classes."""
    small = {"embedding_size": 8, "n_layers": 1, "max_iter": 5, "random_state": 0}
    ranges = {"n_features": (2, 4), "n_classes": 2, "n_support": (6, 12), "random_state": 0}
    return {
        cls: cls(**small).meta_fit(make_prior_tasks(100, kind=kind, **ranges))
        for cls, kind in zip(ESTIMATORS, ("classification", "regression"), strict=True)
    }


@both_estimators
@pytest.mark.parametrize("n_features", [1, 3, 30])
def test_a_task_may_have_any_number_of_features(fitted, estimator, n_features):
    task = make_prior_tasks(
        1, kind="classification", n_features=n_features, n_support=20, random_state=1
    )[0]
    y = task.y_support if estimator is InContextClassifier else task.X_support[:, 0]
    model = fitted[estimator].fit(task.X_support, y)
    assert model.n_features_in_ == n_features
    assert len(model.predict(task.X_query)) == 16
    with pytest.raises(ValueError, match=f"expecting {n_features} features"):
        model.predict(np.zeros((2, n_features + 1)))


def test_a_task_may_have_more_classes_than_any_before(fitted):
    rng = np.random.default_rng(0)
    y = np.repeat(list("abcdefghijkl"), 5)
    X = rng.normal(size=(60, 3)) + 5 * rng.normal(size=(12, 3)).repeat(5, axis=0)
    model = fitted[InContextClassifier].fit(X, y)
    assert model.predict_proba(X).shape == (60, 12)
    assert model.score(X, y) > 0.5


def test_rows_that_are_no_lists_of_features_are_refused(fitted):
    with pytest.raises(ValueError, match="flatten them"):
        fitted[InContextClassifier].fit(np.zeros((4, 2, 2)), [0, 0, 1, 1])


def test_heads_must_divide_the_embedding():
    tasks = make_prior_tasks(20, random_state=0)
    with pytest.raises(ValueError, match="n_heads must divide embedding_size=8, got n_heads=3"):
        InContextClassifier(embedding_size=8, n_heads=3).meta_fit(tasks)


def test_a_saved_model_takes_tables_of_other_widths(fitted, tmp_path):
    pytest.importorskip("safetensors")
    X, y = draw(20, 9).numpy(), np.arange(20) % 4
    model = fitted[InContextClassifier]
    model.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    np.testing.assert_allclose(
        loaded.fit(X, y).predict_proba(X), model.fit(X, y).predict_proba(X), rtol=1e-4, atol=1e-5
    )


def test_a_thousand_rows_are_read_in_seconds():
    model = InContextClassifier(max_iter=1, random_state=0)
    model.meta_fit(make_prior_tasks(20, random_state=0))
    X, y = draw(1000, 10).numpy(), np.arange(1000) % 5
    begin = time.process_time()
    model.fit(X, y)
    assert time.process_time() - begin < 6  # it takes one
