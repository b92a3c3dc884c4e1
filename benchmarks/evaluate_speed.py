"""Seconds of ``evaluate`` against cloning, fitting and scoring task by task.

    OMP_NUM_THREADS=1 python benchmarks/evaluate_speed.py

A meta-fitted ProtoNet with an MLP is scored on 1,000 tasks of generated rows in both ways, in turn.
The median of the ratios is recorded with the seconds in ``benchmarks/results/evaluate_speed.json``:
processor seconds of one thread, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs

from fewshot_sklearn import MLP, EpisodicTasks, ProtoNetClassifier, evaluate

HERE = Path(__file__).parent
SEED = 0
QUERIES = (5, 15)


def clone_fit_score(estimator: Any, tasks: Any) -> list[float]:
    """Score task by task, as a loop over tasks does."""
    return [
        clone(estimator).fit(X_support, y_support).score(X_query, y_query)
        for X_support, y_support, X_query, y_query in tasks
    ]


def measure(n_query: int, n_tasks: int, n_repeats: int) -> dict[str, Any]:
    """Return the medians of paired repeats for one number of query rows a class."""
    X, y = make_blobs(4000, n_features=64, centers=100, cluster_std=8.0, random_state=SEED)
    options = {"n_way": 5, "n_shot": 1, "n_query": n_query, "n_tasks": n_tasks}
    tasks = EpisodicTasks(X, y, random_state=SEED, **options)
    clf = ProtoNetClassifier(backbone=MLP(hidden_layer_sizes=(64,)), max_iter=20, random_state=SEED)
    clf.meta_fit(tasks)
    np.testing.assert_array_equal(
        clone_fit_score(clf, tasks[:20]), evaluate(clf, tasks[:20]).scores
    )
    seconds = []
    for repeat in range(n_repeats):
        times = [time.process_time()]
        for way in (clone_fit_score, evaluate):
            way(clf, tasks)
            times.append(time.process_time())
        seconds.append(np.diff(times).tolist())
        logging.info("%d query rows, repeat %d: %.2f s and %.2f s", n_query, repeat, *seconds[-1])
    return options | {
        "clone_fit_score_seconds": round(statistics.median(loop for loop, _ in seconds), 3),
        "evaluate_seconds": round(statistics.median(batched for _, batched in seconds), 3),
        "median_ratio": round(statistics.median(loop / batched for loop, batched in seconds), 1),
        "ratios": [round(loop / batched, 1) for loop, batched in seconds],
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-tasks", type=int, default=1000)
    parser.add_argument("--n-repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = [measure(n_query, arguments.n_tasks, arguments.n_repeats) for n_query in QUERIES]
    record = {
        "estimator": "ProtoNetClassifier(backbone=MLP(hidden_layer_sizes=(64,)))",
        "data": "make_blobs, 64 features, 100 classes",
        "figures": figures,
        "seed": SEED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
    }
    path = HERE / "results" / "evaluate_speed.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
