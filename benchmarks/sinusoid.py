"""Sine waves from 5, 10 and 20 points: the protocol of the MAML paper, with its 70,000 iterations.

    python benchmarks/sinusoid.py train maml     # and fomaml, meta_sgd, pretrained, fine_tune
    python benchmarks/sinusoid.py test maml      # and forest, process, told_process, oracle
    python benchmarks/sinusoid.py table

Amplitudes from U[0.1, 5], phases from U[0, pi], points from U[-5, 5]; a network 1-40-40-1 with
ReLU; an iteration has 25 waves that were not seen before, with 10 support and 10 query points; one
inner step of 0.01; Adam with 1e-3. ``test`` adapts to 5, 10 and 20 points with 1, 5 and 10 steps
and takes the mean squared error of 100 other points over 1,000 waves, the same for every method.

- ``pretrained`` is one network trained on all waves, as in the paper: MAML without inner steps.
- ``fine_tune`` pre-trains with a head for each of 1,000 waves and puts a new head on the network.
- ``hypernet`` generates all weights of a network of that size from the points, without steps.
- ``forest`` and ``process`` start from nothing on every wave; ``told_process`` is told the length
  scale of sine waves; ``oracle`` knows that every task is A sin(x) + B cos(x) and fits A and B.

``train`` writes to ``benchmarks/models``, ``test`` a JSON file to ``benchmarks/results``, and
``table`` the table ``sinusoid.rst`` there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _tables import list_table
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from fewshot_sklearn import (
    MLP,
    FineTuneRegressor,
    HyperNetRegressor,
    MAMLRegressor,
    MetaSGDRegressor,
    TaskSet,
    evaluate,
)
from fewshot_sklearn.datasets import make_sinusoid_tasks

HERE = Path(__file__).parent
SEED = 0
META_BATCH_SIZE = 25
SHOTS, STEPS = (5, 10, 20), (1, 5, 10)
# Rates that were learned for one step diverge in ten, on some waves.
STEPS_OF = {"meta_sgd": (1,)}
WITHOUT_STEPS = {"hypernet"}
SHARED = {
    "backbone": MLP(hidden_layer_sizes=(40, 40), norm=None),
    "meta_batch_size": META_BATCH_SIZE,
    "meta_learning_rate": 1e-3,
    "normalize_y": False,
    "clip_norm": None,
    "random_state": SEED,
}
INNER = {"n_inner_steps": 1, "inner_learning_rate": 0.01}


def waves(X: np.ndarray) -> np.ndarray:
    """Return the sine and the cosine of every point."""
    return np.hstack([np.sin(X), np.cos(X)])


META_LEARNERS = {
    "maml": MAMLRegressor(**INNER, **SHARED),
    "fomaml": MAMLRegressor(first_order=True, **INNER, **SHARED),
    "meta_sgd": MetaSGDRegressor(n_inner_steps=1, **SHARED),
    "pretrained": MAMLRegressor(**INNER | {"n_inner_steps": 0}, **SHARED),
    "fine_tune": FineTuneRegressor(inner_optimizer="sgd", **INNER, **SHARED),
    "hypernet": HyperNetRegressor(
        hidden_layer_sizes=(40, 40),
        **SHARED | {"backbone": nn.Flatten(), "meta_learning_rate": 3e-3, "clip_norm": 10.0},
    ),
}
# Tasks that are remembered, where not every iteration can have new ones.
N_TASKS = {"fine_tune": 1000}
FROM_NOTHING = {
    "forest": RandomForestRegressor(random_state=SEED),
    "process": GaussianProcessRegressor(
        ConstantKernel(5.0, (0.1, 1e3)) * RBF(2.0, (0.1, 100)), alpha=1e-4, random_state=SEED
    ),
    "told_process": GaussianProcessRegressor(10 * RBF(2.0), alpha=1e-4, optimizer=None),
    "oracle": make_pipeline(FunctionTransformer(waves), LinearRegression(fit_intercept=False)),
}
TITLES = {
    "maml": ":class:`~fewshot_sklearn.MAMLRegressor`",
    "fomaml": "the same, first order",
    "meta_sgd": ":class:`~fewshot_sklearn.MetaSGDRegressor`",
    "pretrained": "one network for all waves, then steps",
    "fine_tune": ":class:`~fewshot_sklearn.FineTuneRegressor`",
    "hypernet": ":class:`~fewshot_sklearn.HyperNetRegressor`",
    "forest": "random forest",
    "process": "Gaussian process",
    "told_process": "Gaussian process, length scale given",
    "oracle": "A sin x + B cos x, least squares",
}
# 5 points with 1, 5 and 10 steps, as in the paper of MAML.
PUBLISHED = {
    "maml": ("published", "0.67", "0.38", "0.35", "–", "–"),
    "pretrained": ("published", "2.41", "2.23", "2.19", "–", "–"),
}
COLUMNS = ((5, 1), (5, 5), (5, 10), (10, 1), (20, 1))


def train(method: str, options: argparse.Namespace) -> None:
    """Meta-train one method and keep the estimator."""
    n_tasks = N_TASKS.get(method, META_BATCH_SIZE * options.max_iter)
    tasks = make_sinusoid_tasks(n_tasks, n_support=10, n_query=10, random_state=SEED)
    estimator = META_LEARNERS[method].set_params(
        max_iter=options.max_iter, schedule=options.schedule
    )
    start = time.perf_counter()
    estimator.meta_fit(tasks)
    spent = round(time.perf_counter() - start, 1)
    curve = np.asarray(estimator.meta_loss_curve_)
    size = max(1, len(curve) // 50)
    logging.info("%s: %.0f s, loss %.3f", method, spent, curve[-size:].mean())
    record = {
        "training_seconds": spent,
        "meta_loss_curve": [
            [i + size, round(float(curve[i : i + size].mean()), 4)]
            for i in range(0, len(curve), size)
        ],
    }
    path = HERE / "models" / f"sinusoid_{method}.pkl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps((estimator, record)))


def test_tasks(n_support: int, n_tasks: int) -> TaskSet:
    """Return the test waves, the same for every number of points."""
    return make_sinusoid_tasks(n_tasks, n_support=n_support, n_query=100, random_state=SEED + 1)


def squared_error(estimator: Any, tasks: TaskSet) -> dict[str, float]:
    """Return the mean squared error over tasks with half its interval of 95 %."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # length scales at a bound
        result = evaluate(estimator, tasks, scoring="neg_mean_squared_error")
    return {"mse": round(-result.mean, 4), "ci95": round(result.ci95, 4)}


