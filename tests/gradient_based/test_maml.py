"""MAML against closed forms, plain loops and finite differences."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from fewshot_sklearn import MLP, Conv4, EpisodicTasks, MAMLClassifier, MAMLRegressor, TaskList
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.gradient_based._maml import MAMLLearner
from fewshot_sklearn.nn import task_network
from fewshot_sklearn.nn.functional import cross_entropy, squared_error
from fewshot_sklearn.tasks._batch import TaskBatch
from tests.gradient_based._plain import (
    assert_is_plain,
    classification_batch,
    gradients,
    regression_batch,
    relative_difference,
    tanh_network,
)

ALPHA = 0.1


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_learner(backbone, head, *, loss=cross_entropy, n_features=2, **options):
    options = {"n_inner_steps": 1, "inner_learning_rate": ALPHA, "first_order": False} | options
    network = task_network(backbone, head, n_features=n_features, loss=loss)
    return MAMLLearner(network, **options).double()


# ---------------------------------------------------------------------------- linear closed forms


def with_ones(x):
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def flat(head):
    return torch.cat([head.weight, head.bias[:, None]], dim=1).detach().numpy()[0]


def linear_task(x, y, theta, alpha, k):
    """Return H and the weights after k steps, as derived below."""
    X = with_ones(x)
    H, g = 2 / len(X) * X.T @ X, 2 / len(X) * X.T @ y
    step = np.eye(len(H)) - alpha * H
    for _ in range(k):
        theta = step @ theta + alpha * g
    return H, theta


@pytest.mark.parametrize("k", [0, 1, 3, 10])
def test_linear_regression_adapts_as_derived(k):
    r"""With the identity for a backbone the inner loss is quadratic.

    Let :math:`\tilde X = [X, 1]` and :math:`\theta = (w, b)`. Then
    :math:`L(\theta) = \frac1S \lVert \tilde X \theta - y \rVert^2` has the gradient
    :math:`H \theta - g` with :math:`H = \frac2S \tilde X^T \tilde X` and
    :math:`g = \frac2S \tilde X^T y`. One step is
    :math:`\theta' = (I - \alpha H) \theta + \alpha g`. Where H has an inverse,
    :math:`\theta^* = H^{-1} g` stays where it is, so that after k steps

    .. math:: \theta^{(k)} = \theta^* + (I - \alpha H)^k (\theta^{(0)} - \theta^*).
    """
    batch = regression_batch()
    learner = make_learner(nn.Flatten(), nn.Linear(2, 1), loss=squared_error, n_inner_steps=k)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    outputs = learner.predict(state, batch.x_query)
    theta = flat(learner.head)
    for t in range(len(batch)):
        x, y = batch.x_support[t].numpy(), batch.y_support[t, :, 0].numpy()
        H, adapted = linear_task(x, y, theta, ALPHA, k)
        optimum = np.linalg.lstsq(with_ones(x), y, rcond=None)[0]
        power = np.linalg.matrix_power(np.eye(3) - ALPHA * H, k)
        np.testing.assert_allclose(adapted, optimum + power @ (theta - optimum))
        expected = with_ones(batch.x_query[t].numpy()) @ adapted
        np.testing.assert_allclose(outputs[t, :, 0].detach(), expected, rtol=1e-10)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("k", [1, 4])
def test_the_meta_gradient_of_linear_regression_is_as_derived(k, first_order):
    r"""The adapted weights depend on the start by a constant matrix.

    From :math:`\theta^{(k)} = (I - \alpha H)^k \theta^{(0)} + \text{const}` the chain rule gives,
    for the query loss :math:`L_Q`,

    .. math:: \nabla_{\theta^{(0)}} L_Q(\theta^{(k)}) = (I - \alpha H)^k \nabla L_Q(\theta^{(k)}),

    H being symmetric; for one step :math:`(I - \alpha H) \nabla L_Q(\theta')`. First-order MAML
    leaves the matrix out. The meta-gradient is the mean over the tasks.
    """
    batch = regression_batch()
    learner = make_learner(
        nn.Flatten(), nn.Linear(2, 1), loss=squared_error, n_inner_steps=k, first_order=first_order
    )
    theta = flat(learner.head)
    expected, losses = np.zeros(3), []
    for t in range(len(batch)):
        x, y = batch.x_support[t].numpy(), batch.y_support[t, :, 0].numpy()
        H, adapted = linear_task(x, y, theta, ALPHA, k)
        X, y = with_ones(batch.x_query[t].numpy()), batch.y_query[t, :, 0].numpy()
        losses.append(np.mean((X @ adapted - y) ** 2))
        outer = 2 / len(X) * X.T @ (X @ adapted - y)
        power = np.eye(3) if first_order else np.linalg.matrix_power(np.eye(3) - ALPHA * H, k)
        expected += power @ outer / len(batch)
    loss = learner.meta_gradient(batch)
    assert not loss.requires_grad
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-10)
    gradient = torch.cat([learner.head.weight.grad, learner.head.bias.grad[:, None]], dim=1)[0]
    np.testing.assert_allclose(gradient, expected, rtol=1e-9)


def test_a_fitted_regressor_is_gradient_descent_from_the_meta_learned_weights():
    tasks = make_sinusoid_tasks(20, random_state=0)
    reg = MAMLRegressor(
        backbone=nn.Flatten(), max_iter=3, n_inner_steps=4, inner_learning_rate=0.05,
        normalize_y=False, precision="float64", random_state=0,
    ).meta_fit(tasks)  # fmt: skip
    X, y, X_query, _ = tasks[7]
    _, theta = linear_task(X, y, flat(reg._meta.learner.head), 0.05, 4)
    prediction = reg.fit(X, y).predict(X_query)
    np.testing.assert_allclose(prediction, with_ones(X_query) @ theta, rtol=1e-10)


def test_one_step_of_the_shared_head_is_the_derived_softmax_regression():
    r"""From zero weights every class has the probability 1/C, so one step gives

    .. math:: w_c = \frac{\alpha}{S} \sum_i (y_{ic} - 1/C) z_i, \qquad
              b_c = \frac{\alpha}{S} \sum_i (y_{ic} - 1/C).
    """
    batch = classification_batch()
    learner = make_learner(nn.Flatten(), None)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    residual = (batch.y_support - 1 / 3).mT * ALPHA / batch.x_support.shape[1]
    weight, bias = residual @ batch.x_support, residual.sum(dim=-1)
    expected = batch.x_query @ weight.mT + bias.unsqueeze(1)
    assert_close(learner.predict(state, batch.x_query), expected)


# ---------------------------------------------------------------------------- derivatives


def assert_meta_gradient_is_plain(learner, batch):
    assert_is_plain(learner, batch, learner.rates(), first_order=learner.first_order)


class FunctionalNorm(nn.Module):
    """A user's layer that calls layer norm as a function."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 0.5]))

    def forward(self, z):
        return nn.functional.layer_norm(z, (3,), self.scale)


