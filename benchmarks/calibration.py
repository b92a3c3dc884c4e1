"""Expected calibration error on unseen glyph episodes, with and without the learned temperature.

    python benchmarks/calibration.py

Each method is meta-trained on glyph scripts with validation episodes of Cyrillic (which choose the
weights and teach the temperature) and judged on Greek, Armenian and Georgian, 5-way 1-shot. The
query rows of all tasks are pooled; the interval is a bootstrap over tasks. Writes
``benchmarks/results/calibration.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from characters import DESCRIPTIONS, METHODS, SEED, load
from scipy.special import softmax
from sklearn.base import clone

from fewshot_sklearn import EpisodicTasks
from fewshot_sklearn.metrics import expected_calibration_error

N_WAY, N_QUERY, N_RESAMPLES = 5, 15, 200
MAX_ITER = {"protonet": 400, "maml": 200, "mann": 600}


def pooled_error(truth: list[np.ndarray], logits: list[np.ndarray]) -> float:
    """Return the error over the query rows of some tasks."""
    proba = softmax(np.concatenate(logits), axis=1)
    return expected_calibration_error(np.concatenate(truth), proba, classes=np.arange(N_WAY))


def error_with_interval(truth: list[np.ndarray], logits: list[np.ndarray]) -> dict[str, float]:
    """Return the error and the 95 % percentile interval over resampled tasks."""
    rng = np.random.default_rng(SEED)
    drawn = [
        pooled_error([truth[i] for i in chosen], [logits[i] for i in chosen])
        for chosen in rng.integers(len(truth), size=(N_RESAMPLES, len(truth)))
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    error = pooled_error(truth, logits)
    return {"ece": round(error, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def run(method: str, options: argparse.Namespace) -> dict:
    """Meta-train one method and return its figures."""
    episodes, estimator = METHODS[method]
    train = EpisodicTasks(*load("glyphs", "train"), n_tasks=10**6, random_state=SEED, **episodes)
    validation = EpisodicTasks(
        *load("glyphs", "validation"), n_query=5, n_tasks=200, random_state=SEED
    )
    test = EpisodicTasks(
        *load("glyphs", "test"), n_query=N_QUERY, n_tasks=options.n_tasks, random_state=SEED + 1
    )
    clf = clone(estimator).set_params(
        max_iter=MAX_ITER[method], validation_interval=100, random_state=SEED
    )
    start = time.time()
    clf.meta_fit(train, validation)
    seconds = time.time() - start
    logits = clf.predict_tasks(test, method="decision_function")
    truth = [np.searchsorted(np.unique(task.y_support), task.y_query) for task in test]
    temperature = clf.calibration_temperature_
    right = [z.argmax(axis=1) == t for z, t in zip(logits, truth, strict=True)]
    return {
        "temperature": round(temperature, 3),
        "with": error_with_interval(truth, logits),
        "without": error_with_interval(truth, [z * temperature for z in logits]),
        "accuracy": round(float(np.mean([r.mean() for r in right])), 4),
        "n_meta_iter": clf.n_meta_iter_,
        "training_seconds": round(seconds),
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-tasks", type=int, default=400)
    arguments = parser.parse_args()
    results = {}
    for name in METHODS:
        results[name] = run(name, arguments)
        logging.info("%s: %s", name, results[name])
    record = {
        "data": DESCRIPTIONS["glyphs"],
        "tasks": f"{arguments.n_tasks} tasks, {N_WAY}-way 1-shot, {N_QUERY} queries a class",
        "figures": results,
        "seed": SEED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    path = Path(__file__).parent / "results" / "calibration.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
