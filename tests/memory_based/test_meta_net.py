"""Meta networks against a plain loop with autograd, and by hand where that is possible."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import MLP, EpisodicTasks, MetaNetClassifier
from fewshot_sklearn.memory_based._meta_net import MetaNetLearner
from fewshot_sklearn.nn.fast_weights import CoordinateLSTM, CoordinateMLP
from fewshot_sklearn.tasks._batch import TaskBatch

T, S, Q, C, FEATURES, SIZES = 2, 6, 4, 3, 4, (5, 3)
LOSSES = ["cross_entropy", "contrastive"]


def make_learner(loss="cross_entropy", sizes=SIZES, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        learner = MetaNetLearner(
            nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, FEATURES), nn.Tanh()),
            nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, FEATURES), nn.Tanh()),
            n_features=FEATURES,
            hidden_layer_sizes=sizes,
            n_outputs=C,
            n_units=4,
            contrastive=loss == "contrastive",
        ).double()
        with torch.no_grad():  # so that every part has an effect that is seen
            for name, p in learner.named_parameters():
                p.copy_(torch.randn_like(p) * (0.7 if p.ndim > 1 else 0.1), non_blocking=False)
                if name.startswith(("u.", "b.")):
                    p.add_(0.2)
    return learner


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(T, S + Q, FEATURES)))
    codes = np.stack([rng.permutation(np.arange(S + Q) % C) for _ in range(T)])
    y = torch.eye(C, dtype=torch.float64)[torch.from_numpy(codes)]
    return TaskBatch(x[:, :S], y[:, :S], x[:, S:], y[:, S:])


@pytest.fixture
def batch():
    return make_batch()


# ---------------------------------------------------------------------------- a plain loop


def preprocess(g):
    """The rule of Andrychowicz et al. (2016) with p = 7, an entry at a time."""
    big = g.abs() >= math.exp(-7)
    size = torch.where(big, torch.where(big, g.abs(), 1.0).log() / 7, -1.0)
    sign = torch.where(big, g.sign(), math.exp(7) * g)
    return torch.stack([size, sign], dim=-1)


def augmented(x, slow, fast, rectified):
    """One layer of the paper's figure 2."""
    if not rectified:
        return slow @ x if fast is None else slow @ x + fast @ x
    return (slow @ x).relu() if fast is None else (slow @ x).relu() + (fast @ x).relu()


def run(x, slow, fast, rectified):
    fast = [None] * len(slow) if fast is None else fast
    for w, w_star, r in zip(slow, fast, rectified, strict=True):
        x = augmented(x, w, w_star, r)
    return x


