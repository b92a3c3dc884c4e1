"""End-to-end memory networks over the support set against their equations in NumPy."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import EpisodicTasks, MemN2NClassifier
from fewshot_sklearn.memory_based._mem_n2n import MemN2NLearner
from fewshot_sklearn.tasks._batch import TaskBatch
from fewshot_sklearn.utils.estimator_checks import parametrize_with_fewshot_checks

S, Q, C, D, WIDTH = 7, 4, 3, 5, 6
OPTIONS = {"n_hops": 3, "layer_wise": False, "linear_start_iter": 0, "n_ages": 0, "time_noise": 0.0}


def make_learner(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = MemN2NLearner(nn.Identity(), D, WIDTH, **OPTIONS | options).double()
        if learner.time is not None:
            nn.init.normal_(learner.time)
    return learner


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    y = np.eye(C)[np.arange(S) % C]
    return rng.normal(size=(S, D)), y, rng.normal(size=(Q, D))


def in_numpy(learner, x, y, queries, *, linear=False):
    """Sukhbaatar et al. (2015), eqs. 1 to 4, with words for features and words for labels.

    Every vector has WIDTH elements for features and C for labels, so that the label embedding
    E is the unit vectors of the latter.
    """
    w = {name: value.detach().numpy() for name, value in learner.state_dict().items()}
    K, layer_wise, s = learner.n_hops, learner.layer_wise, w["label_scale"]
    maps = w["maps.weight"].reshape(-1, WIDTH, D)
    E = np.vstack([np.zeros((WIDTH, C)), np.eye(C)])

    def features(vector):
        return np.concatenate([vector, np.zeros(C)])

    def embed(table, i, *, labelled):
        vector = np.zeros(WIDTH)
        if table < len(maps):
            vector = maps[table] @ x[i]
            if "time" in w:
                vector = vector + w["time"][min(S - 1 - i, len(w["time"]) - 1), table]
        return features(vector) + labelled * s * E @ y[i]

    H = np.eye(WIDTH + C)
    if "carry.weight" in w:
        H[:WIDTH, :WIDTH] = w["carry.weight"]
    logits = []
    for query in queries:
        u = features((w["query_map.weight"] if layer_wise else maps[0]) @ query)
        for k in range(K):
            a, c = (0, 1) if layer_wise else (k, k + 1)
            last = K if k == K - 1 else c  # of the last hop the labels alone are asked for
            m = [embed(a, i, labelled=k > 0 and not layer_wise) for i in range(S)]
            scores = np.array([u @ m_i for m_i in m])
            p = scores if linear else softmax(scores)
            u = H @ u + sum(p[i] * embed(last, i, labelled=True) for i in range(S))
        logits.append(s * E.T @ u)
    return np.array(logits)


def run(learner, x, y, queries):
    x, y, queries = (torch.from_numpy(a)[None] for a in (x, y, queries))
    with torch.no_grad():
        return learner.predict(learner.adapt(x, y, None), queries)[0].numpy()


@pytest.mark.parametrize("n_ages", [0, 4])
@pytest.mark.parametrize("layer_wise", [False, True])
@pytest.mark.parametrize("n_hops", [1, 3])
def test_logits_are_those_of_the_equations(task, n_hops, layer_wise, n_ages):
    learner = make_learner(n_hops=n_hops, layer_wise=layer_wise, n_ages=n_ages)
    np.testing.assert_allclose(run(learner, *task), in_numpy(learner, *task), rtol=1e-9)


@pytest.mark.parametrize("layer_wise", [False, True])
def test_the_first_iterations_are_without_the_softmax(task, layer_wise):
    learner = make_learner(linear_start_iter=2, layer_wise=layer_wise)
    rows = [torch.from_numpy(a)[None] for a in task]
    batch = TaskBatch(rows[0], rows[1], rows[2], rows[1][:, :Q])
    for iteration in range(3):
        expected = in_numpy(learner, *task, linear=iteration < 2)
        np.testing.assert_allclose(run(learner, *task), expected, rtol=1e-9)
        learner.meta_gradient(batch)


def test_one_hop_is_a_softmax_over_the_rows_as_in_matching_networks(task):
    """Of one hop, dividing by the squared scale gives each class's attention."""
    x, y, queries = task
    learner = make_learner(n_hops=1)
    A = learner.maps.weight.detach().numpy()
    attention = softmax(queries @ A.T @ A @ x.T, axis=1)
    np.testing.assert_allclose(run(learner, *task), 4 * attention @ y, rtol=1e-9)