NORMS = {
    "layer": lambda: nn.LayerNorm(3),
    "functional": FunctionalNorm,
    "instance": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.InstanceNorm1d(1, affine=True), nn.Flatten()
    ),
    "group": lambda: nn.GroupNorm(1, 3),
    "rms": lambda: nn.RMSNorm(3),
    "none": nn.Identity,
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_the_meta_gradient_through_a_users_norm_is_right(norm):
    """Stacking tasks by vmap gives wrong second derivatives through some of torch's norms."""
    backbone = nn.Sequential(nn.Linear(2, 3), norm(), nn.Tanh(), nn.Linear(3, 2))
    learner = make_learner(backbone, None, n_inner_steps=3, inner_learning_rate=0.5)
    assert_meta_gradient_is_plain(learner, classification_batch())


@pytest.mark.parametrize("head", ["shared", "per_class"])
@pytest.mark.parametrize("loss", [cross_entropy, squared_error])
def test_the_meta_gradient_of_a_network_is_that_of_a_plain_loop(loss, head):
    learner = make_learner(
        tanh_network(),
        nn.Linear(2, 3) if head == "per_class" else None,
        loss=loss,
        n_inner_steps=3,
        inner_learning_rate=0.5,
    )
    assert_meta_gradient_is_plain(learner, classification_batch())


