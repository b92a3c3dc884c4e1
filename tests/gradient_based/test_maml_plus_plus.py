"""MAML++: losses after every step, learned rates, annealed derivatives, against plain loops."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.testing import assert_close

import fewshot_sklearn
from fewshot_sklearn import MLP, MAMLClassifier, MAMLRegressor
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.gradient_based._maml import MAMLLearner, MAMLPlusPlusLearner
from fewshot_sklearn.nn import task_network
from fewshot_sklearn.nn.functional import cross_entropy, squared_error
from tests.gradient_based._plain import (
    assert_is_plain,
    classification_batch,
    gradients,
    plain_outputs,
    plain_steps,
    relative_difference,
    tanh_network,
)

ALPHA = 0.5


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_learner(head="per_class", *, loss=cross_entropy, **options):
    start = nn.Linear(2, 3) if head == "per_class" else None
    network = task_network(tanh_network(), start, n_features=2, loss=loss)
    options = {
        "n_inner_steps": 3,
        "inner_learning_rate": ALPHA,
        "first_order": False,
        "learned_rates": False,
        "multi_step_iter": 0,
        "first_order_iter": 0,
    } | options
    return MAMLPlusPlusLearner(network, **options).double()


def as_maml(learner, *, first_order=False):
    """Return MAML with the same start."""
    options = {"n_inner_steps": learner.n_inner_steps, "inner_learning_rate": ALPHA}
    return MAMLLearner(learner.network, first_order=first_order, **options)


def scatter_rates(learner):
    """Give every layer and step a rate of its own, of which one is negative."""
    with torch.no_grad():
        for p in learner.layer_step_rates.parameters():
            p.copy_(torch.rand_like(p))
            p.view(-1)[-1].neg_()


# ---------------------------------------------------------------------------- learned rates


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("head", ["shared", "per_class"])
@pytest.mark.parametrize("loss", [cross_entropy, squared_error])
def test_learned_rates_and_start_get_the_gradient_of_a_plain_loop(loss, head, first_order):
    learner = make_learner(head, loss=loss, learned_rates=True, first_order=first_order)
    scatter_rates(learner)
    assert_is_plain(learner, classification_batch(), learner.rates(), first_order=first_order)


@pytest.mark.parametrize("head", ["shared", "per_class"])
def test_learned_rates_begin_as_maml(head):
    learner, batch = make_learner(head, learned_rates=True), classification_batch()
    maml = as_maml(learner)
    assert_close(learner.meta_loss(batch), maml.meta_loss(batch), rtol=1e-12, atol=0)
    expected = gradients(maml, batch)
    found = {k: g for k, g in gradients(learner, batch).items() if k in expected}
    assert relative_difference(found, expected) < 1e-10


def test_a_layer_has_one_rate_a_step():
    """The weight and the bias of a linear layer share it."""
    learner = make_learner(learned_rates=True)
    shapes = {k: tuple(p.shape) for k, p in learner.layer_step_rates.named_parameters()}
    assert shapes == {"head": (3,), "backbone": (3, 2)}
    step = learner.rates()[1]
    assert step["backbone.0.weight"] is step["backbone.0.bias"]
    assert step["backbone.0.weight"] is not step["backbone.2.weight"]


def test_where_the_first_step_moves_the_head_alone_other_layers_have_no_rate_in_it():
    learner = make_learner("shared", learned_rates=True)
    assert learner.layer_step_rates.backbone.shape == (2, 2)
    assert set(learner.rates()[0]) == {"weight", "bias"}
    one_step = make_learner("shared", learned_rates=True, n_inner_steps=1)
    assert not one_step.layer_step_rates.backbone.requires_grad
    assert one_step.layer_step_rates.head.requires_grad


def test_a_backbone_without_weights_has_no_rates():
    network = task_network(nn.Flatten(), nn.Linear(2, 3), n_features=2, loss=cross_entropy)
    learner = MAMLPlusPlusLearner(
        network, n_inner_steps=2, inner_learning_rate=ALPHA, first_order=False,
        learned_rates=True, multi_step_iter=0, first_order_iter=0,
    ).double()  # fmt: skip
    assert set(gradients(learner, classification_batch())) == {
        "head.weight", "head.bias", "layer_step_rates.head",
    }  # fmt: skip


# ---------------------------------------------------------------------------- the multi-step loss


@pytest.mark.parametrize(("done", "early"), [(0, 0.2), (5, 0.1), (8, 0.04), (99, 0.006)])
def test_step_weights_are_the_authors(done, early):
    """Five steps; from 1/5 down linearly, not below 3 % of that, the last step has the rest."""
    n_iter = 10 if done < 10 else 100
    learner = make_learner(n_inner_steps=5, multi_step_iter=n_iter)
    learner.n_meta_iter.fill_(done)
    np.testing.assert_allclose(learner.step_weights(), [early] * 4 + [1 - 4 * early])


def test_the_last_step_counts_alone_after_the_annealing_and_outside_meta_training():
    learner = make_learner(n_inner_steps=5, multi_step_iter=10)
    learner.n_meta_iter.fill_(10)
    assert learner.step_weights() == [1.0]
    learner.n_meta_iter.zero_()
    assert learner.eval().step_weights() == [1.0]
    batch = classification_batch()
    assert_close(learner.meta_loss(batch), as_maml(learner).meta_loss(batch))


@pytest.mark.parametrize("head", ["shared", "per_class"])
@pytest.mark.parametrize("done", [0, 3])
def test_the_multi_step_loss_has_the_gradient_of_a_plain_loop(head, done):
    learner = make_learner(head, learned_rates=True, multi_step_iter=4)
    scatter_rates(learner)
    learner.n_meta_iter.fill_(done)
    early = {0: 1 / 3, 3: 1 / 12}[done]
    v = [early, early, 1 - 2 * early]
    assert_is_plain(learner, classification_batch(), learner.rates(), step_weights=v)


@pytest.mark.parametrize("n_steps", [0, 1])
def test_fewer_than_two_steps_have_no_earlier_loss(n_steps):
    learner = make_learner(n_inner_steps=n_steps, multi_step_iter=10)
    batch = classification_batch()
    assert_close(learner.meta_loss(batch), as_maml(learner).meta_loss(batch))


def test_first_order_comes_first():
    learner, batch = make_learner(first_order_iter=2), classification_batch()
    first = gradients(as_maml(learner, first_order=True), batch)
    second = gradients(as_maml(learner), batch)
    assert relative_difference(first, second) > 1e-3
    for expected in (first, first, second):
        assert relative_difference(gradients(learner, batch), expected) < 1e-12


def test_a_meta_gradient_counts_once_however_many_pieces_it_has(monkeypatch):
    learner, batch = make_learner(multi_step_iter=10), classification_batch(5)
    whole = gradients(learner, batch)
    learner.n_meta_iter.zero_()
    monkeypatch.setattr(type(learner), "tasks_at_once", lambda self, batch: 2)
    assert relative_difference(gradients(learner, batch), whole) < 1e-12
    assert int(learner.n_meta_iter) == 1
    learner.predict(learner.adapt(batch.x_support, batch.y_support, None), batch.x_query)
    learner.meta_loss(batch)
    assert int(learner.n_meta_iter) == 1


# ---------------------------------------------------------------------------- the estimators


@pytest.fixture(scope="module")
def sinusoids():
    return make_sinusoid_tasks(20, random_state=0)


PLUS_PLUS = {"learned_rates": "per_layer_per_step", "multi_step_iter": 8, "first_order_iter": 3}


def small(**params):
    params = {
        "backbone": MLP(hidden_layer_sizes=(8,), norm=None), "n_inner_steps": 2, "max_iter": 5,
        "meta_learning_rate": 1e-2, "random_state": 0, "precision": "float64",
    } | PLUS_PLUS | params  # fmt: skip
    return MAMLRegressor(**params)


def assert_same_weights(a, b):
    others = b._meta.learner.state_dict()
    for name, value in a._meta.learner.state_dict().items():
        assert torch.equal(value, others[name]), name


def test_the_count_goes_on_in_clones_files_and_partial_meta_fit(sinusoids, tmp_path):
    reg = small().meta_fit(sinusoids)
    assert int(reg._meta.learner.n_meta_iter) == 5
    reg.save(tmp_path / "reg")
    copies = [reg, clone(reg), fewshot_sklearn.load(tmp_path / "reg")]
    for copy in copies:
        copy.partial_meta_fit(sinusoids)
        assert int(copy._meta.learner.n_meta_iter) == 10
        assert_same_weights(copy, reg)


def test_an_interrupted_training_goes_on_bit_for_bit(sinusoids, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot_sklearn._checkpoint._PAUSE", 0)
    whole = small(max_iter=12).meta_fit(sinusoids)
    path, done = tmp_path / "run.ckpt", []
    count = MAMLPlusPlusLearner.meta_gradient

    def break_off(learner, batch):
        done.append(None)
        if len(done) == 7:
            raise MemoryError
        return count(learner, batch)

    with monkeypatch.context() as broken:
        broken.setattr(MAMLPlusPlusLearner, "meta_gradient", break_off)
        with pytest.raises(MemoryError):
            small(max_iter=12).meta_fit(sinusoids, checkpoint=path)
    resumed = small(max_iter=12).meta_fit(sinusoids, checkpoint=path)
    assert resumed.meta_loss_curve_ == whole.meta_loss_curve_
    assert_same_weights(resumed, whole)


@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_steps_beyond_the_trained_ones_take_the_last_rates(sinusoids, n_steps):
    reg = small(normalize_y=False).meta_fit(sinusoids)
    X, y, X_query, _ = sinusoids[3]
    prediction = reg.set_params(n_inner_steps=n_steps).fit(X, y).predict(X_query)
    network, learned = reg._meta.learner.network, reg._meta.learner.layer_step_rates
    rates = []
    for k in [min(k, 1) for k in range(n_steps)]:
        of_body = {f"backbone.layers.0.{n}": learned.backbone[k, 0] for n in ("weight", "bias")}
        rates.append(of_body | dict.fromkeys(("weight", "bias"), learned.head[k]))
    x, y, x_query = (torch.as_tensor(a) for a in (X, y.reshape(-1, 1), X_query))
    with torch.enable_grad():
        theta = {k: w.detach().clone() for k, w in network.shared_start(y[None]).items()}
        network = type("Start", (), {
            "backbone": network.backbone, "loss": staticmethod(squared_error),
            "shared_start": lambda self, y: theta,
        })()  # fmt: skip
        expected = plain_outputs(network, plain_steps(network, x, y, rates)[-1], x_query)
    np.testing.assert_allclose(prediction, expected[:, 0].detach(), rtol=1e-9)


def test_another_inner_rate_scales_the_learned_ones(sinusoids):
    reg = small().meta_fit(sinusoids)
    learned = reg._meta.learner.rates()
    X, y, _, _ = sinusoids[0]
    reg.set_params(inner_learning_rate=0.03).fit(X, y)
    for step, other in zip(learned, reg._adapted[0].rates(), strict=True):
        for name, rate in step.items():
            assert_close(other[name], 3 * rate)


def test_training_without_steps_keeps_the_rates_where_they_start(sinusoids):
    reg = small(n_inner_steps=0).meta_fit(sinusoids)
    X, y, X_query, _ = sinusoids[0]
    plain = small(n_inner_steps=0, **dict.fromkeys(PLUS_PLUS, 0) | {"learned_rates": None})
    predictions = [
        r.set_params(n_inner_steps=3).fit(X, y).predict(X_query)
        for r in (reg, plain.meta_fit(sinusoids))
    ]
    np.testing.assert_allclose(*predictions, rtol=1e-6)


def test_training_goes_on_with_more_steps_that_take_the_last_rates(sinusoids):
    reg = small().meta_fit(sinusoids)
    before = reg._meta.learner.layer_step_rates.head
    after = reg.set_params(n_inner_steps=5).partial_meta_fit(sinusoids)._meta.learner
    assert after.layer_step_rates.head.shape == before.shape
    assert (after.layer_step_rates.head != before).all()


def test_training_that_would_go_on_with_other_rates_is_refused_and_kept(sinusoids):
    reg = small().meta_fit(sinusoids).set_params(n_inner_steps=0)
    with pytest.raises(ValueError, match=r"Set n_inner_steps back .* or call meta_fit again"):
        reg.partial_meta_fit(sinusoids)
    assert reg.n_meta_iter_ == 5
    assert reg.set_params(n_inner_steps=2).partial_meta_fit(sinusoids).n_meta_iter_ == 10


def test_rates_are_learned(sinusoids):
    rates = small(max_iter=20).meta_fit(sinusoids)._meta.learner.layer_step_rates
    assert (rates.head - 0.01).abs().min() > 1e-4
    assert len(rates.head.unique()) == 2


def test_rates_that_start_at_zero_are_refused(sinusoids):
    with pytest.raises(ValueError, match=r"inner_learning_rate .* above zero, got 0"):
        small(inner_learning_rate=0).meta_fit(sinusoids)


@pytest.mark.parametrize("name", PLUS_PLUS)
def test_an_option_of_training_changed_after_it_is_refused(sinusoids, name):
    reg = small().meta_fit(sinusoids)
    other = None if name == "learned_rates" else 1
    with pytest.raises(ValueError, match=f"{name}={other} was changed after meta_fit"):
        reg.set_params(**{name: other}).fit(*sinusoids[0][:2])


def test_plain_maml_has_neither_count_nor_rates(sinusoids):
    reg = MAMLRegressor(max_iter=1, random_state=0).meta_fit(sinusoids)
    assert all(k.startswith(("backbone.", "head.")) for k in reg._meta.learner.state_dict())


def test_a_classifier_with_all_options_learns():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 30)
    X = rng.normal(size=(3, 4))[y] * 3 + rng.normal(size=(90, 4))
    clf = MAMLClassifier(max_iter=20, random_state=0, **PLUS_PLUS).fit(X, y)
    assert clf.score(X, y) > 0.9
