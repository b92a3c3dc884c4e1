"""Cost and accuracy of every method, and of ordinary estimators, on the same tasks.

    python benchmarks/which_method.py

Three kinds of tasks, none of whose classes, shops or curves occur in meta-training:

- characters: 5-way 1-shot, glyphs of 14 x 14 pixels (labels are arbitrary in every task);
- shops: will a customer buy, 16 labelled rows of 12 features (labels mean the same everywhere);
- curves: sinusoids from five points (regression, mean squared error).

Times are processor seconds of one thread. Writes ``which_method.json``, ``.rst`` and ``.png`` to
``benchmarks/results``, which the documentation shows.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _tables import list_table
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from fewshot_sklearn import (
    MLP,
    EpisodicTasks,
    GroupedTasks,
    MAMLClassifier,
    MAMLRegressor,
    MANNClassifier,
    ProtoNetClassifier,
    compare,
)
from fewshot_sklearn.datasets import load_glyphs, make_sinusoid_tasks

RESULTS = Path(__file__).parent / "results"
SEED, N_TEST = 0, 300
SHARED = {"random_state": SEED, "validation_interval": 100}

BASELINES = {
    "logistic regression": LogisticRegression(),
    "1-nearest neighbour": KNeighborsClassifier(1),
    "random forest": RandomForestClassifier(random_state=SEED),
}
NETWORK = MLP(hidden_layer_sizes=(256, 128))
CLASSIFIERS = {
    "ProtoNet": ProtoNetClassifier(backbone=NETWORK, max_iter=1000, **SHARED),
    "MAML": MAMLClassifier(
        backbone=NETWORK, max_iter=1000, meta_learning_rate=1e-3, n_inner_steps=3, **SHARED
    ),
    "MANN": MANNClassifier(max_iter=1000, meta_batch_size=16, **SHARED),
}
CURVES = {
    "MAML": MAMLRegressor(
        backbone=MLP(hidden_layer_sizes=(40, 40), norm=None),
        max_iter=4000,
        n_inner_steps=3,
        meta_batch_size=16,
        **SHARED,
    ),
    "Gaussian process": GaussianProcessRegressor(
        RBF() + WhiteKernel(1e-2), normalize_y=True, random_state=SEED
    ),
    "kernel ridge": KernelRidge(kernel="rbf", alpha=0.1),
    "3-nearest neighbours": KNeighborsRegressor(3),
}


def characters() -> dict[str, EpisodicTasks]:
    """Return episodes of glyphs: training, validation (Cyrillic) and test scripts."""
    glyphs = load_glyphs(random_state=SEED)
    images = glyphs.images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)
    test, validation = ["Greek", "Armenian", "Georgian"], ["Cyrillic"]
    parts = {"test": np.isin(glyphs.script, test), "validation": glyphs.script == validation[0]}
    parts["train"] = ~(parts["test"] | parts["validation"])
    n_tasks = {"train": 10**5, "validation": 100, "test": N_TEST}
    return {
        part: EpisodicTasks(
            images[(rows := chosen[glyphs.target])], glyphs.target[rows],
            n_query=5, n_tasks=n_tasks[part], random_state=SEED,
        )
        for part, chosen in parts.items()
    }  # fmt: skip


def shops() -> dict[str, GroupedTasks]:
    """Return shops whose customers' tastes lie near a plane that all shops share."""
    rng = np.random.default_rng(SEED)
    plane = rng.normal(size=(3, 12))
    n_rows = 60

    def make(n_shops: int) -> GroupedTasks:
        X = rng.normal(size=(n_shops * n_rows, 12))
        tastes = np.repeat(rng.normal(size=(n_shops, 3)), n_rows, axis=0)
        appeal = (np.tanh(X @ plane.T) * tastes).sum(axis=1)
        y = np.where(appeal + 0.3 * rng.normal(size=len(X)) > 0, "buys", "leaves")
        groups = np.repeat(np.arange(n_shops), n_rows)
        return GroupedTasks(X, y, groups, n_support=16, random_state=SEED)

    return {"train": make(2000), "validation": make(100), "test": make(N_TEST)}


