"""Meta-SGD against plain loops, closed forms and MAML."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.testing import assert_close

import fewshot_sklearn
from fewshot_sklearn import MLP, MAMLRegressor, MetaSGDClassifier, MetaSGDRegressor
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.gradient_based._maml import MAMLLearner
from fewshot_sklearn.gradient_based._meta_sgd import MetaSGDLearner
from fewshot_sklearn.nn import task_network
from fewshot_sklearn.nn.functional import cross_entropy, squared_error
from tests.gradient_based._plain import (
    assert_is_plain,
    classification_batch,
    gradients,
    regression_batch,
    relative_difference,
    tanh_network,
)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_learner(head="per_class", *, loss=cross_entropy, backbone=None, n_outputs=3, n_steps=3):
    start = nn.Linear(2, n_outputs) if head == "per_class" else None
    network = task_network(backbone or tanh_network(), start, n_features=2, loss=loss)
    return MetaSGDLearner(network, n_inner_steps=n_steps, inner_learning_rate=0.5).double()


def scattered(learner):
    """Give every weight a rate of its own, negative ones among them, and return them by name."""
    rates = [*learner.backbone_rates, *learner.head_rates]
    with torch.no_grad():
        for p in rates:
            p.copy_(torch.rand_like(p) - 0.2)
    names = [f"backbone.{name}" for name, _ in learner.backbone.named_parameters()]
    return dict(zip([*names, "weight", "bias"], rates, strict=True))


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("loss", [cross_entropy, squared_error])
def test_start_and_rates_get_the_gradient_of_a_plain_loop(loss, n_steps):
    learner = make_learner(loss=loss, n_steps=n_steps)
    assert_is_plain(learner, classification_batch(), [scattered(learner)] * n_steps)


@pytest.mark.parametrize("n_steps", [2, 3])
def test_a_head_that_starts_at_zero_gets_the_gradient_of_a_plain_loop(n_steps):
    learner = make_learner("shared", n_steps=n_steps)
    rates = scattered(learner)
    assert rates["weight"].shape == (2,)
    assert rates["bias"].shape == ()
    assert_is_plain(learner, classification_batch(), [rates] * n_steps)


def test_one_step_of_linear_regression_is_as_derived():
    r"""With :math:`\theta' = \theta - \alpha \circ (H \theta - g)` the chain rule gives

    .. math::
        \nabla_\theta L_Q = (I - H \operatorname{diag}(\alpha)) \, \nabla L_Q(\theta'), \qquad
        \nabla_\alpha L_Q = -(H \theta - g) \circ \nabla L_Q(\theta').
    """
    learner = make_learner(backbone=nn.Flatten(), loss=squared_error, n_outputs=1, n_steps=1)
    rates, batch = scattered(learner), regression_batch()
    alpha = torch.cat([rates["weight"][0], rates["bias"]]).detach()
    theta = torch.cat([learner.head.weight[0], learner.head.bias]).detach()
    of_theta, of_alpha = torch.zeros(3).double(), torch.zeros(3).double()
    for t in range(len(batch)):
        X, Q = (
            torch.cat([x[t], torch.ones(len(x[t]), 1)], dim=1)
            for x in (batch.x_support, batch.x_query)
        )
        H, g = 2 / len(X) * X.T @ X, 2 / len(X) * X.T @ batch.y_support[t, :, 0]
        moved = theta - alpha * (H @ theta - g)
        outer = 2 / len(Q) * Q.T @ (Q @ moved - batch.y_query[t, :, 0]) / len(batch)
        of_theta += outer - H @ (alpha * outer)
        of_alpha -= (H @ theta - g) * outer
    found = gradients(learner, batch)
    assert_close(torch.cat([found["head.weight"][0], found["head.bias"]]), of_theta)
    assert_close(torch.cat([found["head_rates.0"][0], found["head_rates.1"]]), of_alpha)


@pytest.mark.parametrize("head", ["shared", "per_class"])
def test_it_begins_as_maml(head):
    learner, batch = make_learner(head), classification_batch()
    maml = MAMLLearner(learner.network, n_inner_steps=3, inner_learning_rate=0.5, first_order=False)
    assert_close(learner.meta_loss(batch), maml.meta_loss(batch), rtol=1e-12, atol=0)
    expected = gradients(maml, batch)
    found = {k: g for k, g in gradients(learner, batch).items() if k in expected}
    assert relative_difference(found, expected) < 1e-10


@pytest.mark.parametrize(
    ("head", "n_steps", "learned"),
    [
        ("per_class", 0, {}),
        ("per_class", 1, {"backbone_rates", "head_rates"}),
        ("shared", 1, {"head_rates"}),
        ("shared", 2, {"backbone_rates", "head_rates"}),
    ],
)
def test_rates_that_can_get_no_gradient_are_not_learned(head, n_steps, learned):
    learner = make_learner(head, n_steps=n_steps)
    trained = {k.split(".")[0] for k, p in learner.named_parameters() if p.requires_grad}
    assert trained - {"backbone", "head"} == set(learned)


# ---------------------------------------------------------------------------- the estimators


@pytest.fixture(scope="module")
def sinusoids():
    return make_sinusoid_tasks(50, random_state=0)


def small(**params):
    params = {
        "backbone": MLP(hidden_layer_sizes=(8,), norm=None), "max_iter": 5, "random_state": 0,
        "meta_learning_rate": 1e-2, "precision": "float64",
    } | params  # fmt: skip
    return MetaSGDRegressor(**params)


def first_rates(**params):
    reg = small(max_iter=1, **params).set_params(meta_learning_rate=1e-12)
    learner = reg.meta_fit(make_sinusoid_tasks(5, random_state=0))._meta.learner
    return torch.cat([p.flatten() for p in [*learner.backbone_rates, *learner.head_rates]])


def test_all_rates_start_at_one_number_of_the_range():
    starts = [first_rates(random_state=seed) for seed in range(4)]
    for rates in starts:
        assert rates.max() - rates.min() < 1e-9
        assert 0.005 <= rates[0] <= 0.1
    assert len({round(rates[0].item(), 6) for rates in starts}) == 4
    assert_close(first_rates(inner_learning_rate=0.02)[0].item(), 0.02, rtol=1e-6, atol=0)


@pytest.mark.parametrize("range_", [(0.1, 0.005), (0.0, 0.1), (0.01,), (0.01, 0.02, 0.03)])
def test_a_range_that_is_none_is_refused(sinusoids, range_):
    with pytest.raises(ValueError, match="inner_learning_rate must be a number above zero or"):
        small(inner_learning_rate=range_).meta_fit(sinusoids)


def test_rates_set_after_meta_training_are_refused(sinusoids):
    reg = small().meta_fit(sinusoids).set_params(inner_learning_rate=0.3)
    with pytest.raises(ValueError, match=r"inner_learning_rate=0.3 was changed after meta_fit"):
        reg.fit(*sinusoids[0][:2])


def test_training_does_not_go_on_where_a_step_more_would_learn_further_rates():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(2), 10)
    X = rng.normal(size=(20, 3)) + y[:, None]
    tasks = [(X[::2], y[::2], X[1::2], y[1::2])]
    clf = MetaSGDClassifier(max_iter=2, head="shared", n_inner_steps=1, random_state=0)
    clf.meta_fit(tasks).set_params(n_inner_steps=2)
    with pytest.raises(ValueError, match="Set n_inner_steps back to what it was in meta_fit"):
        clf.partial_meta_fit(tasks)


def test_learned_rates_are_kept_by_clones_files_and_other_numbers_of_steps(sinusoids, tmp_path):
    reg = small().meta_fit(sinusoids)
    X, y, X_query, _ = sinusoids[0]
    expected = reg.set_params(n_inner_steps=4).fit(X, y).predict(X_query)
    reg.save(tmp_path / "reg")
    for copy in (clone(reg), fewshot_sklearn.load(tmp_path / "reg")):
        np.testing.assert_array_equal(copy.fit(X, y).predict(X_query), expected)
    assert not np.allclose(reg.set_params(n_inner_steps=1).fit(X, y).predict(X_query), expected)


def test_the_shared_head_takes_any_number_of_classes():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 10)
    X = rng.normal(size=(6, 4))[y] * 3 + rng.normal(size=(60, 4)) / 2
    clf = MetaSGDClassifier(max_iter=2, head="shared", random_state=0)
    clf.meta_fit([(X[i::2][:15], y[i::2][:15], X[i::2][:15], y[i::2][:15]) for i in range(2)])
    for n_classes in (2, 6):
        rows = y < n_classes
        assert clf.fit(X[rows], y[rows]).predict_proba(X).shape == (60, n_classes)


def test_one_step_on_sinusoids_is_better_than_mamls():
    def error(reg):
        reg.set_params(
            backbone=MLP(hidden_layer_sizes=(40, 40), norm=None), max_iter=150, n_inner_steps=1,
            meta_learning_rate=5e-3, random_state=0, inner_learning_rate=0.01,
        ).meta_fit(make_sinusoid_tasks(1000, random_state=0))  # fmt: skip
        tasks = make_sinusoid_tasks(200, random_state=1)
        predictions = reg.predict_tasks(tasks)
        return np.mean([(p - t.y_query) ** 2 for p, t in zip(predictions, tasks, strict=True)])

    assert error(MetaSGDRegressor()) < 0.9 * error(MAMLRegressor())
