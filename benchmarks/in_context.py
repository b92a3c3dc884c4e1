"""An in-context classifier that saw only generated tables, on the classification tables of PMLB.

    python benchmarks/in_context.py train --max-time 2000
    python benchmarks/in_context.py evaluate

``train`` meta-trains on ``make_prior_tasks`` alone; the weights that are kept are those with the best
accuracy on held-out tasks of the prior. It begins with the model that is in ``benchmarks/models``,
where there is one. ``evaluate`` draws support sets of 5 and of 10 rows a class from every table,
and compares with ordinary estimators on the same draws; nothing was chosen by these tables. Columns of
categories are numbers as they are. Writes ``in_context.json`` and ``in_context.rst`` to
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

import numpy as np
import pandas as pd
import torch
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
PRIOR = {"n_features": (2, 32), "n_classes": (2, 8), "n_support": (8, 80)}
MODEL = MODELS / "in_context.safetensors"
SCORES = ["roc_auc_ovr", "accuracy"]
BASELINES = {
    "random forest": RandomForestClassifier(random_state=SEED, n_jobs=1),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "5 nearest neighbours": make_pipeline(StandardScaler(), KNeighborsClassifier(weights="distance")),
    "shares of the classes": DummyClassifier(strategy="prior"),
}  # fmt: skip


def train(max_time: float) -> None:
    """Meta-train on the prior and keep the best weights of its validation."""
    MODELS.mkdir(exist_ok=True)
    tasks = make_prior_tasks(10**6, **PRIOR, n_query=24, random_state=SEED + 2)
    held_out = make_prior_tasks(300, **PRIOR, n_query=64, random_state=SEED + 1)
    options = {"max_iter": 10**6, "max_time": max_time, "validation_interval": 250, "verbose": 1}
    if MODEL.exists():
        model = load(MODEL).set_params(meta_learning_rate=2e-3, **options)
    else:
        model = InContextClassifier(
            embedding_size=32, n_layers=3, n_heads=2, meta_batch_size=16, meta_learning_rate=3e-3,
            schedule="one_cycle", random_state=SEED, **options,
        )  # fmt: skip
    begin, used = time.time(), time.process_time()
    model.partial_meta_fit(tasks, held_out)
    model.save(MODEL)
    print(f"{model.n_meta_iter_} iterations, {time.time() - begin:.0f} s, "
          f"{time.process_time() - used:.0f} processor seconds")  # fmt: skip
    print(model.validation_scores_)


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


def mean_ranks(scores: pd.DataFrame) -> dict[str, list[float]]:
    """Return each method's mean rank over tables, with the 95 % interval of a bootstrap over tables."""
    ranks = rankdata(-scores.to_numpy(), axis=1)
    rng = np.random.default_rng(SEED)
    means = ranks[rng.integers(len(ranks), size=(9999, len(ranks)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    rows = zip(ranks.mean(axis=0), low, high, strict=True)
    return {n: np.round(row, 3).tolist() for n, row in zip(scores.columns, rows, strict=True)}


def compare_on_tables() -> None:
    """Score all methods on the same draws, and write what was found."""
    begin = time.time()
    model = load(MODEL)
    methods = {"in context": model} | BASELINES
    rows, seconds = [], dict.fromkeys(methods, 0.0)
    for number, (name, (X, y)) in enumerate(read_tables().items()):
        for n_shot in (5, 10):
            rng = np.random.default_rng([SEED, number, n_shot])
            tasks = TaskList([draw(X, y, n_shot, rng) for _ in range(N_DRAWS)])
            for method, estimator in methods.items():
                start = time.process_time()
                result = evaluate(estimator, tasks, scoring=SCORES)
                seconds[method] += time.process_time() - start
                about = {
                    "table": name,
                    "n_features": X.shape[1],
                    "n_classes": len(np.unique(y)),
                    "n_shot": n_shot,
                }
                rows.append({**about, "method": method} | {s: result[s].mean for s in SCORES})
    frame = pd.DataFrame(rows)
    summary = {}
    for score in SCORES:
        for n_shot, part in frame.groupby("n_shot"):
            wide = part.pivot(index="table", columns="method", values=score)[list(methods)]
            summary[f"{score}, {n_shot} rows a class"] = {
                "mean": wide.mean().round(4).to_dict(),
                "mean rank and 95 % interval over tables": mean_ranks(wide),
            }
    n_tasks = 2 * N_DRAWS * frame["table"].nunique()
    report = {
        "protocol": __doc__.split("\n\n")[2].replace("\n", " "),
        "seed": SEED,
        "draws per table and number of rows": N_DRAWS,
        "meta-iterations": model.n_meta_iter_,
        "summary": summary,
        "milliseconds a task": {m: round(1000 * s / n_tasks, 1) for m, s in seconds.items()},
        "seconds": round(time.time() - begin),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "torch": torch.__version__,
        "tables": frame.round(4).to_dict("records"),
    }
    (RESULTS / "in_context.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["summary"], indent=1))


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["train", "evaluate"])
    parser.add_argument("--max-time", type=float, default=2000)
    options = parser.parse_args()
    if options.step == "train":
        train(options.max_time)
    else:
        compare_on_tables()


if __name__ == "__main__":
    main()
