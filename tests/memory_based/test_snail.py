"""SNAIL against its equations in NumPy, and its promises about what a query looks back at."""

import itertools

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.base import clone
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F
from torch.testing import assert_close

from fewshot_sklearn import MLP, EpisodicTasks, SNAILClassifier
from fewshot_sklearn.memory_based._snail import SNAILLearner
from fewshot_sklearn.nn import AttentionBlock, DenseBlock
from fewshot_sklearn.tasks._batch import TaskBatch

T, S, Q, C, FEATURES = 2, 6, 3, 3, 4
SIZES = ((3, 2), (4, 5))


def make_learner(sequence_length=S + 1, backbone=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SNAILLearner(
            backbone or nn.Flatten(),
            FEATURES,
            C,
            sizes=SIZES,
            n_filters=3,
            sequence_length=sequence_length,
            **options,
        ).double()


@pytest.fixture
def learner():
    return make_learner()


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(T, S + Q, FEATURES)))
    y = torch.eye(C, dtype=torch.float64)[torch.from_numpy(rng.integers(C, size=(T, S + Q)))]
    return TaskBatch(x[:, :S], y[:, :S], x[:, S:], y[:, S:])


def dense(h, weights, dilation):
    """Eq. of the dense block for one sequence [N, n], with zeros before it."""
    before = np.concatenate([np.zeros((dilation, h.shape[1])), h])[: len(h)]
    out = np.hstack([h, before]) @ weights["taps.weight"].T + weights["taps.bias"]
    n_filters = out.shape[1] // 2
    return np.hstack([h, np.tanh(out[:, :n_filters]) * expit(out[:, n_filters:])])


def attention(h, weights):
    """Eq. of the attention block for one sequence [N, n]."""
    queries = h @ weights["query.weight"].T + weights["query.bias"]
    keys = h @ weights["key.weight"].T
    values = h @ weights["value.weight"].T + weights["value.bias"]
    reads = [
        softmax(keys[: t + 1] @ queries[t] / np.sqrt(keys.shape[1])) @ values[: t + 1]
        for t in range(len(h))
    ]
    return np.hstack([h, reads])


def numpy_answer(learner, x, y, query, n_dilations):
    """Return the logits of a query, from the whole sequence with the query as its last element."""
    weights = {k: v.detach().numpy() for k, v in learner.state_dict().items()}
    numbers = itertools.count()

    def of_next_block():
        start = f"blocks.{next(numbers)}."
        return {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}

    h = np.hstack([np.vstack([x, query]), np.vstack([y, np.zeros(C)])])
    for i in range(len(SIZES)):
        for j in range(n_dilations if i else 0):
            h = dense(h, of_next_block(), 2**j)
        h = attention(h, of_next_block())
    return h[-1] @ weights["output.weight"].T + weights["output.bias"]


def expected_answers(learner, batch, n_dilations):
    parts = (batch.x_support, batch.y_support, batch.x_query)
    return np.array([
        [numpy_answer(learner, x, y, query, n_dilations) for query in queries]
        for x, y, queries in zip(*(part.numpy() for part in parts), strict=True)
    ])  # fmt: skip


def run(learner, batch):
    state = learner.adapt(batch.x_support, batch.y_support, batch.support_mask)
    return learner.predict(state, batch.x_query)


# ---------------------------------------------------------------------------- the equations


@pytest.mark.parametrize(
    ("sequence_length", "n_dilations"), [(2, 1), (4, 2), (5, 3), (7, 3), (8, 3), (9, 4), (33, 6)]
)
def test_a_query_is_the_last_element_of_the_papers_sequence(batch, sequence_length, n_dilations):
    """Also where the convolutions look back less far, or further, than the sequence is long."""
    learner = make_learner(sequence_length)
    assert len(learner.blocks) == n_dilations + len(SIZES)
    expected = expected_answers(learner, batch, n_dilations)
    np.testing.assert_allclose(run(learner, batch).detach(), expected, rtol=1e-9)


def test_a_whole_sequence_gives_at_its_end_what_a_query_is_answered(learner, batch):
    """``read`` of the blocks over rows and query together is the slow way to the same numbers."""
    expected = run(learner, batch)
    everything = torch.ones(T, dtype=torch.int64) * (S + 1)
    for q in range(Q):
        x = torch.cat([batch.x_support, batch.x_query[:, [q]]], dim=1)
        h = torch.cat([x, F.pad(batch.y_support, (0, 0, 0, 1))], dim=-1)
        for block in learner.blocks:
            nothing = torch.zeros(T, 0, dtype=torch.bool)
            h, _ = block.read(h, block.start(h), nothing, everything)
        assert_close(learner.output(h[:, -1]), expected[:, q])


