"""The memory-augmented network against its equations in NumPy, and its promises about order."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import MLP, EpisodicTasks, MANNClassifier, TaskList
from fewshot_sklearn.nn import IncrementalRecurrentLearner, LRUMemoryCell
from fewshot_sklearn.tasks._batch import TaskBatch

T, S, Q, C, FEATURES = 2, 6, 3, 3, 4
DECAY = 0.95


def make_learner(backbone=None, n_inputs=FEATURES):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cell = LRUMemoryCell(
            n_inputs + C, n_hidden=5, n_slots=7, slot_size=3, n_read_heads=2, usage_decay=DECAY
        )
        learner = IncrementalRecurrentLearner(backbone or nn.Flatten(), cell, C).double()
        with torch.no_grad():
            cell.gate.copy_(torch.tensor([[0.5], [-1.0]]))
    return learner


@pytest.fixture
def learner():
    return make_learner()


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(T, S + Q, FEATURES)))
    y = torch.eye(C, dtype=torch.float64)[torch.from_numpy(rng.integers(C, size=(T, S + Q)))]
    return TaskBatch(x[:, :S], y[:, :S], x[:, S:], y[:, S:])


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class NumPyMANN:
    """Santoro et al. (2016) for one sequence, written from the equations."""

    def __init__(self, learner):
        weights = {k: v.detach().numpy() for k, v in learner.state_dict().items()}
        self.w = {k.removeprefix("cell."): v for k, v in weights.items()}
        cell = learner.cell
        self.heads, self.slots, self.width = cell.n_read_heads, cell.n_slots, cell.slot_size
        self.h, self.c = np.zeros((2, cell.controller.n_outputs))
        self.M = np.zeros((self.slots, self.width))
        self.usage = np.zeros(self.slots)
        self.w_r = np.zeros((self.heads, self.slots))
        self.r = np.zeros((self.heads, self.width))

    def step(self, x, label):
        """Return the logits for a row that comes with the label of the row before."""
        w = self.w
        gates = w["controller.inputs.weight"] @ np.concatenate([x, label])
        gates += w["controller.inputs.bias"]
        gates += w["controller.recurrent.weight"] @ np.concatenate([self.h, self.r.ravel()])
        i, f, g, o = gates.reshape(4, -1)
        self.c = sigmoid(f) * self.c + sigmoid(i) * np.tanh(g)
        self.h = sigmoid(o) * np.tanh(self.c)
        keys = np.tanh(w["key.weight"] @ self.h + w["key.bias"]).reshape(self.heads, -1)
        # The least used slots of the step before, erased and then written to (eqs. 6 to 8).
        least = np.argsort(self.usage, kind="stable")[: self.heads]
        w_lu = np.zeros(self.slots)
        w_lu[least] = 1
        self.M[least] = 0
        w_w = sigmoid(w["gate"]) * self.w_r + (1 - sigmoid(w["gate"])) * w_lu
        self.M = self.M + w_w.T @ keys
        # The read (eqs. 2 to 4).
        for j, key in enumerate(keys):
            norms = np.linalg.norm(key) * np.linalg.norm(self.M, axis=1)
            self.w_r[j] = softmax(np.where(norms > 0, self.M @ key / np.where(norms, norms, 1), 0))
        self.r = self.w_r @ self.M
        self.usage = DECAY * self.usage + self.w_r.sum(axis=0) + w_w.sum(axis=0)  # eq. 5
        return w["output.weight"] @ np.concatenate([self.h, self.r.ravel()]) + w["output.bias"]

    def run(self, x, y, x_query):
        """Return the logits before every label, and of every query after the last one."""
        labels = np.concatenate([np.zeros((1, C)), y])
        support = [self.step(row, label) for row, label in zip(x, labels[:-1], strict=True)]
        queries = [copy.deepcopy(self).step(row, labels[-1]) for row in x_query]
        return np.array(support), np.array(queries)


def run(learner, batch):
    logits, state = learner.read_sequence(batch.x_support, batch.y_support, batch.support_mask)
    return logits, learner.predict(state, batch.x_query)


# ---------------------------------------------------------------------------- the equations


def test_a_whole_sequence_is_the_papers_equations(learner, batch):
    support, queries = (a.detach().numpy() for a in run(learner, batch))
    for t in range(T):
        x, y, x_query, _ = (
            a[t].numpy() for a in (batch.x_support, batch.y_support, batch.x_query, batch.y_query)
        )
        expected, expected_queries = NumPyMANN(learner).run(x, y, x_query)
        np.testing.assert_allclose(support[t], expected, rtol=1e-9)
        np.testing.assert_allclose(queries[t], expected_queries, rtol=1e-9)


def test_the_meta_loss_counts_every_presentation(learner, batch):
    """The support rows, each before its label was shown, and the queries weigh alike."""
    losses = []
    for t in range(T):
        x, y, x_query, y_query = (
            a[t].numpy() for a in (batch.x_support, batch.y_support, batch.x_query, batch.y_query)
        )
        logits = np.concatenate(NumPyMANN(learner).run(x, y, x_query))
        truth = np.concatenate([y, y_query])
        losses.append(-(truth * log_softmax(logits, axis=1)).sum(axis=1).mean())
    loss = learner.meta_loss(batch)
    np.testing.assert_allclose(loss.detach(), np.mean(losses), rtol=1e-9)


def test_the_meta_loss_of_ragged_tasks_counts_real_presentations(learner, batch):
    mask = torch.arange(S) < torch.tensor([[S], [2]])
    query_mask = torch.arange(Q) < torch.tensor([[1], [Q]])
    ragged = TaskBatch(
        torch.where(mask[..., None], batch.x_support, 99.0),
        batch.y_support * mask[..., None],
        torch.where(query_mask[..., None], batch.x_query, 99.0),
        batch.y_query * query_mask[..., None],
        mask,
        query_mask,
    )
    one_by_one = [
        learner.meta_loss(
            TaskBatch(
                batch.x_support[t : t + 1, mask[t]],
                batch.y_support[t : t + 1, mask[t]],
                batch.x_query[t : t + 1, query_mask[t]],
                batch.y_query[t : t + 1, query_mask[t]],
            )
        )
        for t in range(T)
    ]
    assert_close(learner.meta_loss(ragged), torch.stack(one_by_one).mean(), rtol=1e-10, atol=0)


def test_the_meta_loss_gives_no_probability_to_classes_that_a_task_lacks(learner, batch):
    keep = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    y = batch.y_support * keep
    y[..., 0] += batch.y_support[..., 2]
    y_query = batch.y_query * keep
    y_query[..., 0] += batch.y_query[..., 2]
    present = torch.tensor([[True, True, False]] * T)
    two_way = TaskBatch(batch.x_support, y, batch.x_query, y_query, class_mask=present)
    logits = torch.cat(run(learner, two_way), dim=1)[..., :2]
    truth = torch.cat([y, y_query], dim=1)[..., :2]
    expected = -(truth * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
    assert_close(learner.meta_loss(two_way), expected)


# ---------------------------------------------------------------------------- what sees what


@pytest.mark.parametrize("t", range(S))
def test_a_label_is_fed_one_step_late(learner, batch, t):
    """Changing the label of row t changes the outputs after step t only."""
    y = batch.y_support.clone()
    y[:, t] = y[:, t].roll(1, dims=-1)
    before, queries = run(learner, batch)
    after, changed_queries = run(
        learner, TaskBatch(batch.x_support, y, batch.x_query, batch.y_query)
    )
    assert torch.equal(before[:, : t + 1], after[:, : t + 1])
    assert (before[:, t + 1 :] != after[:, t + 1 :]).any(dim=-1).all()
    assert (queries != changed_queries).any(dim=-1).all()


@pytest.mark.parametrize("t", range(S))
def test_a_row_changes_nothing_before_its_own_step(learner, batch, t):
    x = batch.x_support.clone()
    x[:, t] += 1
    before, _ = run(learner, batch)
    after, _ = run(learner, TaskBatch(x, batch.y_support, batch.x_query, batch.y_query))
    assert torch.equal(before[:, :t], after[:, :t])
    assert (before[:, t:] != after[:, t:]).any(dim=-1).all()


def test_a_query_is_answered_as_the_next_row_of_the_sequence_would_be(learner, batch):
    _, queries = run(learner, batch)
    for q in range(Q):
        x = torch.cat([batch.x_support, batch.x_query[:, q : q + 1]], dim=1)
        y = torch.cat([batch.y_support, batch.y_query[:, q : q + 1]], dim=1)
        logits, _ = learner.read_sequence(x, y, None)
        assert_close(queries[:, q], logits[:, -1])


def test_queries_do_not_see_each_other(learner, batch):
    state = learner.adapt(batch.x_support, batch.y_support, None)
    together = learner.predict(state, batch.x_query)
    alone = [learner.predict(state, batch.x_query[:, q : q + 1]) for q in range(Q)]
    assert_close(together, torch.cat(alone, dim=1))
    assert_close(learner.predict(state, batch.x_query.flip(1)).flip(1), together)


def test_answering_queries_leaves_the_state_as_it_is(learner, batch):
    state = learner.adapt(batch.x_support, batch.y_support, None)
    before = {name: value.clone() for name, value in state.items()}
    learner.predict(state, batch.x_query)
    assert state.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in state.items())


def test_the_order_of_the_support_matters_and_is_kept(learner, batch):
    _, queries = run(learner, batch)
    flipped = TaskBatch(
        batch.x_support.flip(1), batch.y_support.flip(1), batch.x_query, batch.y_query
    )
    assert not torch.allclose(run(learner, flipped)[1], queries)


@pytest.mark.parametrize("length", [1, 3, S])
def test_a_masked_support_is_the_unpadded_one(learner, batch, length):
    mask = torch.arange(S) < torch.tensor([[S], [length]])
    x = torch.where(mask[..., None], batch.x_support, 99.0)
    state = learner.adapt(x, batch.y_support * mask[..., None], mask)
    short = learner.adapt(batch.x_support[1:, :length], batch.y_support[1:, :length], None)
    for name, value in short.items():
        assert_close(state[name][1:], value)
    full = learner.adapt(batch.x_support, batch.y_support, None)
    for name, value in full.items():
        assert_close(state[name][:1], value[:1])


@pytest.mark.parametrize("length", [1, 3, S - 1])
def test_reading_on_from_a_state_is_reading_the_whole_sequence(learner, batch, length):
    x, y = batch.x_support, batch.y_support
    expected, last = learner.read_sequence(x, y, None)
    before, state = learner.read_sequence(x[:, :length], y[:, :length], None)
    after, state = learner.read_sequence(x[:, length:], y[:, length:], None, state)
    assert_close(torch.cat([before, after], dim=1), expected)
    for name, value in last.items():
        assert_close(state[name], value)


def test_the_rows_of_all_steps_go_through_the_backbone(batch):
    backbone = MLP(hidden_layer_sizes=(4,), activation="tanh").build((FEATURES,)).double()
    learner = make_learner(backbone)
    plain = make_learner()
    z = [
        backbone(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        for x in (batch.x_support, batch.x_query)
    ]
    embedded = TaskBatch(z[0], batch.y_support, z[1], batch.y_query)
    for got, expected in zip(run(learner, batch), run(plain, embedded), strict=True):
        assert_close(got, expected)


def test_every_parameter_gets_a_finite_meta_gradient_that_is_not_zero(learner, batch):
    learner.meta_gradient(batch)
    for name, p in learner.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 1e-9, name


# ---------------------------------------------------------------------------- the estimator


@pytest.fixture(scope="module")
def blobs():
    """Return rows around twelve centres, and their numbers."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 10)
    return rng.normal(size=(12, 4))[y] * 2 + rng.normal(size=(120, 4)) / 2, y