class _AsForward(nn.Module):
    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def forward(self, batch):
        return self.learner.meta_loss(batch)


@pytest.mark.parametrize("n_tasks", [1, 2])
@pytest.mark.parametrize("head", ["shared", "per_class"])
def test_the_meta_gradient_is_the_derivative_of_the_meta_loss(head, n_tasks):
    learner = make_learner(
        tanh_network(),
        nn.Linear(2, 3) if head == "per_class" else None,
        n_inner_steps=2,
        inner_learning_rate=0.5,
    )
    batch = classification_batch(n_tasks)
    module = _AsForward(learner)
    names = [name for name, _ in module.named_parameters()]

    def meta_loss(*values):
        return functional_call(module, dict(zip(names, values, strict=True)), (batch,))

    values = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert torch.autograd.gradcheck(meta_loss, values)


def test_first_order_maml_becomes_maml_as_the_inner_rate_falls():
    """The difference of the gradients is of first order in the inner rate."""
    batch = classification_batch()
    learner = make_learner(tanh_network(), nn.Linear(2, 3), n_inner_steps=3)

    def difference(alpha):
        learner.inner_learning_rate = alpha
        found = []
        for learner.first_order in (True, False):
            found.append(gradients(learner, batch))
        return relative_difference(*found)

    large, small, zero = difference(1e-2), difference(1e-4), difference(0.0)
    assert large > 1e-4
    assert small / large == pytest.approx(1e-2, rel=0.1)
    assert zero < 1e-12


def test_without_inner_steps_the_meta_gradient_is_that_of_joint_training():
    batch = regression_batch()
    learner = make_learner(tanh_network(), nn.Linear(2, 1), loss=squared_error, n_inner_steps=0)
    outputs = learner.head(learner.backbone(batch.x_query.flatten(0, 1)))
    expected = (outputs - batch.y_query.flatten(0, 1)).square().mean()
    reference = torch.autograd.grad(expected, list(learner.parameters()))
    for got, wanted in zip(gradients(learner, batch).values(), reference, strict=True):
        assert_close(got, wanted)


# ---------------------------------------------------------------------------- the heads


def changes_by_moving_the_body(learner, batch, n_steps):
    """Return how far the outputs are from those of steps with the head only."""
    rates = learner.network.rates(ALPHA, n_steps)
    head_only = learner.network.rates(ALPHA, n_steps, ["weight", "bias"])
    outputs = [
        learner.predict(
            learner.network.descend(r, batch.x_support, batch.y_support, None), batch.x_query
        )
        for r in (rates, head_only)
    ]
    return (outputs[0] - outputs[1]).abs().max().item()


def test_the_first_inner_step_of_the_shared_head_moves_the_head_only():
    batch = classification_batch()
    learner = make_learner(tanh_network(), None)
    state = learner.adapt(batch.x_support, batch.y_support, None)
    assert learner.predict(state, batch.x_query).abs().max() > 1e-3
    assert changes_by_moving_the_body(learner, batch, 1) < 1e-15
    assert changes_by_moving_the_body(learner, batch, 2) > 1e-7


def test_the_first_inner_step_of_the_per_class_head_moves_everything():
    learner = make_learner(tanh_network(), nn.Linear(2, 3))
    assert changes_by_moving_the_body(learner, classification_batch(), 1) > 1e-3


