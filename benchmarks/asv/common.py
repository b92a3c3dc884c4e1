"""The estimators and tasks of the benchmarks."""

import numpy as np
import scipy.sparse
import torch

from fewshot_sklearn import MLP, Conv4, EpisodicTasks, GroupedTasks, MAMLClassifier, MAMLRegressor
from fewshot_sklearn.datasets import make_sinusoid_tasks

N_THREADS = 1  # two wait for each other wherever something else runs
SEED = 0


def sinusoid():
    """Return MAML on 25 sine waves a meta-iteration, and the waves."""
    reg = MAMLRegressor(
        backbone=MLP(hidden_layer_sizes=(40, 40), norm=None),
        n_inner_steps=5,
        meta_batch_size=25,
        normalize_y=False,
        random_state=SEED,
    )
    return reg, make_sinusoid_tasks(100_000, random_state=SEED)


def fingerprints(*, sparse=False):
    """Return MAML on 16 assays of 2,048 bits a meta-iteration, and the assays."""
    rng = np.random.default_rng(SEED)
    X = (rng.random((2000, 2048), dtype=np.float32) < 0.03).astype(np.float32)
    y, groups = rng.integers(2, size=len(X)), np.arange(len(X)) // 100
    clf = MAMLClassifier(
        backbone=MLP(hidden_layer_sizes=(256, 128), norm=None),
        n_inner_steps=5,
        inner_learning_rate=0.01,
        meta_batch_size=16,
        random_state=SEED,
    )
    X = scipy.sparse.csr_array(X) if sparse else X
    return clf, GroupedTasks(X, y, groups, n_support=10, n_query=32, random_state=SEED)


def fingerprints_csr():
    """Return the same with the bits as a CSR matrix."""
    return fingerprints(sparse=True)


def conv4():
    """Return MAML with Conv4-64 on four 5-way 1-shot episodes a meta-iteration, and episodes."""
    rng = np.random.default_rng(SEED)
    X = rng.random((1000, 28, 28), dtype=np.float32)
    tasks = EpisodicTasks(X, np.arange(1000) // 20, n_way=5, n_query=15, random_state=SEED)
    clf = MAMLClassifier(
        backbone=Conv4(),
        head="per_class",
        n_inner_steps=1,
        inner_learning_rate=0.1,
        meta_batch_size=4,
        random_state=SEED,
    )
    return clf, tasks


# Each with the meta-iterations of a call.
WORKLOADS = {
    "sinusoid": (sinusoid, 20),
    "fingerprints": (fingerprints, 10),
    "fingerprints_csr": (fingerprints_csr, 10),
    "conv4": (conv4, 2),
}


def meta_fitted(name):
    """Return a workload's estimator after a meta-iteration, its tasks and iterations a call."""
    torch.set_num_threads(N_THREADS)
    make, n_iter = WORKLOADS[name]
    estimator, tasks = make()
    estimator.set_params(max_iter=1).meta_fit(tasks)
    return estimator.set_params(max_iter=n_iter), tasks, n_iter
