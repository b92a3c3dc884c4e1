"""ES-MAML: the estimate against the gradient of the smoothed objective, in closed form."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fewshot_sklearn import EpisodicTasks, ESMAMLClassifier, ESMAMLRegressor, MAMLClassifier
from fewshot_sklearn.gradient_based._es_maml import ESMAMLLearner, accuracy
from fewshot_sklearn.nn import task_network
from fewshot_sklearn.nn.functional import cross_entropy, squared_error
from fewshot_sklearn.tasks._batch import TaskBatch


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_learner(backbone, head, *, n_features=2, loss=squared_error, **options):
    options = {
        "objective": None, "sigma": 0.1, "n_perturbations": 4, "n_inner_steps": 2,
        "inner_learning_rate": 0.1,
    } | options  # fmt: skip
    network = task_network(backbone, head, n_features=n_features, loss=loss)
    return ESMAMLLearner(network, **options).double()


def make_batch(n_tasks=2):
    x = torch.randn(n_tasks, 9, 2, dtype=torch.float64)
    y = torch.randn(n_tasks, 9, 1, dtype=torch.float64)
    return TaskBatch(x[:, :4], y[:, :4], x[:, 4:], y[:, 4:])


def gradients(learner, batch):
    learner.zero_grad(set_to_none=True)
    loss = learner.meta_gradient(batch)
    return loss, torch.cat([p.grad.flatten() for p in learner.parameters()])


def exact(learner, batch):
    loss = learner.meta_loss(batch)
    both = torch.autograd.grad(loss, list(learner.parameters()))
    return loss.detach(), torch.cat([g.flatten() for g in both])


class WithoutFirstOrder(ESMAMLLearner):
    """Differentiates through the inner steps, which evolution strategies never need."""

    def adapt(self, x, y, mask, start=None):
        rates = self.network.rates(self.inner_learning_rate, self.n_inner_steps)
        return self.network.descend(rates, x, y, mask, start=start)


def test_the_expectation_of_the_estimate_is_the_meta_gradient_of_a_quadratic():
    r"""A linear model's query loss after the inner steps is quadratic in the start.

    Of a quadratic :math:`q(\theta)`, the smoothed :math:`E_g q(\theta + \sigma g)` has the gradient
    of q whatever sigma is, and an antithetic pair gives :math:`(g^\top \nabla q) g` exactly. With
    :math:`P T` pairs the estimate of d numbers is off by about
    :math:`\lVert \nabla q_t \rVert \sqrt{(d + 1) / (P T)}`.
    """
    batch = make_batch()
    learner = make_learner(nn.Flatten(), nn.Linear(2, 1), sigma=3.0, n_perturbations=40_000)
    learner.__class__ = WithoutFirstOrder
    _, expected = exact(learner, batch)
    learner.__class__ = ESMAMLLearner
    loss, got = gradients(learner, batch)
    assert (got - expected).norm() < 0.03 * max(1.0, float(expected.norm()))
    assert not loss.requires_grad


def test_each_pair_gives_the_derivative_along_its_perturbation():
    """For a quadratic objective the difference of a pair is exact; the draws can be repeated."""
    batch = make_batch(3)
    learner = make_learner(nn.Flatten(), nn.Linear(2, 1), sigma=0.7, n_perturbations=2)
    learner.__class__ = WithoutFirstOrder
    of_task = [exact(learner, batch[t : t + 1])[1] for t in range(3)]
    learner.__class__ = ESMAMLLearner
    torch.manual_seed(5)
    _, got = gradients(learner, batch)
    torch.manual_seed(5)
    weight, bias = torch.randn(6, 1, 2).double(), torch.randn(6, 1).double()
    expected = torch.zeros(3, dtype=torch.float64)
    for pair in range(6):
        g = torch.cat([weight[pair].flatten(), bias[pair]])
        expected += (g @ of_task[pair // 2]) * g / 6
    assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_the_loss_is_that_of_the_perturbed_starts():
    """The mean of a quadratic over antithetic pairs lies above that of the start."""
    batch = make_batch()
    learner = make_learner(nn.Flatten(), nn.Linear(2, 1), sigma=1.0, n_perturbations=64)
    assert gradients(learner, batch)[0] > learner.meta_loss(batch)
    learner.sigma = 1e-6
    assert_close(gradients(learner, batch)[0], learner.meta_loss(batch).detach(), rtol=1e-4, atol=0)


def test_the_estimate_is_repeated_by_the_seed_and_by_nothing_else():
    learner = make_learner(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), None, n_features=3)
    batch = make_batch()
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(gradients(learner, batch)[1])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_gradient_is_added_to_what_is_there():
    learner, batch = make_learner(nn.Flatten(), nn.Linear(2, 1)), make_batch()
    torch.manual_seed(1)
    gradients(learner, batch)
    once = learner.head.weight.grad.clone()
    torch.manual_seed(1)
    learner.meta_gradient(batch)
    assert_close(learner.head.weight.grad, 2 * once)


def test_frozen_weights_are_not_perturbed():
    backbone = nn.Linear(2, 3).requires_grad_(False)
    learner = make_learner(backbone, nn.Linear(3, 1), n_features=3)
    learner.meta_gradient(make_batch())
    assert backbone.weight.grad is None
    assert learner.head.weight.grad.abs().max() > 0


def test_perturbations_that_do_not_fit_in_memory_together_are_tried_one_after_the_other():
    learner, batch = make_learner(nn.Flatten(), nn.Linear(2, 1), n_perturbations=5), make_batch()
    sizes = []
    scores = learner.scores
    learner.scores = lambda tasks, start=None: sizes.append(len(tasks)) or scores(tasks, start)
    learner.tasks_at_once = lambda batch: 4
    learner.meta_gradient(batch)
    assert sizes == [2] * 10
    assert torch.isfinite(learner.head.weight.grad).all()


def test_accuracy_leaves_padding_out():
    outputs = torch.tensor([[[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]]])
    y = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    assert accuracy(outputs, y, mask).tolist() == [0.5]


def test_an_objective_without_a_gradient_is_raised():
    """The reward is that the outputs have few digits other than one: a step function."""

    def near_one(outputs, y, mask):
        return ((outputs - 1).abs() < 0.5).to(outputs.dtype).mean(dim=(1, 2))

    learner = make_learner(
        nn.Flatten(), nn.Linear(2, 1), objective=near_one, sigma=0.5, n_perturbations=200,
        n_inner_steps=0,
    )  # fmt: skip
    nn.init.zeros_(learner.head.weight)
    nn.init.zeros_(learner.head.bias)
    gradients(learner, make_batch(8))
    assert learner.head.bias.grad.item() < -0.1
    assert learner.meta_loss(make_batch(8)).item() == 0


@pytest.fixture(scope="module")
def tasks():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 4
    X = rng.normal(size=(120, 4)) + 2 * np.eye(4)[y]
    return EpisodicTasks(X, y, n_way=3, n_shot=2, n_query=3, n_tasks=40, random_state=0)


@pytest.mark.parametrize("objective", ["loss", "accuracy", cross_entropy])
def test_objectives_meta_train(tasks, objective):
    clf = ESMAMLClassifier(objective=objective, n_perturbations=2, max_iter=2, random_state=0)
    clf.meta_fit(tasks)
    losses = np.array(clf.meta_loss_curve_)
    assert np.isfinite(losses).all()
    if objective == "accuracy":
        assert ((losses <= 0) & (losses >= -1)).all()


def test_fit_takes_the_steps_of_maml(tasks):
    options = {"max_iter": 1, "meta_learning_rate": 1e-12, "precision": "float64"}
    X, y, X_query, _ = tasks[0]
    found = [
        cls(**options, random_state=0).meta_fit(tasks).fit(X, y).predict_proba(X_query)
        for cls in (MAMLClassifier, ESMAMLClassifier)
    ]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_an_objective_that_averages_over_tasks_is_refused(tasks):
    clf = ESMAMLClassifier(objective=lambda outputs, y, mask: outputs.mean(), max_iter=1)
    with pytest.raises(ValueError, match=r"a score for each of the .* tasks"):
        clf.meta_fit(tasks)


def test_regression_has_no_accuracy(tasks):
    with pytest.raises(ValueError, match="objective"):
        ESMAMLRegressor(objective="accuracy").fit(np.zeros((9, 2)), np.arange(9.0))
