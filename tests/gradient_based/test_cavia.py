"""CAVIA against closed forms, plain loops and finite differences."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from fewshot_sklearn import MLP, CAVIAClassifier, CAVIARegressor, Conv4, EpisodicTasks
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.gradient_based._cavia import CAVIALearner
from fewshot_sklearn.nn import FiLMContext, InputContext, embedding_size, task_network
from fewshot_sklearn.nn.functional import cross_entropy, squared_error
from fewshot_sklearn.tasks._batch import TaskBatch


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_learner(backbone, n_outputs, *, loss=squared_error, n_context=2, film=None, **options):
    options = {"n_inner_steps": 2, "inner_learning_rate": 0.3, "first_order": False} | options
    width = embedding_size(backbone, film or (2 + n_context,))
    network = task_network(backbone, nn.Linear(width, n_outputs), n_features=width, loss=loss)
    context = FiLMContext(backbone, n_context) if film else InputContext()
    return CAVIALearner(network, context, n_context=n_context, **options).double()


def make_batch(n_tasks=3, shape=(2,), n_outputs=1, one_hot=False):
    x = torch.randn(n_tasks, 10, *shape, dtype=torch.float64)
    y = torch.randn(n_tasks, 10, n_outputs, dtype=torch.float64)
    if one_hot:
        y = torch.eye(n_outputs, dtype=torch.float64)[torch.arange(10) % n_outputs]
        y = y.repeat(n_tasks, 1, 1)
    return TaskBatch(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])


def tanh_network(n_in=4):
    return nn.Sequential(nn.Linear(n_in, 5), nn.Tanh())


def test_the_context_of_a_linear_network_is_gradient_descent_as_derived():
    r"""With f(x, phi) = w^T x + u^T phi + b the loss is quadratic in s = u^T phi.

    The gradient with respect to phi is :math:`2 (s - r) u` with the mean residual
    :math:`r = \frac1S \sum_i (y_i - w^T x_i - b)`, so that
    :math:`s^{(k)} = r (1 - (1 - 2 \alpha u^T u)^k)`, and phi stays along u.
    """
    learner = make_learner(nn.Flatten(), 1, n_inner_steps=3)
    batch = make_batch()
    state = learner.adapt(batch.x_support, batch.y_support, None)
    w, u = learner.head.weight[0].detach().split(2)
    residual = (batch.y_support[..., 0] - batch.x_support @ w - learner.head.bias).mean(dim=1)
    s = residual * (1 - (1 - 2 * 0.3 * u @ u) ** 3)
    assert_close(state["context"], s.unsqueeze(1) * u / (u @ u), rtol=1e-10, atol=1e-12)


def plain_meta_loss(learner, batch):
    """Return the meta-loss of a plain loop over tasks and autograd through every step."""
    losses = []
    for t in range(len(batch)):
        phi = torch.zeros(1, learner.n_context, dtype=torch.float64, requires_grad=True)
        x, y = batch.x_support[t : t + 1], batch.y_support[t : t + 1]
        for _ in range(learner.n_inner_steps):
            inner = learner.loss(learner.outputs(phi, x), y, None)
            (gradient,) = torch.autograd.grad(inner, phi, create_graph=True)
            gradient = gradient.detach() if learner.first_order else gradient
            phi = phi - learner.inner_learning_rate * gradient
        outputs = learner.outputs(phi, batch.x_query[t : t + 1])
        losses.append(learner.loss(outputs, batch.y_query[t : t + 1], None))
    return torch.cat(losses).mean()


def image_learner(**options):
    backbone = Conv4(image_shape=(1, 4, 4), n_filters=8, n_blocks=2).build((16,))
    return make_learner(backbone, 3, loss=cross_entropy, film=(16,), **options)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", ["input", "film"])
def test_the_meta_gradient_is_that_of_a_plain_loop(kind, first_order):
    if kind == "film":
        learner = image_learner(first_order=first_order)
        batch = make_batch(shape=(16,), n_outputs=3, one_hot=True)
    else:
        learner = make_learner(tanh_network(), 1, first_order=first_order)
        batch = make_batch()
    loss = plain_meta_loss(learner, batch)
    expected = torch.autograd.grad(loss, list(learner.parameters()))
    assert_close(learner.meta_gradient(batch), loss.detach(), rtol=1e-10, atol=0)
    for p, g in zip(learner.parameters(), expected, strict=True):
        assert_close(p.grad, g, rtol=1e-8, atol=1e-12)


def test_the_meta_gradient_is_the_derivative_of_the_meta_loss():
    learner, batch = make_learner(tanh_network(), 1), make_batch(2)
    names = [name for name, _ in learner.named_parameters()]

    class AsForward(nn.Module):
        def __init__(self):
            super().__init__()
            self.learner = learner

        def forward(self):
            return self.learner.meta_loss(batch)

    def meta_loss(*values):
        named = {f"learner.{name}": v for name, v in zip(names, values, strict=True)}
        return functional_call(AsForward(), named, ())

    values = [p.detach().clone().requires_grad_() for p in learner.parameters()]
    assert torch.autograd.gradcheck(meta_loss, values)


def test_without_inner_steps_the_context_is_zero_and_changes_nothing():
    learner, batch = image_learner(n_inner_steps=0), make_batch(shape=(16,), n_outputs=3)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    assert not state["context"].any()
    plain = learner.head(learner.embed(learner.backbone, batch.x_query))
    assert_close(learner.predict(state, batch.x_query), plain)


def test_film_is_linear_in_the_context_on_the_third_normalisation():
    backbone = Conv4(image_shape=(1, 16, 16), n_filters=8).build((256,)).double()
    context = FiLMContext(backbone, 2).double()
    norm = backbone.blocks[2][1]
    assert context.layer == "blocks.2.1"
    phi, x = torch.randn(2, 2).double(), torch.randn(2, 3, 256).double()
    got = context(backbone, phi, x)
    weight, bias = norm.weight.clone(), norm.bias.clone()
    for t in range(2):
        change = context.changes(phi[t]).detach()
        with torch.no_grad():
            norm.weight.copy_(weight + change[:8])
            norm.bias.copy_(bias + change[8:])
            assert_close(got[t].detach(), backbone(x[t]), rtol=1e-10, atol=1e-12)


def test_a_fitted_estimator_keeps_no_graph():
    tasks = make_sinusoid_tasks(8, random_state=0)
    reg = CAVIARegressor(max_iter=2, random_state=0).meta_fit(tasks).fit(tasks[0][0], tasks[0][1])
    assert not reg._adapted[1]["context"].requires_grad
    assert reg._adapted[1]["context"].shape == (1, 5)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.normal(size=(60, 1, 4, 4)) + y[:, None, None, None]
    return X, y


def test_images_get_film_and_flat_rows_further_features(images):
    X, y = images
    tasks = {"n_way": 3, "n_shot": 2, "n_query": 2, "n_tasks": 8, "random_state": 0}
    conv = Conv4(image_shape=(1, 4, 4), n_filters=8, n_blocks=2)
    for rows, backbone, kind in (
        (X, conv, FiLMContext),
        (X.reshape(60, 16), conv, FiLMContext),
        (X.reshape(60, 16), None, InputContext),
        (X.reshape(60, 16), nn.Linear(16 + 4, 3), InputContext),
        (X.reshape(60, 4, 4), None, InputContext),
    ):
        clf = CAVIAClassifier(backbone=backbone, n_context=4, max_iter=2, random_state=0)
        clf.meta_fit(EpisodicTasks(rows, y, **tasks)).fit(rows, y)
        assert isinstance(clf._meta.learner.context, kind)
        assert clf.predict_proba(rows).shape == (60, 3)


def test_a_module_that_is_too_narrow_for_the_context_is_refused_with_the_width(images):
    X, y = images[0].reshape(60, 16), images[1]
    with pytest.raises(ValueError, match=r"n_context=4 values .* rows of 20 features"):
        CAVIAClassifier(backbone=nn.Linear(16, 3), n_context=4).fit(X, y)


def test_convolutions_without_a_normalisation_are_refused_with_the_cure(images):
    backbone = Conv4(image_shape=(1, 4, 4), n_filters=8, n_blocks=2, norm=None)
    with pytest.raises(ValueError, match=r"has none that is learned.*norm='group'"):
        CAVIAClassifier(backbone=backbone).fit(*images)


def test_sinusoids_are_learned_far_better_after_meta_training():
    def error(max_iter, rate):
        reg = CAVIARegressor(
            backbone=MLP(hidden_layer_sizes=(40, 40), norm=None),
            max_iter=max_iter, meta_learning_rate=rate, random_state=0,
        )  # fmt: skip
        reg.meta_fit(make_sinusoid_tasks(1000, random_state=0))
        tasks = make_sinusoid_tasks(100, random_state=1)
        predictions = reg.predict_tasks(tasks)
        return np.mean([(p - t.y_query) ** 2 for p, t in zip(predictions, tasks, strict=True)])

    assert error(200, 1e-2) < 0.6 * error(1, 1e-12)