def test_a_start_that_all_classes_have_in_common_cancels():
    """It adds the same number to every logit of a row, which the softmax cancels."""
    batch = classification_batch()
    shared = make_learner(tanh_network(), None, n_inner_steps=3, inner_learning_rate=0.5)
    common = nn.Linear(2, 3).double()
    with torch.no_grad():
        common.weight.copy_(torch.randn(2, dtype=torch.float64).expand(3, 2))
        common.bias.fill_(1.5)
    per_class = make_learner(shared.backbone, common, n_inner_steps=3, inner_learning_rate=0.5)
    probabilities = [
        learner.predict(
            learner.adapt(batch.x_support, batch.y_support, None), batch.x_query
        ).softmax(dim=-1)
        for learner in (shared, per_class)
    ]
    assert_close(*probabilities, rtol=1e-10, atol=1e-12)
    meta_gradient = gradients(per_class, batch)
    assert_close(meta_gradient["head.weight"].sum(dim=0), torch.zeros(2, dtype=torch.float64))
    assert abs(meta_gradient["head.bias"].sum()) < 1e-12


def test_the_shared_head_creates_no_parameters_of_its_own():
    learner = make_learner(tanh_network(), None)
    assert all(name.startswith("backbone.") for name, _ in learner.named_parameters())
    assert learner.n_outputs is None


# ---------------------------------------------------------------------------- ragged batches


@pytest.mark.parametrize("head", ["shared", "per_class"])
def test_a_ragged_batch_of_different_ways_is_its_tasks_one_by_one(head):
    batch = classification_batch(2)
    # The second task has only the first two classes and fewer rows.
    keep = batch.y_support[0, :, 2] == 0
    keep[-2:] = False
    mask = torch.stack([torch.ones_like(keep), keep])
    query_mask = torch.stack([torch.ones_like(keep), batch.y_query[0, :, 2] == 0])
    ragged = TaskBatch(
        torch.where(mask[..., None], batch.x_support, 77.0),
        batch.y_support * mask[..., None],
        torch.where(query_mask[..., None], batch.x_query, 77.0),
        batch.y_query * query_mask[..., None],
        mask,
        query_mask,
        torch.tensor([[True, True, True], [True, True, False]]),
    )
    small = TaskBatch(
        batch.x_support[1:, keep],
        batch.y_support[1:, keep],
        batch.x_query[1:, query_mask[1]],
        batch.y_query[1:, query_mask[1]],
        class_mask=torch.tensor([[True, True, False]]),
    )
    learner = make_learner(
        tanh_network(), nn.Linear(2, 3) if head == "per_class" else None, n_inner_steps=3
    )
    one_by_one = [gradients(learner, part) for part in (batch[:1], small)]
    losses = [learner.meta_loss(part) for part in (batch[:1], small)]
    assert_close(learner.meta_loss(ragged), torch.stack(losses).mean(), rtol=1e-10, atol=0)
    expected = {k: (one_by_one[0][k] + one_by_one[1][k]) / 2 for k in one_by_one[0]}
    assert relative_difference(gradients(learner, ragged), expected) < 1e-9


def test_adapting_leaves_parameters_as_they_are():
    learner = make_learner(tanh_network(), nn.Linear(2, 3), n_inner_steps=3)
    before = copy.deepcopy(learner.state_dict())
    batch = classification_batch()
    learner.predict(learner.adapt(batch.x_support, batch.y_support, None), batch.x_query)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])


# ---------------------------------------------------------------------------- the estimators