@pytest.mark.parametrize("n_ages", [0, 4])
def test_padding_between_rows_changes_nothing(task, n_ages):
    learner = make_learner(n_ages=n_ages)
    x, y, queries = task
    expected = run(learner, *task)
    x, y = (np.insert(a, [0, 3, S], 0.0, axis=0) for a in (x, y))
    x[~y.any(axis=1)] = 99.0
    np.testing.assert_allclose(run(learner, x, y, queries), expected, rtol=1e-9)


def test_every_parameter_gets_a_gradient(task):
    rows = [torch.from_numpy(a)[None] for a in task]
    for n_hops in (1, 2, 3):
        for layer_wise in (False, True):
            learner = make_learner(n_hops=n_hops, layer_wise=layer_wise, n_ages=4)
            learner.meta_gradient(TaskBatch(*rows, rows[1][:, :Q]))
            for name, p in learner.named_parameters():
                assert torch.isfinite(p.grad).all(), name
                assert p.grad.abs().max() > 1e-9, name


def test_meta_gradients_are_those_of_finite_differences(task):
    x, y, queries = (torch.from_numpy(a)[None] for a in task)
    learner = make_learner(n_hops=2)

    def outputs(maps, scale):
        weights = {"maps.weight": maps, "label_scale": scale}
        return torch.func.functional_call(learner, weights, (x, y, queries))

    learner.forward = lambda x, y, queries: learner.predict(learner.adapt(x, y, None), queries)
    leaves = [
        p.detach().clone().requires_grad_() for p in (learner.maps.weight, learner.label_scale)
    ]
    assert torch.autograd.gradcheck(outputs, leaves)


# ---------------------------------------------------------------------------- the estimator


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 10)
    return rng.normal(size=(12, 4))[y] * 2 + rng.normal(size=(120, 4)) / 2, y


@pytest.fixture(scope="module")
def tasks(blobs):
    return EpisodicTasks(*blobs, n_way=3, n_shot=2, n_query=2, n_tasks=20, random_state=0)


def small(**params):
    return MemN2NClassifier(**{"embedding_size": 8, "max_iter": 3, "random_state": 0} | params)


@parametrize_with_fewshot_checks(
    [small(tying="layer_wise"), small(temporal_encoding=True, time_noise=0.0), small(n_hops=1)]
)
def test_other_configurations_keep_the_laws(estimator, check):
    check(estimator)


def test_any_number_of_classes_works_after_meta_training(tasks, blobs):
    X, y = blobs
    clf = small().meta_fit(tasks).fit(X, y)
    assert clf.predict_proba(X).shape == (120, 12)


def test_only_temporal_encoding_makes_the_order_matter(tasks, blobs):
    X, y = blobs[0][:30], blobs[1][:30]
    for temporal in (False, True):
        clf = small(temporal_encoding=temporal, precision="float64").meta_fit(tasks)
        forward = clf.fit(X, y).decision_function(X)
        backward = clf.fit(X[::-1], y[::-1]).decision_function(X)
        assert np.allclose(forward, backward) != temporal
        assert clf.__fewshot_tags__().order_dependent is temporal


def test_a_linear_start_that_outlasts_meta_training_is_kept(tasks, blobs):
    clf = small(linear_start_iter=3, clip_norm=1.0).meta_fit(tasks)
    assert not clf._meta.learner.linear
    assert small(linear_start_iter=4, clip_norm=1.0).meta_fit(tasks)._meta.learner.linear
    assert clone(clf).fit(*blobs).score(*blobs) >= 0


def test_noise_is_for_meta_training_alone():
    learner = make_learner(n_ages=30, time_noise=0.5).eval()
    x, y = torch.randn(1, 20, D).double(), torch.eye(C).double()[torch.arange(20) % C][None]
    state = learner.adapt(x, y, None)
    assert_close(learner.predict(state, x), learner.predict(state, x))
    learner.train()
    assert not torch.equal(learner.predict(state, x), learner.predict(state, x))
