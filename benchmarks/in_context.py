"""An in-context classifier that saw only generated tables, on the classification tables of PMLB.

    python benchmarks/in_context.py train --max-time 3000
    python benchmarks/in_context.py evaluate

``train`` meta-trains on ``make_prior_tasks`` alone, and keeps the weights with the best accuracy on
held-out tasks of the prior. The model is kept in ``benchmarks/models``.

Support sets of 5 and of 10 rows of each class are drawn from every table, the same for all methods;
at most 300 other rows are queries. Methods are ranked in every table by their mean score over its
draws; intervals are bootstraps over tables. Columns of categories are numbers as they are. No
choice was made by these tables. ``evaluate`` writes ``in_context.json`` and ``in_context.rst`` to
``benchmarks/results``.
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
import pandas as pd
import torch
from _tables import list_table
from scipy.stats import rankdata
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fewshot_sklearn import InContextClassifier, Task, TaskList, evaluate, load
from fewshot_sklearn.datasets import get_data_home, make_prior_tasks

HERE = Path(__file__).parent
RESULTS, MODELS = HERE / "results", HERE / "models"
SEED, N_DRAWS, MOST_QUERIES = 0, 10, 300
PRIOR = {"n_features": (2, 24), "n_classes": (2, 6), "n_support": (6, 60)}
MODEL = MODELS / "in_context.safetensors"
SCORES = ["roc_auc_ovr", "accuracy"]
BASELINES = {
    "random forest": RandomForestClassifier(random_state=SEED, n_jobs=1),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "5 nearest neighbours": make_pipeline(
        StandardScaler(), KNeighborsClassifier(weights="distance")
    ),
    "shares of the classes": DummyClassifier(strategy="prior"),
}


def train(max_time: float) -> None:
    """Meta-train on the prior and keep the best weights of its validation."""
    MODELS.mkdir(exist_ok=True)
    tasks = make_prior_tasks(10**6, **PRIOR, n_query=16, random_state=SEED)
    held_out = make_prior_tasks(300, **PRIOR, n_query=64, random_state=SEED + 1)
    model = InContextClassifier(
        embedding_size=32,
        n_layers=3,
        n_heads=2,
        meta_batch_size=16,
        meta_learning_rate=3e-3,
        schedule="one_cycle",
        max_iter=10**6,
        max_time=max_time,
        validation_interval=250,
        random_state=SEED,
        verbose=1,
    )
    model.meta_fit(tasks, held_out, checkpoint=MODELS / "in_context.checkpoint")
    model.save(MODEL)


def draw(X: np.ndarray, y: np.ndarray, n_shot: int, rng: np.random.Generator) -> Task:
    """Return a task of so many support rows of each class; all other rows, or many, are queries."""
    order = rng.permutation(len(y))
    times = pd.Series(y[order]).groupby(y[order]).cumcount().to_numpy()
    support, query = order[times < n_shot], order[times >= n_shot][:MOST_QUERIES]
    return Task(X[support], y[support], X[query], y[query])


def read_tables() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return features and labels of every classification table."""
    home = get_data_home() / "pmlb"
    index = pd.read_csv(home / "index.csv")
    tables = {}
    for name, file in index.loc[index["task"] == "classification", ["name", "file"]].to_numpy():
        frame = pd.read_csv(home / file, sep="\t")
        X = frame.drop(columns="target").to_numpy(dtype=np.float64)
        tables[name] = X, frame["target"].to_numpy()
    return tables


