"""Training from scratch: nothing comes from older tasks but the scale of the targets."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from fewshot_sklearn import MLP, EpisodicTasks, FromScratchClassifier, FromScratchRegressor
from fewshot_sklearn.datasets import make_sinusoid_tasks


@pytest.fixture(scope="module")
def tasks():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 5
    X = rng.normal(size=(200, 4)) + 3 * rng.normal(size=(5, 4))[y]
    return EpisodicTasks(X, y, n_way=3, n_shot=4, n_query=4, n_tasks=20, random_state=0)


def small(cls=FromScratchClassifier, **parameters):
    options = {"backbone": MLP(hidden_layer_sizes=(8,)), "n_inner_steps": 6}
    return cls(**options | {"precision": "float64", "random_state": 0} | parameters)


def test_meta_training_changes_no_weight_and_takes_no_iteration(tasks):
    clf = small().meta_fit(tasks)
    before = {k: v.clone() for k, v in clf._meta.learner.state_dict().items()}
    assert clf.n_meta_iter_ == 0
    assert clf.meta_loss_curve_ == []
    clf.partial_meta_fit(tasks)
    for name, value in clf._meta.learner.state_dict().items():
        assert torch.equal(value, before[name])


def test_other_older_tasks_give_the_same_predictions(tasks):
    X, y, X_query, _ = tasks[0]
    first = small().meta_fit(tasks[:10]).fit(X, y).predict_proba(X_query)
    second = small().meta_fit(tasks[10:]).fit(X, y).predict_proba(X_query)
    np.testing.assert_array_equal(first, second)


def test_the_random_state_draws_the_weights(tasks):
    X, y, X_query, _ = tasks[0]

    def predictions(seed):
        return small(random_state=seed).meta_fit(tasks).fit(X, y).predict_proba(X_query)

    np.testing.assert_array_equal(predictions(1), predictions(1))
    assert not np.allclose(predictions(1), predictions(2))


def test_fit_is_a_plain_training_loop(tasks):
    clf = small(inner_learning_rate=0.05).meta_fit(tasks)
    X, y, X_query, _ = (np.asarray(part) for part in tasks[0])
    clf.fit(X, y)
    with torch.random.fork_rng():
        network = nn.Sequential(
            pickle.loads(pickle.dumps(clf._meta.learner.backbone)), nn.Linear(8, 3)
        ).double()
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    optimizer = torch.optim.Adam(network.requires_grad_(True).parameters(), lr=0.05)
    labels = torch.from_numpy(np.searchsorted(clf.classes_, y))
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(torch.from_numpy(X)), labels).backward()
        optimizer.step()
    expected = network(torch.from_numpy(X_query)).detach().numpy()
    np.testing.assert_allclose(clf.decision_function(X_query), expected, rtol=1e-7, atol=1e-9)


def test_n_iter_counts_the_steps_of_fit(tasks):
    clf = small().fit(*tasks[0][:2])
    assert clf.n_iter_ == 6
    assert clf.set_params(n_inner_steps=9).fit(*tasks[0][:2]).n_iter_ == 9


def test_a_regressor_takes_the_scale_of_the_targets_from_older_tasks():
    tasks = make_sinusoid_tasks(20, random_state=0)
    X, y, X_query, _ = tasks[0]
    reg = small(FromScratchRegressor, n_inner_steps=0).meta_fit(tasks).fit(X, y)
    mean = np.mean([np.concatenate([t.y_support, t.y_query]).mean() for t in tasks])
    np.testing.assert_allclose(reg.predict(X_query), mean)


def test_clones_and_pickles_start_from_the_same_weights(tasks):
    clf = small(random_state=None).meta_fit(tasks)
    X, y, X_query, _ = tasks[0]
    expected = clf.fit(X, y).predict_proba(X_query)
    for other in (clone(clf), pickle.loads(pickle.dumps(clf))):
        np.testing.assert_array_equal(other.fit(X, y).predict_proba(X_query), expected)
