"""A plain loop over tasks with autograd through every step, which the learners must equal."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from fewshot_sklearn.tasks._batch import TaskBatch


def regression_batch(n_tasks=3, n_support=4, n_query=5, n_features=2, n_outputs=1):
    x = torch.randn(n_tasks, n_support + n_query, n_features, dtype=torch.float64)
    y = torch.randn(n_tasks, n_support + n_query, n_outputs, dtype=torch.float64)
    return TaskBatch(x[:, :n_support], y[:, :n_support], x[:, n_support:], y[:, n_support:])


def classification_batch(n_tasks=3, n_classes=3, n_features=2):
    """Return tasks with two support and two query rows of every class."""
    x = torch.randn(n_tasks, 4 * n_classes, n_features, dtype=torch.float64)
    y = torch.eye(n_classes, dtype=torch.float64).repeat(n_tasks, 4, 1)
    half = 2 * n_classes
    return TaskBatch(x[:, :half], y[:, :half], x[:, half:], y[:, half:])


def tanh_network(n_out=2):
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, n_out))


def gradients(learner, batch):
    """Return the meta-gradient by parameter name."""
    learner.zero_grad(set_to_none=True)
    learner.meta_gradient(batch)
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.requires_grad}


def relative_difference(a, b):
    difference = sum((a[k] - b[k]).square().sum() for k in a).sqrt()
    return (difference / sum(v.square().sum() for v in b.values()).sqrt()).item()


def plain_outputs(network, theta, x):
    """Return the outputs of one task's network."""
    own = {k.removeprefix("backbone."): w for k, w in theta.items() if "." in k}
    z = functional_call(network.backbone, own, (x,))
    return F.linear(z, theta["weight"], theta["bias"])


def plain_steps(network, x, y, rates, *, first_order=False):
    """Return one task's weights before the first and after every step."""
    start = network.shared_start(y[None])
    steps = [{k: w if w.requires_grad else w.requires_grad_() for k, w in start.items()}]
    for rate in rates:
        # Views: the derivative with respect to a weight of this step alone, moved before or not.
        theta = {k: w.view_as(w) for k, w in steps[-1].items()}
        loss = network.loss(plain_outputs(network, theta, x), y, None)
        moved = list(rate)
        found = torch.autograd.grad(loss, [theta[k] for k in moved], create_graph=not first_order)
        new = {k: theta[k] - rate[k] * g for k, g in zip(moved, found, strict=True)}
        steps.append(theta | new)
    return steps


def plain_meta_loss(network, batch, rates, *, step_weights=(1.0,), first_order=False):
    """Return the mean query loss after the last steps, weighted."""
    losses = []
    for t in range(len(batch)):
        support = batch.x_support[t], batch.y_support[t]
        steps = plain_steps(network, *support, rates, first_order=first_order)
        for v, theta in zip(step_weights, steps[-len(step_weights) :], strict=True):
            outputs = plain_outputs(network, theta, batch.x_query[t])
            losses.append(v * network.loss(outputs, batch.y_query[t], None))
    return torch.stack(losses).sum() / len(batch)


def assert_is_plain(learner, batch, rates, **options):
    """Compare a learner's meta-loss and meta-gradient with those of the plain loop."""
    loss = plain_meta_loss(learner.network, batch, rates, **options)
    learned = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(learned.values()))
    assert_close(learner.meta_loss(batch), loss, rtol=1e-10, atol=0)
    reference = dict(zip(learned, found, strict=True))
    got = gradients(learner, batch)
    assert relative_difference(got, reference) < 1e-9
    for name, g in reference.items():
        assert_close(got[name], g, rtol=1e-7, atol=1e-9, msg=name)