def curves() -> dict[str, object]:
    """Return sinusoids."""
    numbers = {"train": 10**5, "validation": 100, "test": N_TEST}
    return {
        part: make_sinusoid_tasks(n, n_support=5, random_state=seed)
        for seed, (part, n) in enumerate(numbers.items())
    }


def milliseconds_per_task(estimator, tasks) -> float:
    """Return the median time to fit one support set and predict its query set."""
    times = []
    for task in tasks:
        begin = time.process_time()
        clone(estimator).fit(task.X_support, task.y_support).predict(task.X_query)
        times.append(time.process_time() - begin)
    return 1000 * float(np.median(times))


def run(tasks, estimators, scoring) -> dict[str, dict[str, float]]:
    """Meta-fit what can be meta-fitted, and score all on the test tasks."""
    seconds = {}
    for name, estimator in estimators.items():
        begin = time.process_time()
        if hasattr(estimator, "meta_fit"):
            estimator.meta_fit(tasks["train"], tasks["validation"])
        seconds[name] = time.process_time() - begin
        logging.info("%s: %.0f s", name, seconds[name])
    table = compare(estimators, tasks["test"], scoring=scoring)
    logging.info("\n%s", table)
    return {
        name: {
            "score": round(abs(float(table.loc[name, "mean"])), 3),
            "ci95": round(float(table.loc[name, "ci95"]), 3),
            "meta_fit_seconds": round(seconds[name], 1) if seconds[name] > 0.01 else None,
            "task_milliseconds": round(milliseconds_per_task(estimator, tasks["test"][:50]), 1),
            "n_meta_iter": getattr(estimator, "n_meta_iter_", None),
        }
        for name, estimator in estimators.items()
    }


def write_table(record) -> None:
    """Write the figures as reStructuredText."""
    header = ["tasks", "method", "accuracy (curves: error)", "meta-training", "a new task"]
    rows = [header] + [
        [
            kind,
            name,
            f"{f['score']:.3f} ± {f['ci95']:.3f}",
            "none" if f["meta_fit_seconds"] is None else f"{f['meta_fit_seconds']:.0f} s",
            f"{f['task_milliseconds']:.1f} ms",
        ]
        for kind, figures in record["figures"].items()
        for name, f in figures.items()
    ]
    (RESULTS / "which_method.rst").write_text(list_table(rows, widths="20 26 18 18 18"))


def plot(record) -> None:
    """Draw the scores with their intervals, a panel for each kind of tasks."""
    import matplotlib.pyplot as plt

    kinds = record["figures"]
    figure, axes = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 3.2))
    for ax, (kind, figures) in zip(axes, kinds.items(), strict=True):
        names = list(figures)[::-1]
        scores = [figures[name]["score"] for name in names]
        errors = [figures[name]["ci95"] for name in names]
        learns = [figures[name]["meta_fit_seconds"] is not None for name in names]
        colors = ["tab:blue" if yes else "tab:gray" for yes in learns]
        ax.barh(names, scores, xerr=errors, color=colors, capsize=3)
        measure = "mean squared error" if kind == "curves" else "accuracy"
        ax.set(title=kind, xlabel=measure, xlim=(0, None if kind == "curves" else 1))
    figure.suptitle("Meta-learned (blue) and learned from the support set alone (gray)")
    figure.tight_layout()
    figure.savefig(RESULTS / "which_method.png", dpi=110)


def main() -> None:
    """Run all three kinds of tasks."""
    figures = {}
    classifiers = {**CLASSIFIERS, **BASELINES}
    for kind, make, estimators, scoring in (
        ("characters", characters, classifiers, "accuracy"),
        ("shops", shops, classifiers, "accuracy"),
        ("curves", curves, CURVES, "neg_mean_squared_error"),
    ):
        clones = {name: clone(est) for name, est in estimators.items()}
        figures[kind] = run(make(), clones, scoring)
    record = {
        "figures": figures,
        "seed": SEED,
        "n_test_tasks": N_TEST,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    (RESULTS / "which_method.json").write_text(json.dumps(record, indent=1) + "\n")
    write_table(record)
    plot(record)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # The Gaussian process says so where five points leave its noise at the bound.
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    main()
