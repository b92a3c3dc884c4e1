"""Neural processes against NumPy written from their equations, and in the limits they share."""

import time

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import norm
from sklearn.base import clone
from torch.distributions import Normal, kl_divergence

from fewshot_sklearn import (
    ANPRegressor,
    CNPClassifier,
    CNPRegressor,
    Conv4,
    NPRegressor,
    TaskList,
)
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.nn.cross_attention import CrossAttention
from fewshot_sklearn.nn.functional import mixture_moments
from fewshot_sklearn.nn.neural_process import (
    normal_divergence,
    normal_points,
    random_rows,
)
from fewshot_sklearn.tasks._batch import TaskBatch

SMALL = {
    "n_hidden": 8,
    "n_layers": 2,
    "max_iter": 3,
    "precision": "float64",
    "random_state": 0,
}
REAL = {"normalize_y": False, "min_support_share": 1.0, **SMALL}
LATENT = {"n_latent": 4, "n_latent_samples": 8, **REAL}
REGRESSORS = {
    "cnp": CNPRegressor(**REAL),
    "np": NPRegressor(**LATENT),
    "anp": ANPRegressor(n_heads=2, **LATENT),
    "anp with self-attention": ANPRegressor(n_heads=2, n_self_attention_layers=1, **LATENT),
}
EVERY_REGRESSOR = pytest.mark.parametrize("name", REGRESSORS)


def random_tasks(n_tasks=4, n_outputs=2, n_classes=None):
    """Return tasks of three features, with real targets or with classes that are shared."""
    rng = np.random.default_rng(0)

    def rows(n):
        X = rng.normal(size=(n, 3))
        if n_classes:
            return X, rng.permutation(np.resize(np.arange(n_classes), n))
        return X, (np.sin(X) @ rng.normal(size=(3, n_outputs))).squeeze()

    return TaskList([(*rows(8), *rows(6)) for _ in range(n_tasks)], shared_classes=True)


def as_batch(tasks):
    """Return regression tasks of one size as a batch in float64."""
    return TaskBatch(
        *(torch.from_numpy(np.stack([task[i] for task in tasks])).double() for i in range(4))
    )


def network(module):
    """Return a multilayer perceptron of torch as a function of arrays."""
    linear = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    weights = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in linear]

    def forward(rows):
        for weight, bias in weights[:-1]:
            rows = np.maximum(rows @ weight.T + bias, 0)
        return rows @ weights[-1][0].T + weights[-1][1]

    return forward


def gaussian(outputs, min_std=0.01):
    """Return the mean and the standard deviation that the outputs of a decoder stand for."""
    mean, raw = np.split(outputs, 2, axis=-1)
    return mean, min_std + (1 - min_std) * np.log1p(np.exp(raw))


def beside(rows, context):
    """Return each row with one context after it."""
    return np.hstack([rows, np.broadcast_to(context, (len(rows), len(context)))])


def latent_distribution(learner, X, y):
    """Return mean and standard deviation of q(z | s), in NumPy."""
    s = network(learner.latent.encoder.network)(np.hstack([X, y])).mean(axis=0)
    mean, raw = np.split(network(learner.latent.head)(s[None])[0], 2)
    return mean, 0.1 + 0.9 / (1 + np.exp(-raw))


# ---------------------------------------------------------------------------- conditional


def test_the_conditional_process_is_its_equations():
    tasks = random_tasks()
    reg = CNPRegressor(min_std=0.2, **REAL).meta_fit(tasks)
    learner = reg._meta.learner
    encode, decode = network(learner.encoder), network(learner.decoder)
    for X, y, X_query, _ in tasks:
        r = encode(np.hstack([X, y])).mean(axis=0)
        mean, std = gaussian(decode(beside(X_query, r)), 0.2)
        got, got_std = reg.fit(X, y).predict(X_query, return_std=True)
        np.testing.assert_allclose(got, mean, rtol=1e-10)
        np.testing.assert_allclose(got_std, std, rtol=1e-10)