class PlainMetaNet:
    """Algorithm 1 for one task, a row at a time, every gradient by autograd."""

    def __init__(self, learner):
        self.learner = learner
        self.Q, self.W = list(learner.u.weights), list(learner.b.weights)
        self.rectified = [True] * len(SIZES)

    def embedding_loss(self, x, y, i):
        r = [run(self.learner.embedding(row[None])[0], self.Q, None, self.rectified) for row in x]
        codes = y.argmax(dim=-1)
        if self.learner.softmax is not None:
            return F.cross_entropy(self.learner.softmax.weight @ r[i], codes[i])
        losses = []
        for j in range(len(x)):
            if j != i:
                distance = (r[i] - r[j]).norm()
                same = codes[i] == codes[j]
                losses.append((distance**2 if same else (1 - distance).relu() ** 2) / 2)
        return torch.stack(losses).mean()

    def generate_for_task(self, x, y):
        """Return Q* = d(G, gradients), which the LSTM reads a class at a time."""
        per_class = []
        for c in range(C):
            rows = [i for i in range(len(x)) if y[i, c]]
            loss = torch.stack([self.embedding_loss(x, y, i) for i in rows]).mean()
            per_class.append(torch.autograd.grad(loss, self.Q, create_graph=True))
        q_star = []
        for gradients in zip(*per_class, strict=True):
            h = c = gradients[0].new_zeros(gradients[0].numel(), 4)
            for g in gradients:
                h, c = self.learner.d.cell(preprocess(g).flatten(0, 1), (h, c))
            q_star.append(self.learner.d.output(h).view_as(gradients[0]))
        return q_star

    def predict(self, x, y, x_query):
        q_star = self.generate_for_task(x, y)
        memory, index = [], []
        for row, target in zip(x, y, strict=True):
            logits = run(self.learner.base(row[None])[0], self.W, None, [*self.rectified, False])
            loss = F.cross_entropy(logits, target.argmax())
            gradients = torch.autograd.grad(loss, self.W, create_graph=True)
            memory.append([self.learner.m.layers(preprocess(g))[..., 0] for g in gradients])
            h = self.learner.embedding(row[None])[0]
            index.append(run(h, self.Q, q_star, self.rectified))
        outputs = []
        for row in x_query:
            r = run(self.learner.embedding(row[None])[0], self.Q, q_star, self.rectified)
            a = torch.stack([F.cosine_similarity(r, k, dim=0) for k in index]).softmax(dim=0)
            w_star = [
                sum(a_i * w for a_i, w in zip(a, layer, strict=True))
                for layer in zip(*memory, strict=True)
            ]
            outputs.append(
                run(self.learner.base(row[None])[0], self.W, w_star, [*self.rectified, False])
            )
        return torch.stack(outputs)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_outputs_are_those_of_algorithm_1(batch, loss):
    learner = make_learner(loss)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    got = learner.predict(state, batch.x_query)
    for t in range(T):
        plain = PlainMetaNet(learner)
        expected = plain.predict(batch.x_support[t], batch.y_support[t], batch.x_query[t])
        assert_close(got[t], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_meta_gradient_goes_through_the_gradients_that_are_read(batch, loss):
    """It is that of autograd, which differentiates its own gradients."""
    learner = make_learner(loss)
    losses = []
    for t in range(T):
        outputs = PlainMetaNet(learner).predict(
            batch.x_support[t], batch.y_support[t], batch.x_query[t]
        )
        losses.append(F.cross_entropy(outputs, batch.y_query[t].argmax(dim=-1)))
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(learner.parameters()))
    learner.meta_gradient(batch)
    for (name, p), g in zip(learner.named_parameters(), expected, strict=True):
        assert_close(p.grad, g, rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")
        assert g.abs().max() > 1e-7, name


def test_adapting_without_gradients_is_the_same_and_leaves_the_parameters_alone(batch):
    learner = make_learner()
    expected = learner.adapt(batch.x_support, batch.y_support, None)
    with torch.no_grad():
        state = learner.adapt(batch.x_support, batch.y_support, None)
    for name, value in expected.items():
        assert_close(state[name], value)
    assert all(p.grad is None for p in learner.parameters())


# ---------------------------------------------------------------------------- by hand


def test_a_softmax_layer_alone_by_hand():
    """With no layer but the softmax, W = 0 and m the identity times -1.

    The gradient of row i is (p - y_i) x_i^T with p uniform, so that W*_i = (y_i - 1/C) x_i^T, and
    a query's logits are sum_i a_i (y_i - 1/C) (x_i . x). With orthogonal rows one is left: the
    query x_1 has the logits a_1 (y_1 - 1/C).
    """
    learner = MetaNetLearner(
        nn.Flatten(), nn.Flatten(), n_features=C, hidden_layer_sizes=(C,), n_outputs=C, n_units=2,
        contrastive=False,
    ).double()  # fmt: skip

    class Negative(nn.Module):
        def forward(self, gradients):
            return -gradients

    eye = torch.eye(C, dtype=torch.float64)
    with torch.no_grad():
        learner.m = Negative()
        learner.b.weights[0].copy_(eye)  # the hidden layer passes rows on, which are not negative
        learner.b.weights[1].zero_()
        learner.u.weights[0].copy_(eye)
        learner.d.output.weight.zero_()  # Q* = 0: u is the identity
        learner.d.output.bias.zero_()
    x = eye.unsqueeze(0)
    state = learner.adapt(x, x, None)
    # W = 0 in the last layer: its delta sends nothing back to the hidden layer.
    hidden, last = state["M"][0].split([C * C, C * C], dim=-1)
    assert (hidden == 0).all()
    assert_close(last.view(C, C, C), torch.einsum("ij,ik->ijk", eye - 1 / C, eye))
    attention = torch.softmax(eye, dim=-1)  # cosines of orthogonal rows
    expected = (eye - 1 / C) * attention.diagonal().unsqueeze(-1)
    assert_close(learner.predict(state, x)[0], expected)


def test_fast_and_slow_weights_are_rectified_apart(batch):
    """Opposite weights give |W x| in a hidden layer, and cancel in the last one."""
    learner = make_learner(sizes=(C,))
    with torch.no_grad():
        fast = -torch.cat([w.flatten() for w in learner.b.weights]).view(1, 1, -1)
        x = batch.x_support[:1]
        _, hidden, logits = learner.b(x, fast)
        assert_close(hidden, (x @ learner.b.weights[0].T).abs())
        assert_close(logits, torch.zeros_like(logits))


def test_the_generated_weight_of_a_coordinate_depends_on_its_gradients_alone():
    m, d = CoordinateMLP(4), CoordinateLSTM(4)
    gradients = torch.randn(1, 3, 5)
    changed = gradients.clone()
    changed[..., 2] += 1
    others = [0, 1, 3, 4]
    present = torch.ones(1, 3, dtype=torch.bool)
    for weights, after in (
        (m(gradients), m(changed)),
        (d(gradients, present), d(changed, present)),
    ):
        assert_close(weights[..., others], after[..., others])
        assert (weights[..., 2] != after[..., 2]).any()


def test_a_class_without_rows_is_not_read(batch):
    """Three-way weights on a two-way task: d takes two steps."""
    d = CoordinateLSTM(4).double()
    gradients = torch.randn(T, C, 5, dtype=torch.float64)
    present = torch.tensor([[True, False, True]] * T)
    both = torch.ones(T, 2, dtype=torch.bool)
    assert_close(d(gradients, present), d(gradients[:, [0, 2]], both))


# ---------------------------------------------------------------------------- what sees what


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_rows_change_nothing(batch, loss):
    learner = make_learner(loss)
    mask = torch.arange(S) < torch.tensor([[S], [4]])
    x = torch.where(mask[..., None], batch.x_support, 9.0)
    y = torch.where(mask[..., None], batch.y_support, 0.0)
    got = learner.predict(learner.adapt(x, y, mask), batch.x_query)
    short = learner.adapt(batch.x_support[1:, :4], batch.y_support[1:, :4], None)
    assert_close(got[1:], learner.predict(short, batch.x_query[1:]))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_order_of_the_rows_of_a_class_does_not_matter(batch, loss):
    learner = make_learner(loss)
    order = torch.randperm(S)
    x, y = batch.x_support, batch.y_support
    expected = learner.predict(learner.adapt(x, y, None), batch.x_query)
    got = learner.predict(learner.adapt(x[:, order], y[:, order], None), batch.x_query)
    assert_close(got, expected)


def test_equal_rows_of_two_classes_have_a_finite_gradient(batch):
    learner = make_learner("contrastive")
    x = batch.x_support.clone()
    x[:, 1:] = x[:, :1]
    learner.meta_gradient(TaskBatch(x, batch.y_support, batch.x_query, batch.y_query))
    assert all(torch.isfinite(p.grad).all() for p in learner.parameters())


# ---------------------------------------------------------------------------- the estimator


def test_more_classes_than_meta_trained_are_refused_with_the_cure():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(8), 10)
    X = rng.normal(size=(8, 4))[y] + rng.normal(size=(80, 4)) / 4
    tasks = EpisodicTasks(X, y, n_way=3, n_shot=1, n_query=2, n_tasks=10, random_state=0)
    clf = MetaNetClassifier(
        backbone=MLP(hidden_layer_sizes=(8,)), hidden_layer_sizes=(8,), n_units=4, max_iter=2,
        random_state=0,
    ).meta_fit(tasks)  # fmt: skip
    assert clf.fit(X[:20], y[:20]).predict_proba(X).shape == (80, 2)
    with pytest.raises(ValueError, match="has 4 classes, but the largest meta-training task had 3"):
        clf.fit(X[:40], y[:40])


def test_no_augmented_hidden_layer_is_refused():
    X, y = np.eye(6), np.arange(6) % 2
    with pytest.raises(ValueError, match="hidden_layer_sizes must have at least one width"):
        MetaNetClassifier(hidden_layer_sizes=()).meta_fit([(X, y, X, y)])