@pytest.fixture(scope="module")
def blobs():
    """Return rows around twelve centres, and their numbers."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 10)
    return rng.normal(size=(12, 4))[y] * 2 + rng.normal(size=(120, 4)) / 2, y


def small_maml(**params):
    params = {"backbone": MLP(hidden_layer_sizes=(8,)), "max_iter": 2, "random_state": 0} | params
    return MAMLClassifier(**params)


@pytest.fixture(scope="module")
def arbitrary(blobs):
    return EpisodicTasks(*blobs, n_way=3, n_shot=2, n_query=2, n_tasks=20, random_state=0)


@pytest.fixture(scope="module")
def shared(blobs):
    """Return tasks that tell one blob, "yes", from the next one, "no"."""
    X, y = blobs
    tasks = []
    for a in range(12):
        rows = np.flatnonzero(np.isin(y, [a, (a + 1) % 12]))
        labels = np.where(y[rows] == a, "yes", "no")
        tasks.append((X[rows[::2]], labels[::2], X[rows[1::2]], labels[1::2]))
    return TaskList(tasks)


def test_the_per_class_head_fixes_the_number_of_classes(arbitrary, blobs):
    X, y = blobs
    clf = small_maml(head="per_class").meta_fit(arbitrary)
    with pytest.raises(ValueError, match="has 4 classes, but the largest meta-training task had 3"):
        clf.fit(X[:40], y[:40])
    assert clf.fit(X[:30], y[:30]).predict_proba(X).shape == (120, 3)
    probabilities = clf.fit(X[:20], y[:20]).predict_proba(X)
    assert probabilities.shape == (120, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_the_shared_head_takes_any_number_of_classes(arbitrary, blobs):
    X, y = blobs
    clf = small_maml().meta_fit(arbitrary)
    for n_classes in (2, 3, 12):
        rows = y < n_classes
        assert clf.fit(X[rows], y[rows]).predict_proba(X).shape == (120, n_classes)


def test_auto_takes_a_head_per_class_where_the_tasks_share_their_labels(arbitrary, shared):
    assert small_maml().meta_fit(arbitrary)._meta.learner.head is None
    assert small_maml().meta_fit(shared)._meta.learner.head.out_features == 2
    assert small_maml(head="shared").meta_fit(shared)._meta.learner.head is None


def test_a_label_that_was_not_meta_trained_is_refused_where_labels_are_shared(shared, blobs):
    clf = small_maml().meta_fit(shared)
    y = np.array(["yes", "perhaps"] * 60)
    with pytest.raises(ValueError, match=r"'perhaps'.* is not among the labels \['no', 'yes'\]"):
        clf.fit(blobs[0], y)


def test_shared_labels_keep_their_column_whatever_the_support_has(shared):
    """Without inner steps the head's columns are all that tells the classes apart."""
    clf = small_maml(n_inner_steps=0).meta_fit(shared)
    X, y, X_query, _ = shared[0]
    both = clf.fit(X, y).decision_function(X_query)
    swapped = clf.fit(X[::-1], y[::-1]).decision_function(X_query)
    np.testing.assert_allclose(both, swapped, rtol=1e-5)
    only = y == "yes"
    assert set(clf.fit(X[only], y[only]).predict(X_query)) == {"yes"}


def test_more_inner_steps_may_be_taken_after_meta_training(arbitrary):
    clf = small_maml(precision="float64", n_inner_steps=2).meta_fit(arbitrary)
    X, y, _, _ = arbitrary[0]

    def support_loss(n_steps):
        proba = clf.set_params(n_inner_steps=n_steps).fit(X, y).predict_proba(X)
        return -np.log(proba[np.arange(len(y)), np.searchsorted(clf.classes_, y)]).mean()

    losses = [support_loss(n) for n in (0, 2, 10, 50)]
    assert losses[0] == pytest.approx(np.log(3))
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < losses[1] / 2
    assert support_loss(2) == losses[1]


def test_steps_set_after_meta_training_are_those_of_a_plain_descent(arbitrary):
    clf = small_maml(precision="float64").meta_fit(arbitrary)
    X, y, X_query, _ = arbitrary[0]
    clf.set_params(n_inner_steps=7, inner_learning_rate=0.3, first_order=True).fit(X, y)
    meta = clf._meta.learner
    learner = make_learner(
        copy.deepcopy(meta.backbone).requires_grad_(True), None, n_features=8,
        n_inner_steps=7, inner_learning_rate=0.3,
    )  # fmt: skip
    labels = torch.eye(3, dtype=torch.float64)[np.searchsorted(clf.classes_, y)][None]
    state = learner.adapt(torch.from_numpy(X)[None], labels, None)
    expected = learner.predict(state, torch.from_numpy(X_query)[None])[0].detach().numpy()
    np.testing.assert_allclose(clf.decision_function(X_query), expected, rtol=1e-8, atol=1e-10)