def test_its_meta_loss_is_minus_the_likelihood_of_support_and_query_rows():
    tasks = random_tasks()
    reg = CNPRegressor(**REAL).meta_fit(tasks)
    expected = []
    for X, y, X_query, y_query in tasks:
        mean, std = reg.fit(X, y).predict(np.vstack([X, X_query]), return_std=True)
        expected.append(-norm.logpdf(np.vstack([y, y_query]), mean, std).mean())
    loss = reg._meta.learner.meta_loss(as_batch(tasks)).item()
    assert loss == pytest.approx(np.mean(expected), rel=1e-10)


@pytest.mark.parametrize("name", ["cnp", "np", "anp"])
def test_a_support_set_twice_is_the_support_set(name):
    tasks = random_tasks()
    reg = clone(REGRESSORS[name]).meta_fit(tasks)
    X, y, X_query, _ = tasks[0]
    expected = reg.fit(X, y).predict(X_query, return_std=True)
    got = reg.fit(np.vstack([X, X]), np.vstack([y, y])).predict(X_query, return_std=True)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_the_classifier_decodes_the_mean_encodings_of_all_classes():
    tasks = random_tasks(n_classes=3)
    clf = CNPClassifier(**SMALL).meta_fit(tasks)
    learner = clf._meta.learner
    encode, decode = network(learner.encoder), network(learner.decoder)
    for X, y, X_query, _ in tasks:
        r = np.concatenate([encode(X[y == k]).mean(axis=0) for k in range(3)])
        expected = softmax(decode(beside(X_query, r)), axis=1)
        np.testing.assert_allclose(clf.fit(X, y).predict_proba(X_query), expected, rtol=1e-10)


def test_the_classifier_embeds_images_if_asked():
    rng = np.random.default_rng(0)
    tasks = random_tasks(n_classes=2)
    images = TaskList(
        [(rng.normal(size=(8, 64)), y, rng.normal(size=(6, 64)), yq) for _, y, _, yq in tasks],
        shared_classes=True,
    )
    backbone = Conv4(image_shape=(1, 8, 8), n_filters=4, n_blocks=2)
    clf = CNPClassifier(backbone=backbone, **SMALL).meta_fit(images)
    X, y, X_query, _ = images[0]
    assert clf.fit(X, y).predict_proba(X_query).shape == (6, 2)


# ---------------------------------------------------------------------------- latent


def test_with_one_latent_sample_the_process_decodes_the_mean_of_the_latent_variable():
    tasks = random_tasks()
    reg = NPRegressor(**LATENT | {"n_latent_samples": 1}).meta_fit(tasks)
    decode = network(reg._meta.learner.decoder)
    for X, y, X_query, _ in tasks:
        z, _ = latent_distribution(reg._meta.learner, X, y)
        expected = gaussian(decode(beside(X_query, z)))
        got = reg.fit(X, y).predict(X_query, return_std=True)
        np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_a_prediction_has_the_moments_of_the_mixture_over_the_latent_variable():
    tasks = random_tasks()
    reg = NPRegressor(**LATENT).meta_fit(tasks)
    decode = network(reg._meta.learner.decoder)
    X, y, X_query, _ = tasks[0]
    z, spread = latent_distribution(reg._meta.learner, X, y)
    # 1,024 points are all but exact.
    for n_samples, tolerance in ((8, 1e-2), (1024, 1e-3)):
        reg.set_params(n_latent_samples=n_samples)
        got, got_std = reg.fit(X, y).predict(X_query, return_std=True)
        noise = np.random.default_rng(0).normal(size=(100_000, 4))
        of_each = [gaussian(decode(beside(z + spread * noise, x)[:, [4, 5, 6, 0, 1, 2, 3]]))
                   for x in X_query]  # fmt: skip
        mean = np.array([m.mean(axis=0) for m, _ in of_each])
        variance = np.array([(s**2).mean(axis=0) + m.var(axis=0) for m, s in of_each])
        np.testing.assert_allclose(got, mean, atol=tolerance)
        np.testing.assert_allclose(got_std, np.sqrt(variance), atol=tolerance)


