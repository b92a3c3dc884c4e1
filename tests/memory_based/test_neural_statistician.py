"""The neural statistician against torch's distributions and a plain loop over its lower bound."""

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.testing import assert_close

from fewshot_sklearn import MLP, EpisodicTasks, NeuralStatisticianClassifier
from fewshot_sklearn.base import TaskSpec
from fewshot_sklearn.memory_based._neural_statistician import subsets
from fewshot_sklearn.nn.normals import (
    bounded_log_variance,
    normal_kl,
    normal_log_density,
    pairwise_normal_kl,
    row_noise,
)

T, S, Q, C, D = 2, 6, 4, 3, 5
CONTEXT, LATENT = 4, 2


def make_learner(n_latent_layers=1, likelihood="normal"):
    torch.manual_seed(0)
    clf = NeuralStatisticianClassifier(
        backbone=MLP(hidden_layer_sizes=(7,), norm=None),
        context_size=CONTEXT,
        latent_size=LATENT,
        n_latent_layers=n_latent_layers,
        n_hidden=8,
        likelihood=likelihood,
    )
    spec = TaskSpec(input_shape=(D,), n_outputs=C, support_shape=(D,), shared_classes=False)
    return clf._make_learner(spec).double()


def as_normal(normal):
    mean, log_variance = normal
    return Normal(mean, (log_variance / 2).exp())


def random_normal(*shape):
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


@pytest.fixture
def data():
    torch.manual_seed(1)
    x = torch.rand(T, S, D, dtype=torch.float64)
    y = torch.eye(C, dtype=torch.float64)[torch.arange(S) % C].expand(T, -1, -1).clone()
    return x, y


def test_divergences_and_densities_are_those_of_torch():
    torch.manual_seed(0)
    p, q, x = random_normal(3, 4), random_normal(3, 4), torch.randn(3, 4, dtype=torch.float64)
    assert_close(normal_kl(p, q), kl_divergence(as_normal(p), as_normal(q)).sum(-1))
    assert_close(normal_log_density(x, p), as_normal(p).log_prob(x).sum(-1))


def test_every_pair_of_divergences_is_computed():
    torch.manual_seed(0)
    p, q = random_normal(T, C, 4), random_normal(T, Q, 4)
    found = pairwise_normal_kl(p, q)
    for t, i, k in np.ndindex(T, Q, C):
        one, other = ((a[t, j], b[t, j]) for (a, b), j in ((p, k), (q, i)))
        assert_close(found[t, i, k], normal_kl(one, other))


def test_log_variances_are_bounded_smoothly():
    raw = torch.tensor([-1e4, -0.1, 0.0, 0.1, 1e4])
    bounded = bounded_log_variance(raw)
    assert_close(bounded[[0, 2, 4]], torch.tensor([-10.0, 0.0, 10.0]))
    assert_close(bounded[1:4], raw[1:4], atol=1e-4, rtol=0)


def test_the_noise_of_a_row_does_not_depend_on_how_many_there_are():
    like = torch.zeros(1)
    assert_close(row_noise(40, 3, like, 7)[:21], row_noise(21, 3, like, 7))


