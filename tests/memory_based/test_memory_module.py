"""The memory module against its update rule, read-out and loss in NumPy, a row at a time."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import MLP, EpisodicTasks, MatchingNetClassifier, MemoryModuleClassifier
from fewshot_sklearn.memory_based._memory_module import EMPTY, MemoryModuleLearner
from fewshot_sklearn.tasks._batch import TaskBatch

T, S, Q, C, FEATURES, WIDTH = 2, 12, 4, 3, 5, 4
MARGIN, TEMPERATURE = 0.1, 0.05


def make_learner(**options):
    sizes = {"n_slots": None, "n_neighbors": 256, "temperature": TEMPERATURE, "margin": MARGIN}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MemoryModuleLearner(
            nn.Flatten(), n_features=FEATURES, key_size=WIDTH, n_orders=1, **sizes | options
        ).double()


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    codes = rng.integers(C, size=(T, S + Q))
    centres = rng.normal(size=(C, FEATURES))
    x = torch.from_numpy(centres[codes] + rng.normal(size=(T, S + Q, FEATURES)) * 0.8)
    y = torch.eye(C, dtype=torch.float64)[torch.from_numpy(codes)]
    return TaskBatch(x[:, :S], y[:, :S], x[:, S:], y[:, S:])


class NumPyMemory:
    """Kaiser et al. (2017), section 2, for one task: three lists that a loop reads and writes."""

    def __init__(self, learner, n_slots):
        self.W = learner.key.weight.detach().numpy()
        self.n_slots = n_slots
        self.K, self.V, self.A = [], [], []
        self.events = []

    def query(self, x):
        return self.W @ x / np.linalg.norm(self.W @ x)

    def loss(self, x, v):
        q = self.query(x)
        positive = max((q @ k for k, u in zip(self.K, self.V, strict=True) if u == v), default=0)
        negative = max((q @ k for k, u in zip(self.K, self.V, strict=True) if u != v), default=0)
        return max(negative - positive + MARGIN, 0)

    def write(self, x, v):
        q = self.query(x)
        nearest = int(np.argmax([q @ k for k in self.K])) if self.K else None
        self.A = [a + 1 for a in self.A]
        if nearest is not None and self.V[nearest] == v:
            merged = q + self.K[nearest]
            self.K[nearest], self.A[nearest] = merged / np.linalg.norm(merged), 0
            self.events.append("merged")
        elif len(self.K) < self.n_slots:
            self.K.append(q), self.V.append(v), self.A.append(0)
            self.events.append("new")
        else:
            oldest = int(np.argmax(self.A))
            self.K[oldest], self.V[oldest], self.A[oldest] = q, v, 0
            self.events.append("overwritten")

    def answer(self, x, n_neighbors):
        """Return the sum over each class of the confidences of the nearest keys."""
        d = np.array([self.query(x) @ k for k in self.K])
        n = np.argsort(-d)[:n_neighbors]
        confidence = softmax(d[n] / TEMPERATURE)
        return np.array([confidence[np.array(self.V)[n] == c].sum() for c in range(C)])

    def read_all(self, x, y):
        """Write all rows; return the loss of each before it was written."""
        losses = []
        for row, v in zip(x, y.argmax(axis=1), strict=True):
            losses.append(self.loss(row, v))
            self.write(row, v)
        return losses


def arrays(batch, t):
    return [a[t].numpy() for a in (batch.x_support, batch.y_support, batch.x_query, batch.y_query)]


# ---------------------------------------------------------------------------- the equations


@pytest.mark.parametrize("n_slots", [None, 3, 20])
def test_the_memory_is_that_of_the_papers_update_rule(batch, n_slots):
    learner, events = make_learner(n_slots=n_slots), set()
    state = learner.adapt(batch.x_support, batch.y_support, None)
    assert state["keys"].shape == (T, n_slots or S, WIDTH)
    for t in range(T):
        x, y, _, _ = arrays(batch, t)
        memory = NumPyMemory(learner, n_slots or S)
        memory.read_all(x, y)
        n = len(memory.K)
        np.testing.assert_allclose(state["keys"][t, :n].detach(), memory.K, rtol=1e-12)
        np.testing.assert_array_equal(state["values"][t, :n], memory.V)
        np.testing.assert_array_equal(state["ages"][t, :n], memory.A)
        assert (state["values"][t, n:] == EMPTY).all()
        events.update(memory.events)
    assert events == {"new", "merged"} | ({"overwritten"} if n_slots == 3 else set())


@pytest.mark.parametrize("n_neighbors", [1, 2, 256])
def test_the_answer_is_the_confidence_of_the_nearest_keys(batch, n_neighbors):
    learner = make_learner(n_neighbors=n_neighbors)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    got = learner.predict(state, batch.x_query).softmax(dim=-1).detach()
    for t in range(T):
        x, y, x_query, _ = arrays(batch, t)
        memory = NumPyMemory(learner, S)
        memory.read_all(x, y)
        expected = [memory.answer(row, n_neighbors) for row in x_query]
        np.testing.assert_allclose(got[t], expected, rtol=1e-10, atol=1e-15)


def test_one_neighbour_answers_with_the_value_of_the_nearest_key(batch):
    learner = make_learner(n_neighbors=1)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    cosines = learner.query(batch.x_query) @ state["keys"].transpose(1, 2)
    cosines[(state["values"] == EMPTY).unsqueeze(1).expand_as(cosines)] = -2
    nearest = state["values"].gather(1, cosines.argmax(dim=-1))
    assert torch.equal(learner.predict(state, batch.x_query).argmax(dim=-1), nearest)


@pytest.mark.parametrize("n_slots", [None, 3])
def test_the_meta_loss_is_the_memory_loss_of_all_rows_as_they_are_read(batch, n_slots):
    learner, losses = make_learner(n_slots=n_slots), []
    for t in range(T):
        x, y, x_query, y_query = arrays(batch, t)
        memory = NumPyMemory(learner, n_slots or S)
        losses.append(memory.read_all(x, y))
        losses[t] += [
            memory.loss(row, v) for row, v in zip(x_query, y_query.argmax(axis=1), strict=True)
        ]
    np.testing.assert_allclose(learner.meta_loss(batch).detach(), np.mean(losses), rtol=1e-12)


def test_the_gradient_takes_the_keys_for_constants(batch):
    """Of rows that are queries the gradient is K[n_b] - K[n_p]; nothing comes through a key."""
    learner = make_learner()
    x = batch.x_support.clone().requires_grad_()
    alone = TaskBatch(x, batch.y_support, batch.x_query, batch.y_query)
    learner.meta_loss(alone).backward()
    # The last support row is a key that queries meet, and is itself met by no row before it.
    state = learner.adapt(batch.x_support[:, :-1], batch.y_support[:, :-1], None)
    q = x.detach()[:, -1:].requires_grad_()
    value = batch.y_support[:, -1:].argmax(dim=-1)
    cosines = learner.query(q) @ state["keys"].transpose(1, 2)
    used = (state["values"] != EMPTY).unsqueeze(1)
    own = (state["values"] == value).unsqueeze(1)
    negative = cosines.masked_fill(~used | own, -2).amax(dim=-1)
    positive = cosines.masked_fill(~own, -2).amax(dim=-1)
    losses = (negative - positive + MARGIN).relu()
    (losses.sum() / (T * (S + Q))).backward()
    assert losses.max() > 0
    assert_close(x.grad[:, -1:], q.grad)


def test_with_a_row_a_class_and_no_merging_it_is_a_matching_network(batch):
    learner = make_learner()
    x, y = batch.x_support[:, :C], torch.eye(C, dtype=torch.float64).expand(T, C, C)
    z, f = learner.query(x), learner.query(batch.x_query)
    expected = (f @ z.transpose(1, 2) / TEMPERATURE).log_softmax(dim=-1)
    got = learner.predict(learner.adapt(x, y, None), batch.x_query).log_softmax(dim=-1)
    assert_close(got, expected)


def test_a_right_row_pulls_its_key_and_a_wrong_one_takes_the_oldest_slot():
    """In the plane, by hand, with two slots."""
    learner = make_learner(n_slots=2)
    with torch.no_grad():
        learner.key = nn.Linear(2, 2, bias=False).double()
        learner.key.weight.copy_(torch.eye(2))
    x = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.01], [-1.0, 0.0]]], dtype=torch.float64)
    codes = torch.tensor([[0, 1, 1, 2]])
    y = torch.eye(3, dtype=torch.float64)[codes]
    first = learner.adapt(x[:, :2], y[:, :2], None)
    assert_close(first["keys"][0], torch.eye(2, dtype=torch.float64))
    assert first["ages"].tolist() == [[1, 0]]
    # (1, 1.01) is nearest to the key of class 1, its own: their mean direction.
    merged = learner.update(first, x[:, 2:3], y[:, 2:3], None)
    q = x[0, 2] / x[0, 2].norm()
    between = q + torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert_close(merged["keys"][0, 1], between / between.norm())
    assert merged["ages"].tolist() == [[2, 0]]
    # (-1, 0) has a value that no key has: the slot of class 0 was not written for longest.
    last = learner.update(merged, x[:, 3:], y[:, 3:], None)
    assert_close(last["keys"][0, 0], torch.tensor([-1.0, 0.0], dtype=torch.float64))
    assert last["values"].tolist() == [[2, 1]]
    assert last["ages"].tolist() == [[0, 1]]
    logits = learner.predict(last, x)
    assert (logits.softmax(dim=-1)[..., 0] == 0).all()  # forgotten


# ---------------------------------------------------------------------------- what sees what


@pytest.mark.parametrize("n_slots", [None, 3])
def test_padding_rows_leave_the_memory_alone(batch, n_slots):
    learner = make_learner(n_slots=n_slots)
    mask = torch.arange(S) < torch.tensor([[S], [5]])
    x = torch.where(mask[..., None], batch.x_support, 99.0)
    padded = TaskBatch(x, batch.y_support * mask[..., None], batch.x_query, batch.y_query, mask)
    short = TaskBatch(
        batch.x_support[1:, :5], batch.y_support[1:, :5], batch.x_query[1:], batch.y_query[1:]
    )
    state = learner.adapt(x, padded.y_support, mask)
    alone = learner.adapt(short.x_support, short.y_support, None)
    n = alone["keys"].shape[1]
    for name in ("keys", "values", "ages"):
        assert_close(state[name][1:, :n], alone[name])
    losses = [learner.meta_loss(part) for part in (batch[:1], short)]
    assert_close(learner.meta_loss(padded), torch.stack(losses).mean())


def test_new_classes_come_with_new_rows(batch):
    learner = make_learner()
    y = torch.eye(5, dtype=torch.float64)[torch.arange(S).clamp_max(4).expand(T, S)]
    before = learner.adapt(batch.x_support[:, :3], y[:, :3, :3], None)
    after = learner.update(before, batch.x_support[:, 3:], y[:, 3:], None)
    whole = learner.adapt(batch.x_support, y, None)
    assert learner.predict(before, batch.x_query).shape == (T, Q, 3)
    assert_close(learner.predict(after, batch.x_query), learner.predict(whole, batch.x_query))
    assert before["keys"].shape[1] == 3  # as it was


def test_a_row_of_zeros_has_a_finite_gradient(batch):
    learner = make_learner()
    x = torch.zeros_like(batch.x_support)
    learner.meta_loss(TaskBatch(x, batch.y_support, batch.x_query, batch.y_query)).backward()
    assert torch.isfinite(learner.key.weight.grad).all()


# ---------------------------------------------------------------------------- the estimator


@pytest.fixture(scope="module")
def blobs():
    """Return rows around twelve centres, and their numbers."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 10)
    return rng.normal(size=(12, 4))[y] * 2 + rng.normal(size=(120, 4)) / 2, y