@pytest.mark.parametrize("name", ["np", "anp"])
def test_the_meta_loss_is_minus_the_lower_bound_for_all_rows(name):
    tasks = random_tasks()
    reg = clone(REGRESSORS[name]).meta_fit(tasks)
    learner = reg._meta.learner
    expected = []
    for X, y, X_query, y_query in tasks:
        X_all, y_all = np.vstack([X, X_query]), np.vstack([y, y_query])
        prior = [torch.from_numpy(a) for a in latent_distribution(learner, X, y)]
        mean, std = latent_distribution(learner, X_all, y_all)
        posterior = Normal(torch.from_numpy(mean), torch.from_numpy(std))
        divergence = kl_divergence(posterior, Normal(*prior)).sum().item()
        state = learner.adapt(*(torch.from_numpy(a)[None] for a in (X, y)), None)
        seen = learner.read(state, torch.from_numpy(X_all)[None])[0].detach().numpy()
        decode = network(learner.decoder)
        of_samples = [
            norm.logpdf(y_all, *gaussian(decode(beside(seen, z)))).sum()
            for z in mean + std * learner.points.numpy()
        ]
        expected.append(-(np.mean(of_samples) - divergence) / y_all.size)
    loss = learner.meta_loss(as_batch(tasks)).item()
    assert loss == pytest.approx(np.mean(expected), rel=1e-10)


def test_meta_training_draws_a_sample_for_each_task_where_predictions_have_fixed_points():
    tasks = random_tasks()
    learner = NPRegressor(**LATENT).meta_fit(tasks)._meta.learner
    batch = as_batch(tasks)
    fixed = {learner.meta_loss(batch).item() for _ in range(3)}
    assert len(fixed) == 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [learner.train().meta_loss(batch).item() for _ in range(200)]
    assert np.mean(drawn) == pytest.approx(fixed.pop(), abs=4 * np.std(drawn) / 14)
    assert len(set(drawn)) == 200


# ---------------------------------------------------------------------------- attentive


def test_cross_attention_is_softmax_weighted_values():
    torch.manual_seed(0)
    attention = CrossAttention(6, 2).double()
    q, k, v = (torch.randn(1, n, 6, dtype=torch.float64) for n in (4, 5, 5))
    mask = torch.tensor([[True, True, False, True, True]])
    of_q, of_k, of_v, of_o = (
        getattr(attention, name).weight.detach().numpy()
        for name in ("query", "key", "value", "output")
    )
    real = mask[0].numpy()
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        scores = (q[0].numpy() @ of_q[head].T) @ (k[0].numpy()[real] @ of_k[head].T).T
        heads.append(softmax(scores / np.sqrt(3), axis=1) @ (v[0].numpy()[real] @ of_v[head].T))
    got = attention(q, k, v, mask)[0].detach().numpy()
    np.testing.assert_allclose(got, np.hstack(heads) @ of_o.T, rtol=1e-10)


def test_with_uniform_attention_a_query_sees_the_mean_encoding_of_the_conditional_process():
    """Where all scores are zero, r(x) is W_O W_V times the mean of h(x_i, y_i), for every x."""
    tasks = random_tasks()
    reg = ANPRegressor(n_heads=2, **LATENT).meta_fit(tasks)
    learner = reg._meta.learner
    X, y, X_query, _ = (torch.from_numpy(part)[None] for part in tasks[0])
    with torch.no_grad():
        learner.attention.query.weight.zero_()
        seen = learner.read(learner.adapt(X, y, None), X_query)[0]
        r = network(learner.encoder)(np.hstack(tasks[0][:2])).mean(axis=0)
        expected = learner.attention.output(learner.attention.value(torch.from_numpy(r)))
    np.testing.assert_allclose(seen[:, :3], X_query[0], rtol=0)
    np.testing.assert_allclose(seen[:, 3:], expected.expand(6, -1), rtol=1e-10)


def test_self_attention_lets_a_support_row_see_the_others():
    tasks = random_tasks()
    learner = clone(REGRESSORS["anp with self-attention"]).meta_fit(tasks)._meta.learner
    X, y = (torch.from_numpy(part)[None] for part in tasks[0][:2])
    with torch.no_grad():
        before = learner.adapt(X, y, None)["encodings"]
        X[0, -1] += 1
        after = learner.adapt(X, y, None)["encodings"]
    assert (before[0, 0] != after[0, 0]).all()


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="n_heads=3 does not divide n_hidden=8"):
        ANPRegressor(n_heads=3, **LATENT).meta_fit(random_tasks())