def describe_ranks(scores: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """Return each method's mean score, and its mean rank with a 95 % interval over tables."""
    ranks = rankdata(-scores.to_numpy().round(6), axis=1)
    rng = np.random.default_rng(SEED)
    means = ranks[rng.integers(len(ranks), size=(9999, len(ranks)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5], axis=0).round(2)
    return {
        name: {
            "mean score": round(float(scores[name].mean()), 4),
            "mean rank": round(float(ranks[:, i].mean()), 2),
            "interval": [float(low[i]), float(high[i])],
            "tables first": int((ranks[:, i] == 1).sum()),
        }
        for i, name in enumerate(scores.columns)
    }


def score_tables(methods: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return all methods' scores on the same draws, and their milliseconds a task."""
    rows, seconds, n_tasks = [], dict.fromkeys(methods, 0.0), 0
    for number, (name, (X, y)) in enumerate(read_tables().items()):
        about = {"table": name, "n_features": X.shape[1], "n_classes": len(np.unique(y))}
        for n_shot in (5, 10):
            rng = np.random.default_rng([SEED, number, n_shot])
            tasks = TaskList([draw(X, y, n_shot, rng) for _ in range(N_DRAWS)])
            n_tasks += N_DRAWS
            for method, estimator in methods.items():
                begin = time.process_time()
                result = evaluate(estimator, tasks, scoring=SCORES)
                seconds[method] += time.process_time() - begin
                means = {score: result[score].mean for score in SCORES}
                rows.append({**about, "n_shot": n_shot, "method": method, **means})
    return pd.DataFrame(rows), {m: round(1000 * s / n_tasks, 1) for m, s in seconds.items()}


def summarise(frame: pd.DataFrame, score: str) -> dict[str, Any]:
    """Return ranks by rows a class, and by what tables are like."""
    many, wide = frame["n_classes"] > 2, frame["n_features"] > 8
    parts = {
        "5 rows a class": frame["n_shot"] == 5,
        "10 rows a class": frame["n_shot"] == 10,
        "2 classes": ~many,
        "3 classes and more": many,
        "up to 8 features": ~wide,
        "9 features and more": wide,
    }
    summary = {}
    for name, part in parts.items():
        scores = frame[part].groupby(["table", "method"], sort=False)[score].mean().unstack()
        summary[name] = describe_ranks(scores)
    return summary


def write_table(report: dict[str, Any]) -> None:
    """Write mean ranks and scores as the documentation shows them."""
    head = ["method", "AUROC", "its rank", "AUROC", "its rank", "accuracy", "its rank", "ms a task"]
    above = ["", "5 rows a class", "", "10 rows a class", "", "10 rows a class", "", ""]
    columns = [
        (SCORES[0], "5 rows a class"),
        (SCORES[0], "10 rows a class"),
        (SCORES[1], "10 rows a class"),
    ]
    rows = [above, head]
    for method, milliseconds in report["milliseconds a task"].items():
        row = [method]
        for score, part in columns:
            found = report["summary"][score][part][method]
            low, high = found["interval"]
            row += [f"{found['mean score']:.3f}", f"{found['mean rank']} ({low} to {high})"]
        rows.append([*row, str(milliseconds)])
    (RESULTS / "in_context.rst").write_text(list_table(rows, header_rows=2))


def compare_on_tables() -> None:
    """Score all methods on the same draws, and write what was found."""
    begin, model = time.time(), load(MODEL)
    frame, milliseconds = score_tables({"in context": model} | BASELINES)
    report = {
        "protocol": " ".join(__doc__.split("\n\n")[3].split()),
        "seed": SEED,
        "draws": N_DRAWS,
        "meta-iterations": model.n_meta_iter_,
        "summary": {score: summarise(frame, score) for score in SCORES},
        "milliseconds a task": milliseconds,
        "seconds": round(time.time() - begin),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        "1 thread",
        "torch": torch.__version__,
        "tables": frame.round(4).to_dict("records"),
    }
    (RESULTS / "in_context.json").write_text(json.dumps(report, indent=1) + "\n")
    write_table(report)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["train", "evaluate"])
    parser.add_argument("--max-time", type=float, default=3000)
    options = parser.parse_args()
    if options.step == "train":
        train(options.max_time)
    else:
        compare_on_tables()


if __name__ == "__main__":
    main()
