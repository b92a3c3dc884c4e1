"""Milliseconds of ``fit`` and ``predict`` on one small task, beside scikit-learn's classifiers.

    python benchmarks/latency.py

One thread, one process. A task has 10 rows of 64 features in 5 classes, and 75 query rows; the
meta-fitted estimators have an MLP of 256 and 128 hidden values, and MAML takes 5 inner steps. In
each repeat every estimator learns and predicts the task once, in an order that moves on, so that
whatever slows the machine down slows all of them; the ratios are those of one repeat to
``KNeighborsClassifier`` in the same repeat. Times are those of the processor, which on an idle
machine pass on the clock too. Medians, with a bootstrap interval over the repeats. Written to
``benchmarks/results/latency.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from fewshot_sklearn import MLP, EpisodicTasks, MAMLClassifier, ProtoNetClassifier

HERE = Path(__file__).parent
SEED = 0
N_WAY, N_SHOT, N_QUERY, N_FEATURES = 5, 2, 15, 64
REFERENCE = "KNeighborsClassifier"
# What the ratios of fit and predict together shall stay under.
LIMITS = {"ProtoNetClassifier": 1.3, "MAMLClassifier": 2.5}
N_WARM_UP = 20
N_RESAMPLES = 2000


def make_tasks() -> EpisodicTasks:
    """Return tasks of rows around twenty centres."""
    rng = np.random.default_rng(SEED)
    y = np.repeat(np.arange(20), 25)
    X = rng.normal(size=(20, N_FEATURES))[y] + rng.normal(size=(len(y), N_FEATURES))
    return EpisodicTasks(X, y, n_way=N_WAY, n_shot=N_SHOT, n_query=N_QUERY, random_state=SEED)


def make_estimators(tasks: EpisodicTasks) -> dict[str, Any]:
    """Return the estimators, ready for a task."""
    options: dict[str, Any] = {
        "backbone": MLP(hidden_layer_sizes=(256, 128), norm=None),
        "max_iter": 20,
        "random_state": SEED,
    }
    return {
        REFERENCE: KNeighborsClassifier(n_neighbors=1),
        "LogisticRegression": LogisticRegression(),
        "ProtoNetClassifier": ProtoNetClassifier(**options).meta_fit(tasks),
        "MAMLClassifier": MAMLClassifier(n_inner_steps=5, **options).meta_fit(tasks),
    }


def milliseconds(estimator: Any, task: Any) -> tuple[float, float]:
    """Return the processor time of ``fit``, and that of ``predict``."""
    start = time.process_time()
    estimator.fit(task.X_support, task.y_support)
    fitted = time.process_time()
    estimator.predict(task.X_query)
    return 1000 * (fitted - start), 1000 * (time.process_time() - fitted)


def measure(
    estimators: dict[str, Any], tasks: EpisodicTasks, n_repeats: int
) -> dict[str, NDArray[np.float64]]:
    """Return the times [n_repeats, 2] of ``fit`` and ``predict`` of each estimator."""
    names = list(estimators)
    times = {name: np.empty((n_repeats, 2)) for name in names}
    for repeat in range(-N_WARM_UP, n_repeats):
        task = tasks[repeat % len(tasks)]
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            took = milliseconds(estimators[name], task)
            if repeat >= 0:
                times[name][repeat] = took
    return times


def interval(values: NDArray[np.float64]) -> list[float]:
    """Return the bounds within which the median lies in 95 % of the resampled repeats."""
    rng = np.random.default_rng(SEED)
    picked = rng.integers(len(values), size=(N_RESAMPLES, len(values)))
    bounds = np.quantile(np.median(values[picked], axis=1), [0.025, 0.975])
    return [round(float(b), 3) for b in bounds]


def summarise(name: str, times: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Return the medians of one estimator and its ratios to the reference."""
    mine, reference = times[name], times[REFERENCE]
    ratios = mine.sum(axis=1) / reference.sum(axis=1)
    predict_ratios = mine[:, 1] / reference[:, 1]
    fit, predict = np.median(mine, axis=0)
    return {
        "estimator": name,
        "fit_and_predict_ms": round(float(np.median(mine.sum(axis=1))), 3),
        "fit_ms": round(float(fit), 3),
        "predict_ms": round(float(predict), 3),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_interval": interval(ratios),
        "ratio_limit": LIMITS.get(name),
        "predict_ratio": round(float(np.median(predict_ratios)), 3),
        "predict_ratio_interval": interval(predict_ratios),
    }


def main(options: argparse.Namespace) -> None:
    """Measure, print and record."""
    torch.set_num_threads(1)
    tasks = make_tasks()
    with threadpool_limits(limits=1):
        times = measure(make_estimators(tasks), tasks, options.n_repeats)
    figures = [summarise(name, times) for name in times]
    for figure in figures:
        low, high = figure["ratio_interval"]
        logging.info(
            "%-22s fit and predict %6.3f ms, predict alone %6.3f ms, ratio %5.2f (%.2f to %.2f)%s",
            figure["estimator"], figure["fit_and_predict_ms"], figure["predict_ms"],
            figure["ratio"], low, high,
            f", limit {figure['ratio_limit']}" if figure["ratio_limit"] else "",
        )  # fmt: skip
    record = {
        "task": f"{N_WAY * N_SHOT} support rows, {N_WAY * N_QUERY} query rows, {N_FEATURES} "
        f"features, {N_WAY} classes; MLP {N_FEATURES}-256-128, 5 inner steps",
        "figures": figures,
        "n_repeats": options.n_repeats,
        "seed": SEED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": 1,
        "torch": torch.__version__,
        "scikit_learn": sklearn.__version__,
    }
    path = HERE / "results" / "latency.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-repeats", type=int, default=1000)
    main(parser.parse_args())