@pytest.fixture(scope="module")
def clf(blobs):
    tasks = EpisodicTasks(*blobs, n_way=3, n_shot=2, n_query=2, n_tasks=20, random_state=0)
    backbone = MLP(hidden_layer_sizes=(16,))
    return MemoryModuleClassifier(backbone=backbone, max_iter=20, random_state=0).meta_fit(tasks)


def test_rows_may_come_one_by_one_and_classes_at_any_time(clf, blobs):
    X, y = blobs
    rows = np.random.default_rng(0).permutation(120)[:50]
    expected = clf.fit(X[rows], y[rows]).predict_proba(X)
    classes = clf.classes_
    clf.fit(X[rows[:1]], y[rows[:1]])
    for row in rows[1:]:
        clf.partial_fit(X[[row]], y[[row]])
    order = np.argsort(clf.classes_)
    np.testing.assert_array_equal(clf.classes_[order], classes)
    np.testing.assert_allclose(clf.predict_proba(X)[:, order], expected, atol=1e-4)


def test_a_small_memory_keeps_the_rows_that_came_last(clf, blobs):
    X, y = blobs
    small = MemoryModuleClassifier(n_slots=2, max_iter=1, random_state=0)
    small.meta_fit([(X, y, X, y)]).fit(X[::10], y[::10])
    assert set(small.predict(X)) <= {10, 11}