@pytest.mark.parametrize("dilation", [1, 2, 4, 16])
def test_a_dense_block_is_a_dilated_convolution_of_torch(dilation):
    torch.manual_seed(0)
    block = DenseBlock(5, 3, dilation).double()
    h = torch.randn(T, 9, 5, dtype=torch.float64)
    got, _ = block.read(
        h, block.start(h), torch.zeros(T, 0, dtype=torch.bool), torch.tensor([9, 9])
    )
    now, then = block.taps.weight.chunk(2, dim=1)
    kernel = torch.stack([then, now], dim=-1)
    padded = F.pad(h.transpose(1, 2), (dilation, 0))
    f, g = F.conv1d(padded, kernel, block.taps.bias, dilation=dilation).chunk(2, dim=1)
    assert_close(got, torch.cat([h, (f.tanh() * g.sigmoid()).transpose(1, 2)], dim=-1))


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    block = AttentionBlock(5, 4, 3).double()
    h = torch.randn(T, 9, 5, dtype=torch.float64)
    got, _ = block.read(
        h, block.start(h), torch.zeros(T, 0, dtype=torch.bool), torch.tensor([9, 9])
    )
    read = F.scaled_dot_product_attention(
        block.query(h), block.key(h), block.value(h), is_causal=True
    )
    assert_close(got, torch.cat([h, read], dim=-1))


@pytest.mark.parametrize("changed", range(1, S))
def test_a_later_row_changes_no_earlier_output(learner, batch, changed):
    """Exactly, and it changes its own."""
    h = torch.cat([batch.x_support, batch.y_support], dim=-1)
    other = h.clone()
    other[:, changed] += 1
    n_new, nothing = torch.tensor([S, S]), torch.zeros(T, 0, dtype=torch.bool)
    for block in learner.blocks:
        h, _ = block.read(h, block.start(h), nothing, n_new)
        other, _ = block.read(other, block.start(other), nothing, n_new)
        assert_close(other[:, :changed], h[:, :changed], rtol=0, atol=0)
        assert not torch.equal(other[:, changed], h[:, changed])


def test_the_meta_loss_is_that_of_the_queries_alone(learner, batch):
    logits = torch.from_numpy(expected_answers(learner, batch, 3))
    expected = F.cross_entropy(logits.flatten(0, 1), batch.y_query.argmax(dim=-1).flatten())
    assert_close(learner.meta_loss(batch).detach(), expected)


def test_the_gradient_of_the_meta_loss_is_that_of_finite_differences(batch):
    learner = make_learner()
    names, weights = zip(*learner.named_parameters(), strict=True)

    def loss(*values):
        state = torch.func.functional_call(
            _MetaLoss(learner),
            {f"learner.{k}": v for k, v in zip(names, values, strict=True)},
            batch,
        )
        return state

    assert gradcheck(loss, weights)


class _MetaLoss(nn.Module):
    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def forward(self, batch):
        return self.learner.meta_loss(batch)


# ---------------------------------------------------------------------------- the past


@pytest.mark.parametrize("length", [1, 3, S])
def test_real_rows_may_stand_anywhere_in_a_padded_support(learner, batch, length):
    """The query then comes next to the last real row."""
    for seed in range(3):
        rows = torch.randperm(S, generator=torch.Generator().manual_seed(seed))[:length]
        mask = torch.ones(T, S, dtype=torch.bool)
        mask[1] = False
        mask[1, rows] = True
        x = torch.where(mask[..., None], batch.x_support, 99.0)
        padded = TaskBatch(
            x, batch.y_support * mask[..., None], batch.x_query, batch.y_query, support_mask=mask
        )
        alone = TaskBatch(
            batch.x_support[1:, mask[1]],
            batch.y_support[1:, mask[1]],
            batch.x_query[1:],
            batch.y_query[1:],
        )
        got = run(learner, padded)
        assert_close(got[1:], run(learner, alone))
        assert_close(got[:1], run(learner, batch)[:1])


@pytest.mark.parametrize("length", [1, 2, 5])
def test_reading_on_is_reading_the_whole_sequence(learner, batch, length):
    x, y = batch.x_support, batch.y_support
    whole = learner.adapt(x, y, None)
    state = learner.adapt(x[:, :length], y[:, :length], None)
    before = {name: value.clone() for name, value in state.items()}
    pieces = learner.update(state, x[:, length:], y[:, length:], None)
    assert whole.keys() == pieces.keys()
    for name, value in whole.items():
        assert_close(pieces[name], value)
    for name, value in before.items():
        assert_close(state[name], value, rtol=0, atol=0)


def test_reading_on_after_and_with_padding_is_reading_the_real_rows(learner, batch):
    x, y = batch.x_support, batch.y_support
    mask = torch.tensor([[True, False, True, True, False, True], [False, True] * 3])
    state = learner.adapt(x[:, :3], y[:, :3], mask[:, :3])
    state = learner.update(state, x[:, 3:], y[:, 3:], mask[:, 3:])
    got = learner.predict(state, batch.x_query)
    for t in range(T):
        alone = learner.adapt(x[t : t + 1, mask[t]], y[t : t + 1, mask[t]], None)
        assert_close(got[t : t + 1], learner.predict(alone, batch.x_query[t : t + 1]))


