"""Seconds that memory-based estimators take by the number of support rows.

    python benchmarks/support_size.py

One thread; every classifier and regressor of ``fewshot_sklearn.memory_based`` with its defaults,
after one meta-iteration on small tasks of 64 features in 5 classes, or with one target. ``fit`` is
timed on 10 to 1,000 support rows, and ``predict`` on 100 query rows after it. Best of up to three
runs; one where a run takes over a second. An estimator whose ``fit`` passed five seconds is not
timed on more rows. Writes ``support_size.json``, ``.png`` and ``.rst`` to ``benchmarks/results``.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _tables import list_table

from fewshot_sklearn.utils.discovery import all_estimators

RESULTS = Path(__file__).parent / "results"
SEED, N_FEATURES, N_CLASSES, N_QUERY = 0, 64, 5, 100
N_ROWS = (10, 30, 100, 300, 1000)
ENOUGH_SECONDS, LAST_SECONDS = 1.0, 5.0


def draw(rng: np.random.Generator, n_rows: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows with their labels or targets."""
    labels = np.arange(n_rows) % N_CLASSES
    X = rng.normal(size=(n_rows, N_FEATURES)) + labels[:, None]
    return X, labels if kind == "classifier" else X[:, 0]


def seconds(action: Callable[[], object]) -> float:
    """Return the least time of up to three runs."""
    times: list[float] = []
    while len(times) < 3 and max(times, default=0.0) < ENOUGH_SECONDS:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(cls: type, kind: str) -> list[dict[str, float]]:
    """Return the times of one estimator at each number of rows."""
    rng = np.random.default_rng(SEED)
    tasks = [(*draw(rng, 10, kind), *draw(rng, 10, kind)) for _ in range(8)]
    estimator = cls(max_iter=1, random_state=SEED).meta_fit(tasks)
    X_query, _ = draw(rng, N_QUERY, kind)
    times: list[dict[str, float]] = []
    for n_rows in N_ROWS:
        X, y = draw(rng, n_rows, kind)
        fit = seconds(lambda X=X, y=y: estimator.fit(X, y))
        predict = seconds(lambda: estimator.predict(X_query))
        times.append({"n_rows": n_rows, "fit": round(fit, 5), "predict": round(predict, 5)})
        if fit > LAST_SECONDS:
            break
    return times


def tabulate(times: dict[str, list[dict[str, float]]]) -> None:
    """Write the table for the documentation."""
    rows = [["", *[f"{n:,}" for n in N_ROWS], "``predict``"]]
    for name, of_one in times.items():
        cells = [f"{1000 * t['fit']:,.3g}" for t in of_one]
        cells += ["–"] * (len(N_ROWS) - len(cells))
        cells.append(f"{1000 * of_one[-1]['predict']:,.3g}")
        rows.append([f":class:`~fewshot_sklearn.{name}`", *cells])
    (RESULTS / "support_size.rst").write_text(list_table(rows))


def plot(times: dict[str, list[dict[str, float]]]) -> None:
    """Draw the time of ``fit`` by the number of support rows."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 5))
    for i, (name, of_one) in enumerate(times.items()):
        style = "-" if i < 10 else "--"
        ax.plot([t["n_rows"] for t in of_one], [t["fit"] for t in of_one], style, label=name)
    ax.set(xscale="log", yscale="log", xlabel="support rows", ylabel="seconds of fit, one thread")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(RESULTS / "support_size.png", dpi=110)


def main() -> None:
    """Time every estimator, and write what was found."""
    torch.set_num_threads(1)
    times: dict[str, list[dict[str, float]]] = {}
    for kind in ("classifier", "regressor"):
        for name, cls in all_estimators(kind):
            if ".memory_based." in cls.__module__:
                times[name] = measure(cls, kind)
                logging.info("%s %s", name, [t["fit"] for t in times[name]])
    record = {
        "seconds": times, "n_features": N_FEATURES, "n_classes": N_CLASSES, "n_query": N_QUERY,
        "seed": SEED, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    (RESULTS / "support_size.json").write_text(json.dumps(record, indent=1) + "\n")
    tabulate(times)
    plot(times)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