def test_several_orders_are_averaged(clf, blobs):
    X, y = blobs
    rows = np.random.default_rng(1).permutation(120)[:40]
    flipped = rows[::-1]

    def gap(n_orders):
        clf.set_params(n_orders=n_orders)
        first, second = (clf.fit(X[r], y[r]).predict_proba(X) for r in (rows, flipped))
        return np.abs(first - second).mean()

    one, many = gap(1), gap(16)
    clf.set_params(n_orders=1)
    assert 0 < many < one


def test_confidences_of_a_row_a_class_are_those_of_a_matching_network(blobs):
    """With the same embedding, and the keys' linear map part of it."""
    X, y = blobs
    clf = MemoryModuleClassifier(backbone=nn.Flatten(), max_iter=1, precision="float64")
    clf.meta_fit([(X, y, X, y)]).fit(X[::10], y[::10])
    key = clf._meta.learner.key
    other = MatchingNetClassifier(backbone=key, max_iter=1, temperature=0.025, precision="float64")
    other.meta_fit([(X, y, X, y)]).fit(X[::10], y[::10])
    np.testing.assert_allclose(clf.predict_proba(X), other.predict_proba(X), atol=1e-12)
    cosines = X @ key.weight.detach().numpy().T
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    scores = cosines @ cosines[::10].T / 0.025
    expected = np.exp(scores - logsumexp(scores, axis=1, keepdims=True))
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-10)