@pytest.mark.parametrize("n_latent_layers", [1, 3])
@pytest.mark.parametrize("likelihood", ["normal", "bernoulli"])
def test_the_bound_is_that_of_a_loop_over_sets_and_rows(data, n_latent_layers, likelihood):
    x, y = data
    learner = make_learner(n_latent_layers, likelihood).eval()
    noise_of_rows = torch.randn(S, n_latent_layers * LATENT + 1, dtype=torch.float64)
    noise_of_classes = torch.randn(C, CONTEXT + 1, dtype=torch.float64)
    y[1, -1] = 0  # padding
    found = learner.lower_bound(x, y, noise_of_rows, noise_of_classes)
    for t in range(T):
        total = torch.zeros((), dtype=torch.float64)
        for k in range(C):
            rows = y[t, :, k] > 0
            h = learner.backbone(x[t, rows])
            mean = learner.statistic.before(h).relu().mean(dim=0)
            q_c = learner.statistic.after(torch.cat([mean, 1 / rows.sum().double().view(1)]))
            c = q_c[0] + (q_c[1] / 2).exp() * noise_of_classes[k, :-1]
            standard = Normal(torch.zeros(CONTEXT).double(), torch.ones(CONTEXT).double())
            total = total - kl_divergence(as_normal(q_c), standard).sum()
            for i, features in zip(torch.where(rows)[0], h, strict=True):
                zs = []
                for layer in range(n_latent_layers):
                    q_z = learner.posteriors[layer](torch.cat([features, c, *zs[-1:]]))
                    p_z = learner.priors[layer](torch.cat([c, *zs[-1:]]))
                    total = total - kl_divergence(as_normal(q_z), as_normal(p_z)).sum()
                    own = noise_of_rows[i, layer * LATENT : (layer + 1) * LATENT]
                    zs.append(q_z[0] + (q_z[1] / 2).exp() * own)
                decoded = learner.decoder(torch.cat([*zs, c]))
                if likelihood == "bernoulli":
                    of_row = Bernoulli(logits=decoded, validate_args=False)
                else:
                    mean_x, raw = decoded.chunk(2)
                    of_row = as_normal((mean_x, bounded_log_variance(raw)))
                total = total + of_row.log_prob(x[t, i]).sum()
        assert_close(found[t], total / (y[t] > 0).any(dim=-1).sum())


def test_a_query_goes_to_the_class_whose_context_diverges_least(data):
    x, y = data
    learner = make_learner().eval()
    query = torch.rand(T, Q, D, dtype=torch.float64)
    found = learner.predict(learner.adapt(x, y, None), query)

    def context(rows):
        mean = learner.statistic.before(learner.backbone(rows)).relu().mean(dim=0)
        return as_normal(
            learner.statistic.after(torch.cat([mean, torch.full((1,), 1 / len(rows)).double()]))
        )

    for t, i, k in np.ndindex(T, Q, C):
        of_class, of_query = context(x[t, y[t, :, k] > 0]), context(query[t, i : i + 1])
        assert_close(found[t, i, k], -kl_divergence(of_class, of_query).sum(), rtol=1e-5, atol=1e-6)


def test_subsets_have_any_size_from_one_and_no_row_of_another_class():
    torch.manual_seed(0)
    n_rows = 5
    y = torch.zeros(1, 2 * n_rows, 2)
    y[:, :n_rows, 0] = y[:, n_rows:, 1] = 1
    sizes = []
    for _ in range(3000):
        seen = y * subsets(y, torch.randn(2 * n_rows), torch.randn(2))
        sizes.append(int(seen[0, :, 0].sum()))
    shares = np.bincount(sizes, minlength=n_rows + 1) / len(sizes)
    assert shares[0] == 0
    # A threshold below all rows leaves one too: its rank is one of six.
    np.testing.assert_allclose(shares[1:], [2 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 6], atol=0.03)


def test_binary_rows_must_lie_between_zero_and_one():
    X, y = np.full((20, 3), 2.0), np.arange(20) % 2
    with pytest.raises(ValueError, match="features between 0 and 1, got numbers from"):
        NeuralStatisticianClassifier(likelihood="bernoulli", max_iter=2).fit(X, y)


def test_sets_that_differ_in_their_spread_alone_are_told_apart():
    rng = np.random.default_rng(0)
    spread = np.exp(rng.uniform(-1.5, 1.5, size=(200, 4)))
    X = (spread[:, None] * rng.normal(size=(200, 12, 4))).reshape(-1, 4)
    y = np.repeat(np.arange(200), 12)
    tasks = EpisodicTasks(X, y, n_way=2, n_shot=6, n_query=6, random_state=0)
    clf = NeuralStatisticianClassifier(max_iter=300, random_state=0).meta_fit(tasks)
    held_out = EpisodicTasks(X, y, n_way=2, n_shot=6, n_query=6, n_tasks=100, random_state=1)
    scores = [clf.fit(t.X_support, t.y_support).score(t.X_query, t.y_query) for t in held_out]
    # Class means say nothing.
    assert np.mean(scores) > 0.65