# ---------------------------------------------------------------------------- building blocks


@pytest.mark.parametrize("min_share", [0.0, 0.5, 1.0])
def test_random_rows_keep_every_number_of_rows_from_the_smallest_to_all(min_share):
    mask = torch.tensor([[True] * 7 + [False] * 2, [True, False, True] * 3])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kept = [random_rows(torch.zeros(2, 9, 1), mask, min_share) for _ in range(600)]
    kept = torch.stack(kept)
    assert not (kept & ~mask).any()
    for task, n_rows in ((0, 7), (1, 6)):
        fewest = max(1, int(np.ceil(min_share * n_rows)))
        counts = torch.bincount(kept[:, task].sum(dim=-1), minlength=n_rows + 1)
        expected = 600 / (n_rows - fewest + 1)
        assert counts[:fewest].sum() == 0
        assert ((counts[fewest:] - expected).abs() < 4 * expected**0.5).all()
        of_row = kept[:, task].double().mean(dim=0)[mask[task]]
        assert (of_row - of_row.mean()).abs().max() < 0.1


def test_normal_points_have_mean_zero_and_variance_one_and_are_always_the_same():
    state = torch.get_rng_state()
    points = normal_points(32, 100)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(normal_points(32, 100), points)
    np.testing.assert_allclose(points.mean(dim=0), 0, atol=1e-12)
    np.testing.assert_allclose(points.square().mean(dim=0), 1, rtol=1e-12)
    # In each dimension there is a point in each of 32 equally likely intervals.
    quantiles = norm.ppf((np.arange(32) + 0.5) / 32)[:, None]
    assert np.abs(np.sort(points.numpy(), axis=0) - quantiles)[4:-4].max() < 0.25
    assert torch.equal(normal_points(1, 5), torch.zeros(1, 5, dtype=torch.float64))


def test_the_divergence_is_that_of_torch():
    torch.manual_seed(0)
    q, p = ((torch.randn(3, 5), torch.rand(3, 5) + 0.1) for _ in range(2))
    expected = kl_divergence(Normal(*q), Normal(*p)).sum(dim=-1)
    torch.testing.assert_close(normal_divergence(q, p), expected)
    assert normal_divergence(q, q).abs().max() == 0


def test_components_that_agree_are_their_own_mixture():
    outputs = torch.rand(2, 1, 5, 4) + 0.1
    torch.testing.assert_close(mixture_moments(outputs.expand(-1, 7, -1, -1)), outputs[:, 0])


# ---------------------------------------------------------------------------- learning


@EVERY_REGRESSOR
def test_a_thousand_rows_are_learned_in_a_moment(name):
    reg = clone(REGRESSORS[name]).meta_fit(random_tasks())
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1000, 3)), rng.normal(size=(1000, 2))
    start = time.perf_counter()
    assert np.isfinite(reg.fit(X, y).predict(X[:10])).all()
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("cls", [CNPRegressor, NPRegressor, ANPRegressor])
def test_meta_training_makes_held_out_waves_more_likely(cls):
    tasks = make_sinusoid_tasks(400, random_state=0)
    test = make_sinusoid_tasks(30, n_query=20, random_state=1)

    def likelihood(reg):
        of_each = []
        for task in test:
            mean, std = reg.fit(task.X_support, task.y_support).predict(
                task.X_query, return_std=True
            )
            of_each.append(norm.logpdf(task.y_query, mean, std).mean())
        return np.mean(of_each)

    options = {"n_hidden": 32, "meta_batch_size": 16, "random_state": 0}
    new = cls(max_iter=1, meta_learning_rate=1e-12, **options).meta_fit(tasks)
    trained = cls(max_iter=200, meta_learning_rate=3e-3, **options).meta_fit(tasks)
    assert likelihood(trained) > likelihood(new) + 0.3