@pytest.fixture(scope="module")
def tasks(blobs):
    return EpisodicTasks(*blobs, n_way=3, n_shot=2, n_query=2, n_tasks=20, random_state=0)


def small_mann(**params):
    sizes = {"n_hidden": 8, "n_slots": 6, "slot_size": 3, "n_read_heads": 2}
    return MANNClassifier(**{"max_iter": 2, "random_state": 0} | sizes | params)


def test_more_classes_than_meta_trained_are_refused_with_the_cure(tasks, blobs):
    X, y = blobs
    clf = small_mann().meta_fit(tasks)
    with pytest.raises(
        ValueError,
        match="has 4 classes, but the largest meta-training task had 3 and this method fixes",
    ):
        clf.fit(X[:40], y[:40])


def test_fewer_classes_than_meta_trained_get_probabilities_that_sum_to_one(tasks, blobs):
    X, y = blobs
    clf = small_mann().meta_fit(tasks).fit(X[:20], y[:20])
    np.testing.assert_array_equal(clf.classes_, [0, 1])
    probabilities = clf.predict_proba(X)
    assert probabilities.shape == (120, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_the_number_of_classes_is_the_largest_of_ragged_tasks(blobs):
    X, y = blobs
    ways = [(X[:n], y[:n], X[:n], y[:n]) for n in (20, 50, 30)]
    clf = small_mann().meta_fit(TaskList(ways, shared_classes=False))
    assert clf.fit(X[:50], y[:50]).predict_proba(X).shape == (120, 5)


def test_a_fitted_classifier_reads_the_support_in_its_order(tasks, blobs):
    """Its probabilities are those of the NumPy network with the meta-learned weights."""
    X, y = blobs
    rows = np.random.default_rng(0).permutation(30)[:12]
    clf = small_mann(precision="float64", usage_decay=DECAY).meta_fit(tasks)
    got = clf.fit(X[rows], y[rows]).predict_proba(X[:30])
    assert set(y[rows]) == {0, 1, 2}
    _, logits = NumPyMANN(clf._meta.learner).run(X[rows], np.eye(3)[y[rows]], X[:30])
    np.testing.assert_allclose(got, softmax(logits, axis=1), rtol=1e-8)


def test_without_a_backbone_rows_are_seen_as_they_are(tasks):
    learner = small_mann().meta_fit(tasks)._meta.learner
    assert not list(learner.backbone.parameters())
    assert learner.cell.controller.inputs.in_features == 4 + 3


def test_a_backbone_is_meta_trained_with_the_memory(tasks):
    clf = small_mann(backbone=MLP(hidden_layer_sizes=(5,))).meta_fit(tasks)
    assert clf._meta.learner.cell.controller.inputs.in_features == 5 + 3
    X, y, X_query, _ = tasks[0]
    assert clone(clf).fit(X, y).predict(X_query).shape == (6,)


def test_meta_training_beats_the_untrained_network(blobs):
    """Two-way episodes of classes that were not meta-trained, on twelve well-kept-apart blobs."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(60), 10)
    X = rng.normal(size=(60, 4))[y] * 3 + rng.normal(size=(600, 4)) / 3
    seen = y < 45
    options = {"n_way": 2, "n_shot": 3, "n_query": 3, "random_state": 0}
    train = EpisodicTasks(X[seen], y[seen], n_tasks=500, **options)
    test = EpisodicTasks(X[~seen], y[~seen], n_tasks=100, **options)

    def accuracy(max_iter, rate):
        clf = small_mann(
            n_hidden=32, n_slots=16, slot_size=8, max_iter=max_iter, meta_batch_size=16,
            meta_learning_rate=rate,
        ).meta_fit(train)  # fmt: skip
        predictions = clf.predict_tasks(test)
        return np.mean([(p == t.y_query).mean() for p, t in zip(predictions, test, strict=True)])

    assert accuracy(150, 1e-2) > accuracy(1, 1e-12) + 0.2
