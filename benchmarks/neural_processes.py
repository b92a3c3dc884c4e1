"""Sine waves by neural processes: error, and how often an interval holds the target.

    python benchmarks/neural_processes.py train cnp --max-time 200     # and np, anp
    python benchmarks/neural_processes.py test cnp
    python benchmarks/neural_processes.py table
    python benchmarks/neural_processes.py departures

The waves, the 10 support and 10 query points, and the 25 tasks of an iteration are those of
``sinusoid.py``, the protocol of the MAML paper; targets are not standardised. Seven to ten of the
support points are learned from in an iteration (``min_support_share``). ``test`` adapts to
5, 10 and 20 points and takes the mean squared error of 100 other points over 1,000 waves, the
same as there, and the share of these points that lie in their central intervals of 90 %, which
are 1.645 standard deviations to each side. It also takes the time of ``fit``, and of ``predict``
of 100 points, for 10, 100 and 1,000 support points, the median of several calls.

``train`` writes to ``benchmarks/models``, ``test`` a JSON file to ``benchmarks/results``, and
``table`` the tables ``neural_processes.rst`` and ``neural_processes_time.rst`` there.
``departures`` writes ``neural_processes_departures.json``: short trainings with several shares of
the support, of a latent variable that starts as other layers do, and of the classifier on digits.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import platform
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from _tables import list_table
from sklearn.datasets import load_digits

from fewshot_sklearn import (
    ANPRegressor,
    CNPClassifier,
    CNPRegressor,
    EpisodicTasks,
    NPRegressor,
    evaluate,
)
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.nn import neural_process

HERE = Path(__file__).parent
SEED = 0
META_BATCH_SIZE = 25
SHOTS, ROWS = (5, 10, 20), (10, 100, 1000)
HALF_WIDTH = 1.6449  # of the central interval of 90 %, in standard deviations
SHARED = {
    "meta_batch_size": META_BATCH_SIZE,
    "normalize_y": False,
    "min_support_share": 0.7,
    "schedule": "one_cycle",
    "meta_learning_rate": 2e-3,
    "random_state": SEED,
}
METHODS = {
    "cnp": CNPRegressor(**SHARED),
    "np": NPRegressor(**SHARED),
    "anp": ANPRegressor(**SHARED),
}


def train(method: str, options: argparse.Namespace) -> None:
    """Meta-train one method and keep the estimator."""
    tasks = make_sinusoid_tasks(META_BATCH_SIZE * options.max_iter, random_state=SEED)
    changes = {"max_iter": options.max_iter, "max_time": options.max_time}
    estimator = METHODS[method].set_params(**changes | json.loads(options.set))
    start, worked = time.perf_counter(), time.process_time()
    estimator.meta_fit(tasks)
    spent = round(time.perf_counter() - start, 1)
    worked = round(time.process_time() - worked, 1)
    curve = np.asarray(estimator.meta_loss_curve_)
    size = max(1, len(curve) // 25)
    record = {
        "training_seconds": spent,
        "processor_seconds": worked,
        "n_meta_iter": len(curve),
        "meta_loss_curve": [
            [i + size, round(float(curve[i : i + size].mean()), 4)]
            for i in range(0, len(curve), size)
        ],
    }
    logging.info("%s: %.0f s, %.0f of them work, %d iterations", method, spent, worked, len(curve))
    path = HERE / "models" / f"sinusoid_{method}.pkl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps((estimator, record)))


def of_waves(estimator: Any, n_support: int, n_tasks: int) -> dict[str, float]:
    """Return error and coverage over waves, each with half its interval of 95 %."""
    tasks = make_sinusoid_tasks(n_tasks, n_support=n_support, n_query=100, random_state=SEED + 1)
    errors, inside = [], []
    for task in tasks:
        mean, std = estimator.fit(task.X_support, task.y_support).predict(
            task.X_query, return_std=True
        )
        gap = np.abs(task.y_query - mean)
        errors.append(np.square(gap).mean())
        inside.append((gap < HALF_WIDTH * std).mean())
    half = 1.96 / np.sqrt(n_tasks)
    return {
        "mse": round(float(np.mean(errors)), 4),
        "mse_ci95": round(float(half * np.std(errors, ddof=1)), 4),
        "coverage": round(float(np.mean(inside)), 4),
        "coverage_ci95": round(float(half * np.std(inside, ddof=1)), 4),
    }


def milliseconds(call: Any, n_calls: int = 15) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(n_calls):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return round(float(np.median(times)), 2)


def of_rows(estimator: Any, n_support: int) -> dict[str, float]:
    """Return how long it takes to learn so many rows, and to predict 100."""
    task = make_sinusoid_tasks(1, n_support=n_support, n_query=100, random_state=SEED)[0]
    fit = milliseconds(lambda: estimator.fit(task.X_support, task.y_support))
    return {"fit": fit, "predict": milliseconds(lambda: estimator.predict(task.X_query))}


def test(method: str, options: argparse.Namespace) -> None:
    """Evaluate a kept estimator and record the figures."""
    path = HERE / "models" / f"sinusoid_{method}.pkl"
    estimator, record = pickle.loads(path.read_bytes())
    figures = {}
    for k in SHOTS:
        figures[f"{k} points"] = of_waves(estimator, k, options.n_tasks)
        logging.info("%s, %d points: %s", method, k, figures[f"{k} points"])
    record |= {
        "method": method,
        "estimator": repr(estimator),
        "figures": figures,
        "milliseconds": {f"{n} rows": of_rows(estimator, n) for n in ROWS},
        "n_tasks": options.n_tasks,
        "seed": SEED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    logging.info("%s, milliseconds: %s", method, record["milliseconds"])
    path = HERE / "results" / f"sinusoid_{method}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def departures(_: str | None, options: argparse.Namespace) -> None:
    """Train briefly with and without what departs from the papers, and record the figures."""
    start = time.perf_counter()
    tasks, figures = make_sinusoid_tasks(META_BATCH_SIZE * 1500, random_state=SEED), {}
    for share in (0.0, 0.5, 1.0):
        changes = SHARED | {"min_support_share": share, "max_iter": 1500}
        estimator = CNPRegressor(**changes).meta_fit(tasks)
        figures[f"cnp, min_support_share={share}, 1500 iterations"] = {
            f"{k} points": of_waves(estimator, k, options.n_tasks) for k in SHOTS
        }
    here = {"_FIRST_LOGIT": -4.0, "_FIRST_SPREAD": 5.0}
    plain = {"_FIRST_LOGIT": 0.0, "_FIRST_SPREAD": 1.0}
    for name, values in (("as here", here), ("plain", plain)):
        with mock.patch.multiple(neural_process, **values):
            estimator = NPRegressor(**SHARED | {"max_iter": 700}).meta_fit(tasks)
        figures[f"np, start {name}, 700 iterations"] = {
            "10 points": of_waves(estimator, 10, options.n_tasks)
        }
    figures["cnp classifier, digits, 3-way 2-shot"] = of_digits(options.n_tasks)
    figures |= {"n_tasks": options.n_tasks, "seed": SEED, "torch": torch.__version__}
    figures |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    figures["seconds"] = round(time.perf_counter() - start, 1)
    logging.info("departures: %s", figures)
    path = HERE / "results" / "neural_processes_departures.json"
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def of_digits(n_tasks: int) -> dict[str, str]:
    """Return the accuracy on the digits of meta-training, and on the three others."""
    X, y = load_digits(return_X_y=True)
    X, old, even = X / 16, y < 7, np.arange(len(y)) % 2 == 0
    sizes = {"n_way": 3, "n_shot": 2, "n_query": 5, "random_state": SEED}
    train = EpisodicTasks(X[old & even], y[old & even], n_tasks=20_000, **sizes)
    clf = CNPClassifier(max_iter=500, random_state=SEED).meta_fit(train)
    figures = {}
    for name, rows in {"seven digits, other rows": old & ~even, "three other digits": ~old}.items():
        scores = (
            100 * evaluate(clf, EpisodicTasks(X[rows], y[rows], n_tasks=n_tasks, **sizes)).scores
        )
        half = 1.96 * scores.std(ddof=1) / n_tasks**0.5
        figures[name] = f"{scores.mean():.1f} ± {half:.1f}"
    return figures


def table(_: str | None, options: argparse.Namespace) -> None:
    """Write the tables of all recorded methods, with MAML's error of ten steps beside them."""
    results = HERE / "results"
    maml = json.loads((results / "sinusoid_maml.json").read_text())
    quality = [["", "iterations", *(f"{k} points" for k in SHOTS), *(f"90 %, {k}" for k in SHOTS)]]
    spent = [["", *(f"fit, {n:,} rows" for n in ROWS), *(f"predict, {n:,}" for n in ROWS)]]
    for method, estimator in METHODS.items():
        title = f":class:`~fewshot_sklearn.{type(estimator).__name__}`"
        record = json.loads((results / f"sinusoid_{method}.json").read_text())
        cells = [record["figures"][f"{k} points"] for k in SHOTS]
        times = [record["milliseconds"][f"{n} rows"] for n in ROWS]
        errors = [f"{c['mse']:.3f} ± {c['mse_ci95']:.3f}" for c in cells]
        inside = [f"{100 * c['coverage']:.1f}" for c in cells]
        quality.append([title, f"{record['n_meta_iter']:,}", *errors, *inside])
        spent.append([title, *(f"{t[w]:.1f}" for w in ("fit", "predict") for t in times)])
    steps = [maml["figures"][f"{k} points, 10 steps"] for k in SHOTS]
    errors = [f"{c['mse']:.3f} ± {c['ci95']:.3f}" for c in steps]
    title = ":class:`~fewshot_sklearn.MAMLRegressor`, 10 steps"
    quality.append([title, f"{maml['n_meta_iter']:,}", *errors, "–", "–", "–"])
    (results / "neural_processes.rst").write_text(
        list_table(quality, widths="24 12 15 15 15 8 8 8")
    )
    (results / "neural_processes_time.rst").write_text(
        list_table(spent, widths="28 12 12 12 12 12 12")
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["train", "test", "table", "departures"])
    parser.add_argument("method", choices=[*METHODS], nargs="?")
    parser.add_argument("--max-iter", type=int, default=40_000)
    parser.add_argument("--max-time", type=float, default=None)
    parser.add_argument("--set", default="{}", help="further parameters, as JSON")
    parser.add_argument("--n-tasks", type=int, default=1000)
    arguments = parser.parse_args()
    actions = {"train": train, "test": test, "table": table, "departures": departures}
    actions[arguments.action](arguments.method, arguments)