def test_the_state_holds_no_more_of_a_convolution_than_it_looks_back_at(learner, batch):
    state = learner.adapt(batch.x_support, batch.y_support, None)
    lengths = {name: value.shape[1] for name, value in state.items()}
    assert lengths == {
        "seen": S, "0_keys": S, "0_values": S, "1_rows": 1, "2_rows": 2, "3_rows": 4, "4_keys": S,
        "4_values": S,
    }  # fmt: skip


def test_the_order_of_the_support_matters_and_an_average_over_orders_is_one(batch):
    learner = make_learner()
    flipped = TaskBatch(
        batch.x_support.flip(1), batch.y_support.flip(1), batch.x_query, batch.y_query
    )
    assert not torch.allclose(run(learner, flipped), run(learner, batch))
    many = make_learner(n_orders=4)
    many.load_state_dict(learner.state_dict())
    from fewshot_sklearn.nn.sequential import support_orders

    orders = support_orders(batch.y_support, None, 4)
    each = [
        learner.predict(
            learner.adapt(
                batch.x_support.take_along_dim(order.unsqueeze(-1), dim=1),
                batch.y_support.take_along_dim(order.unsqueeze(-1), dim=1),
                None,
            ),
            batch.x_query,
        ).softmax(dim=-1)
        for order in orders.unbind(dim=1)
    ]
    assert_close(run(many, batch).softmax(dim=-1), torch.stack(each).mean(dim=0))


def test_queries_in_pieces_are_the_queries(learner, batch, monkeypatch):
    expected = run(learner, batch)
    monkeypatch.setattr("fewshot_sklearn.nn.functional.BLOCK_BYTES", 1)
    assert_close(run(learner, batch), expected)


# ---------------------------------------------------------------------------- the estimator


@pytest.fixture(scope="module")
def blobs():
    """Return rows around twelve centres, and their numbers."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 10)
    return rng.normal(size=(12, FEATURES))[y] * 2 + rng.normal(size=(120, FEATURES)) / 2, y


@pytest.fixture(scope="module")
def tasks(blobs):
    return EpisodicTasks(*blobs, n_way=3, n_shot=2, n_query=2, n_tasks=20, random_state=0)


def small_snail(**params):
    sizes = {"attention_sizes": SIZES, "n_filters": 3, "backbone": nn.Flatten()}
    return SNAILClassifier(**{"max_iter": 2, "random_state": 0} | sizes | params)


def test_a_fitted_classifier_reads_the_support_in_its_order(tasks, blobs):
    """Its probabilities are those of the NumPy network with the meta-learned weights."""
    X, y = blobs
    rows = np.random.default_rng(0).permutation(30)[:12]
    clf = small_snail(precision="float64").meta_fit(tasks)
    got = clf.fit(X[rows], y[rows]).predict_proba(X[:30])
    assert set(y[rows]) == {0, 1, 2}
    labels = np.eye(3)[y[rows]]
    logits = [numpy_answer(clf._meta.learner, X[rows], labels, query, 3) for query in X[:30]]
    np.testing.assert_allclose(got, softmax(logits, axis=1), rtol=1e-8)


def test_convolutions_look_back_over_the_largest_task(blobs):
    X, y = blobs
    for n_shot, n_dilations in ((1, 2), (2, 3), ((1, 5), 4)):
        episodes = EpisodicTasks(X, y, n_way=3, n_shot=n_shot, n_query=2, random_state=0)
        learner = small_snail().meta_fit(episodes)._meta.learner
        dilations = [block.dilation for block in learner.blocks if isinstance(block, DenseBlock)]
        assert dilations == [2**i for i in range(n_dilations)]
    learner = small_snail(sequence_length=20).meta_fit(episodes)._meta.learner
    assert len(learner.blocks) == 5 + len(SIZES)


def test_more_rows_than_meta_trained_are_read(tasks, blobs):
    X, y = blobs
    clf = small_snail().meta_fit(tasks)
    probabilities = clone(clf).fit(X[:30], y[:30]).predict_proba(X)
    assert probabilities.shape == (120, 3)
    assert not np.allclose(probabilities, clf.fit(X[1:30], y[1:30]).predict_proba(X))


def test_more_classes_than_meta_trained_are_refused_with_the_cure(tasks, blobs):
    X, y = blobs
    clf = small_snail().meta_fit(tasks)
    with pytest.raises(ValueError, match="the largest meta-training task had 3"):
        clf.fit(X[:40], y[:40])


@pytest.mark.parametrize(
    "sizes", [(), (3, 2), ((3, 2, 1),), ((3, 0),), ((3, 2.5),), ((True, 2),), [(3, 2), 4]]
)
def test_attention_sizes_that_are_no_pairs_are_refused(tasks, sizes):
    with pytest.raises(ValueError, match=r"attention_sizes must hold a pair"):
        small_snail(attention_sizes=sizes).meta_fit(tasks)


def test_a_backbone_is_meta_trained_with_the_sequence(tasks):
    clf = small_snail(backbone=MLP(hidden_layer_sizes=(5,))).meta_fit(tasks)
    first = clf._meta.learner.blocks[0]
    assert first.query.in_features == 5 + 3