def test(method: str, options: argparse.Namespace) -> None:
    """Evaluate a kept estimator, or one that starts from nothing, and record the figures."""
    record: dict[str, Any] = {"method": method}
    if method in META_LEARNERS:
        path = HERE / "models" / f"sinusoid_{method}.pkl"
        estimator, trained = pickle.loads(path.read_bytes())
        record |= trained | {"n_meta_iter": estimator.n_meta_iter_, "schedule": estimator.schedule}
    else:
        estimator = FROM_NOTHING[method]
    if method in META_LEARNERS and method not in WITHOUT_STEPS:
        figures = {
            f"{n_support} points, {n_steps} steps": squared_error(
                estimator.set_params(n_inner_steps=n_steps), tasks
            )
            for n_support, tasks in ((k, test_tasks(k, options.n_tasks)) for k in SHOTS)
            for n_steps in STEPS_OF.get(method, STEPS)
        }
    else:
        figures = {
            f"{k} points": squared_error(estimator, test_tasks(k, options.n_tasks)) for k in SHOTS
        }
    for case, figure in figures.items():
        logging.info("%s, %s: %.3f ± %.3f", method, case, figure["mse"], figure["ci95"])
    record |= {
        "estimator": repr(estimator),
        "figures": figures,
        "n_tasks": options.n_tasks,
        "seed": SEED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    path = HERE / "results" / f"sinusoid_{method}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def table(_: str | None, options: argparse.Namespace) -> None:
    """Write the table of all recorded methods, with the published figures."""
    steps = [f"{k} points, {n} step{'s' * (n > 1)}" for k, n in COLUMNS]
    rows = [["", *steps]]
    for method, title in TITLES.items():
        path = HERE / "results" / f"sinusoid_{method}.json"
        if not path.exists():
            continue
        figures = json.loads(path.read_text())["figures"]
        cells = []
        for k, n in COLUMNS:
            figure = figures.get(f"{k} points, {n} steps")
            if n == 1:
                figure = figure or figures.get(f"{k} points")
            cells.append(f"{figure['mse']:.2f} ± {figure['ci95']:.2f}" if figure else "–")
        rows.append([title, *cells])
        if method in PUBLISHED:
            rows.append([*PUBLISHED[method]])
    table = list_table(rows, widths="30 14 14 14 14 14")
    (HERE / "results" / "sinusoid.rst").write_text(table)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["train", "test", "table"])
    parser.add_argument("method", choices=[*META_LEARNERS, *FROM_NOTHING], nargs="?")
    parser.add_argument("--max-iter", type=int, default=70_000)
    parser.add_argument("--schedule", default="constant")
    parser.add_argument("--n-tasks", type=int, default=1000)
    arguments = parser.parse_args()
    {"train": train, "test": test, "table": table}[arguments.action](arguments.method, arguments)
