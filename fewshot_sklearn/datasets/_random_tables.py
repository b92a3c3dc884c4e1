"""Random tables: features with random causes, and random functions of them."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MOST_LEVELS = 8
_ACTIVATIONS: tuple[Callable[[Array], Array], ...] = (
    np.tanh,
    np.sin,
    np.abs,
    lambda x: x,
    lambda x: np.maximum(x, 0.0),
    lambda x: np.minimum(x * x, 9.0),
    lambda x: (x > 0).astype(np.float64),
)


class Causes(NamedTuple):
    """What the rows of a table come from: clusters of points, sent through a random network.

    Attributes
    ----------
    centres : ndarray of shape (n_clusters, n_causes)
    weights : list of ndarray of shape (n_inputs, n_nodes)
        Of every layer.
    activations : list of callable
    noise : float
        Standard deviation of what is added to every node.
    chosen : ndarray of shape (n_features,)
        The nodes of all layers that are seen as features.
    """

    centres: Array
    weights: list[Array]
    activations: list[Callable[[Array], Array]]
    noise: float
    chosen: NDArray[np.int64]

    def rows(self, rng: np.random.Generator, n_rows: int) -> tuple[Array, Array, NDArray[np.int64]]:
        """Return features, the nodes of the last layer, and the cluster of every row."""
        clusters = rng.integers(len(self.centres), size=n_rows)
        h = self.centres[clusters] + rng.standard_normal((n_rows, self.centres.shape[1]))
        nodes = [h]
        for weights, activation in zip(self.weights, self.activations, strict=True):
            h = standardise(activation(h @ weights))
            h = h + self.noise * rng.standard_normal(h.shape)
            nodes.append(h)
        return standardise(np.hstack(nodes)[:, self.chosen]), h, clusters


def draw_causes(rng: np.random.Generator, n_features: int, n_clusters: int) -> Causes:
    """Draw what tables of so many features come from."""
    n_causes = int(rng.integers(1, n_features + 3))
    distance = 3.0 * rng.random() ** 2
    centres = distance * rng.standard_normal((n_clusters, n_causes))
    widths = [n_causes] + [int(w) for w in rng.integers(3, 12, size=rng.integers(1, 4))]
    widths[-1] += max(0, n_features - sum(widths))
    density = rng.uniform(0.2, 1.0)
    weights = []
    for n_in, n_out in pairwise(widths):
        full = rng.standard_normal((n_in, n_out))
        full *= rng.random(full.shape) < density
        full[rng.integers(n_in, size=n_out), np.arange(n_out)] += rng.choice([-1.0, 1.0], n_out)
        weights.append(full)
    kinds = rng.integers(len(_ACTIVATIONS), size=len(weights))
    return Causes(
        centres,
        weights,
        [_ACTIVATIONS[k] for k in kinds],
        float(np.exp(rng.uniform(np.log(0.01), np.log(0.5)))),
        rng.permutation(sum(widths))[:n_features],
    )


class Network(NamedTuple):
    """A random network of one hidden layer; without activation a linear function."""

    first: Array
    bias: Array
    second: Array
    activation: Callable[[Array], Array]

    def __call__(self, X: Array) -> Array:
        """Return outputs [n_rows, n_outputs]."""
        return np.asarray(self.activation(X @ self.first + self.bias) @ self.second)


class Trees(NamedTuple):
    """A sum of random trees, whose nodes of one depth ask the same question."""

    features: NDArray[np.int64]
    thresholds: Array
    leaves: Array

    def __call__(self, X: Array) -> Array:
        """Return outputs [n_rows, n_outputs]."""
        n_trees, depth = self.features.shape
        answers = X[:, self.features] > self.thresholds
        leaf = answers @ (1 << np.arange(depth))
        return np.asarray(self.leaves[np.arange(n_trees), leaf].sum(axis=1))


def draw_network(rng: np.random.Generator, n_features: int, n_outputs: int) -> Network:
    """Draw a random network, of which some features are no inputs."""
    linear = rng.random() < 0.4
    n_hidden = n_outputs if linear else int(rng.integers(2, 16))
    first = rng.standard_normal((n_features, n_hidden)) * relevance(rng, n_features)[:, None]
    bias = np.zeros(n_hidden) if linear else rng.standard_normal(n_hidden)
    second = np.eye(n_outputs) if linear else rng.standard_normal((n_hidden, n_outputs))
    kind = 3 if linear else int(rng.integers(len(_ACTIVATIONS)))
    return Network(first, bias, second, _ACTIVATIONS[kind])


def draw_trees(rng: np.random.Generator, n_features: int, n_outputs: int) -> Trees:
    """Draw a sum of random trees, of which some features are no inputs."""
    n_trees, depth = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    weights = relevance(rng, n_features) ** 2
    features = rng.choice(n_features, size=(n_trees, depth), p=weights / weights.sum())
    thresholds = 0.7 * rng.standard_normal((n_trees, depth))
    return Trees(features, thresholds, rng.standard_normal((n_trees, 2**depth, n_outputs)))


def relevance(rng: np.random.Generator, n_features: int) -> Array:
    """Return how much each feature counts: many, few, or one in different measure."""
    weights = np.exp(rng.uniform(0, 1.5) * rng.standard_normal(n_features))
    kept = rng.random(n_features) < rng.uniform(0.2, 1.2)
    kept[rng.integers(n_features)] = True
    weights = weights * kept
    return np.asarray(weights / np.sqrt(np.square(weights).sum()))


class Disguise(NamedTuple):
    """How features are shown: bent, cut into levels whose order may mean nothing, or as noise."""

    powers: Array
    exponential: NDArray[np.bool_]
    n_levels: NDArray[np.int64]
    level_names: NDArray[np.int64]
    is_noise: NDArray[np.bool_]

    def __call__(self, X: Array, rng: np.random.Generator) -> Array:
        """Return the features as they are shown."""
        shown = np.sign(X) * np.abs(X) ** self.powers
        shown[:, self.exponential] = np.exp(X[:, self.exponential])
        for j in np.flatnonzero(self.n_levels):
            level = (self.n_levels[j] / (1 + np.exp(-1.7 * X[:, j]))).astype(np.int64)
            shown[:, j] = self.level_names[j, np.minimum(level, self.n_levels[j] - 1)]
        for j in np.flatnonzero(self.is_noise):
            shown[:, j] = rng.permutation(shown[:, j])
        return np.asarray(shown)


def draw_disguise(rng: np.random.Generator, n_features: int) -> Disguise:
    """Draw how features are shown."""
    powers = np.ones(n_features)
    bent = rng.random(n_features) < rng.choice([0.0, 0.3])
    powers[bent] = np.exp(0.5 * rng.standard_normal(bent.sum()))
    exponential = rng.random(n_features) < rng.choice([0.0, 0.2])
    cut = rng.random(n_features) < rng.choice([0.0, 0.0, 0.3, 0.8])
    n_levels = np.where(cut, rng.integers(2, _MOST_LEVELS + 1, size=n_features), 0)
    names = np.tile(np.arange(_MOST_LEVELS), (n_features, 1))
    nominal = rng.random(n_features) < 0.4
    names[nominal] = rng.permuted(names[nominal], axis=1)
    is_noise = rng.random(n_features) < rng.choice([0.0, 0.0, 0.3, 0.6])
    return Disguise(powers, exponential, n_levels, names, is_noise)


def standardise(X: Array) -> Array:
    """Return columns of mean zero and variance one, where they vary."""
    X = X - X.mean(axis=0)
    return np.asarray(X / (X.std(axis=0) + 1e-9))