def test_changed_steps_reach_clones_and_leave_the_original_as_it_is(arbitrary):
    clf = small_maml().meta_fit(arbitrary)
    X, y, X_query, _ = arbitrary[0]
    before = clf.fit(X, y).predict_proba(X_query)
    other = clone(clf).set_params(n_inner_steps=30).fit(X, y).predict_proba(X_query)
    assert not np.allclose(before, other, atol=1e-3)
    np.testing.assert_array_equal(clf.fit(X, y).predict_proba(X_query), before)


@pytest.mark.parametrize(
    "backbone",
    [
        Conv4(image_shape=(1, 2, 2), n_blocks=1, norm="batch"),
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
    ],
    ids=["Conv4", "user"],
)
def test_batch_normalisation_is_refused_with_the_cure(arbitrary, backbone):
    with pytest.raises(ValueError, match=r"the layer .*BatchNorm.*GroupNorm"):
        small_maml(backbone=backbone).meta_fit(arbitrary)


def test_convolutional_maml_learns_images(arbitrary, blobs):
    """Four features make an image of 2 x 2; flat rows and images give the same."""
    clf = small_maml(backbone=Conv4(image_shape=(1, 2, 2), n_filters=8, n_blocks=1))
    X, y = blobs
    flat_rows = clf.meta_fit(arbitrary).fit(X[:30], y[:30]).predict_proba(X)
    images = EpisodicTasks(
        X.reshape(-1, 2, 2), y, n_way=3, n_shot=2, n_query=2, n_tasks=20, random_state=0
    )
    X = X.reshape(-1, 2, 2)
    as_images = clf.meta_fit(images).fit(X[:30], y[:30]).predict_proba(X)
    np.testing.assert_allclose(flat_rows, as_images, rtol=1e-4, atol=1e-6)


def test_a_backbone_without_parameters_is_softmax_regression_from_zero(arbitrary, blobs):
    """Nothing is left to meta-learn; meta-training must not mind."""
    X, y = blobs[0][:30], blobs[1][:30]
    clf = small_maml(backbone=nn.Flatten(), head="shared", n_inner_steps=1, precision="float64")
    expected = softmax_step(X, np.eye(3)[y])
    for fitted in (clf.fit(X, y), clone(clf).meta_fit(arbitrary).fit(X, y)):
        np.testing.assert_allclose(fitted.decision_function(X), expected, rtol=1e-9)


def softmax_step(X, Y):
    """Return the logits after one step from zero, with inner rate 0.1."""
    residual = 0.1 * (Y - 1 / Y.shape[1]).T / len(X)
    return X @ (residual @ X).T + residual.sum(axis=1)


@pytest.mark.parametrize("first_order", [False, True])
def test_sinusoids_are_learned_far_better_after_meta_training(first_order):
    def error(max_iter, rate):
        reg = MAMLRegressor(
            backbone=MLP(hidden_layer_sizes=(40, 40), norm=None), n_inner_steps=3,
            max_iter=max_iter, meta_learning_rate=rate, first_order=first_order, random_state=0,
        )  # fmt: skip
        reg.meta_fit(make_sinusoid_tasks(1000, random_state=0))
        tasks = make_sinusoid_tasks(100, random_state=1)
        predictions = reg.predict_tasks(tasks)
        return np.mean([(p - t.y_query) ** 2 for p, t in zip(predictions, tasks, strict=True)])

    untrained, trained = error(1, 1e-12), error(200, 1e-2)
    assert untrained > 2
    assert trained < 0.6 * untrained
