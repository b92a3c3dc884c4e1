"""What a meta-iteration through ``meta_fit`` costs beyond the tensors' work.

    OMP_NUM_THREADS=1 python benchmarks/iteration_overhead.py
    OMP_NUM_THREADS=1 python benchmarks/iteration_overhead.py --workloads sinusoid fingerprints

For each workload, milliseconds of one meta-iteration through ``partial_meta_fit``, everything
included, beside the bare work, the learner's ``meta_gradient`` on one batch that is ready. Both
alternate in one run, and the median of the ratios counts: processor seconds, which other work on
the machine changes less than those of a clock. The cost of a call itself, of looking at the tasks
and making the network, is taken out as the difference of a long and a short call.

Below it the pieces that lie around the bare work, timed in turn: drawing, gathering and stacking a
batch; the gradient's norm and its clipping; keeping the last good weights; the optimizer's step.
What they leave of the difference is the loop. Written to
``benchmarks/results/iteration_overhead.json``.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from fewshot_sklearn import MLP, EpisodicTasks, GroupedTasks, MAMLClassifier, MAMLRegressor
from fewshot_sklearn._distributed import World
from fewshot_sklearn._loading import make_loader
from fewshot_sklearn._meta_fitting import _options
from fewshot_sklearn._training_run import TrainingLog, TrainingRun
from fewshot_sklearn.datasets import make_sinusoid_tasks
from fewshot_sklearn.tasks import TaskList
from fewshot_sklearn.tasks._random import resolve_random_state

HERE = Path(__file__).parent
SEED = 0
SHORT = 5


def sinusoid(n_inner_steps: int) -> tuple[Any, Any]:
    """25 sine waves of 10 points, MLP 1-40-40-1."""
    estimator = MAMLRegressor(
        backbone=MLP(hidden_layer_sizes=(40, 40), norm=None),
        n_inner_steps=n_inner_steps,
        meta_batch_size=25,
        normalize_y=False,
        random_state=SEED,
    )
    return estimator, make_sinusoid_tasks(1000, random_state=SEED)


def rows_of_groups(n_features: int, kind: str) -> tuple[Any, Any]:
    """16 tasks of 10 support and 32 query rows, 3 % of the features on, MLP 256-128, 5 steps."""
    rng = np.random.default_rng(SEED)
    X = (rng.random((20_000, n_features)) < 0.03).astype(np.float32)
    y, groups = rng.integers(0, 2, len(X)), np.arange(len(X)) // 200
    rows = sparse.csr_matrix(X) if kind == "sparse" else X
    tasks = GroupedTasks(rows, y, groups, n_support=10, n_query=32, random_state=SEED)
    estimator = MAMLClassifier(
        backbone=MLP(hidden_layer_sizes=(256, 128)),
        n_inner_steps=5,
        meta_batch_size=16,
        random_state=SEED,
    )
    return estimator, TaskList(tasks) if kind == "listed" else tasks


def characters() -> tuple[Any, Any]:
    """16 episodes of 5-way 1-shot, 15 queries a class, 28 x 28 pixels, an MLP as in the papers."""
    X = (np.random.default_rng(SEED).random((20_000, 28, 28)) < 0.1).astype(np.float32)
    tasks = EpisodicTasks(X, np.arange(len(X)) // 20, n_tasks=100_000, random_state=SEED)
    estimator = MAMLClassifier(
        backbone=MLP(hidden_layer_sizes=(256, 128, 64, 64)),
        n_inner_steps=1,
        meta_batch_size=16,
        random_state=SEED,
    )
    return estimator, tasks


WORKLOADS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "sinusoid": lambda: sinusoid(1),
    "sinusoid, 5 steps": lambda: sinusoid(5),
    "fingerprints": lambda: rows_of_groups(2048, "dense"),
    "fingerprints, sparse": lambda: rows_of_groups(2048, "sparse"),
    "fingerprints, listed": lambda: rows_of_groups(2048, "listed"),
    "64 features": lambda: rows_of_groups(64, "dense"),
    "characters": characters,
}


def milliseconds(function: Callable[[], Any]) -> float:
    """Return processor milliseconds of a call."""
    start = time.process_time()
    function()
    return 1000 * (time.process_time() - start)


def through_meta_fit(estimator: Any, tasks: Any, n: int) -> float:
    """Return milliseconds of a meta-iteration."""
    long, short = (
        milliseconds(lambda m=m: estimator.set_params(max_iter=m).partial_meta_fit(tasks))
        for m in (SHORT + n, SHORT)
    )
    return (long - short) / n


def pieces_of(estimator: Any, tasks: Any) -> dict[str, Callable[[], Any]]:
    """Return what an iteration consists of, the bare work first; to be called in this order."""
    meta = estimator._user_meta()
    loader = make_loader(estimator, tasks, reset=False, known=meta)
    loader.targets = meta.targets
    key = resolve_random_state(SEED)[1]
    batches = loader.batches(estimator.meta_batch_size, key, 0)
    learner = copy.deepcopy(meta.learner).requires_grad_(True).train()
    run = TrainingRun(learner, _options(estimator), TrainingLog(), validated=False, world=World())
    ready = next(batches)

    def bare() -> None:
        run.clear_gradient()
        learner.meta_gradient(ready)

    return {
        "bare work": bare,
        "drawing and stacking": lambda: next(batches),
        "norm and clipping": run.clip_gradient,
        "keeping the last good weights": run.good.take,
        "optimizer": run.optimizer.step,
    }


def measure(name: str, n_iter: int, n_repeats: int) -> dict[str, Any]:
    """Return medians for one workload."""
    estimator, tasks = WORKLOADS[name]()
    estimator.set_params(max_iter=SHORT).meta_fit(tasks)
    pieces = pieces_of(estimator, tasks)
    columns: dict[str, list[float]] = {piece: [] for piece in ("through meta_fit", *pieces)}
    for _ in range(n_repeats):
        columns["through meta_fit"].append(through_meta_fit(estimator, tasks, n_iter))
        taken = dict.fromkeys(pieces, 0.0)
        for _ in range(n_iter):  # in turn, with the caches as an iteration finds them
            for piece, function in pieces.items():
                taken[piece] += milliseconds(function)
        for piece, total in taken.items():
            columns[piece].append(total / n_iter)
    whole, bare = columns["through meta_fit"], columns["bare work"]
    record = {piece: round(statistics.median(column), 3) for piece, column in columns.items()}
    ratios = [a / b for a, b in zip(whole, bare, strict=True)]
    record["overhead_percent"] = round(100 * (statistics.median(ratios) - 1), 1)
    return record


def main(options: argparse.Namespace) -> None:
    """Measure, print and record."""
    figures = {}
    for name in options.workloads:
        figures[name] = record = measure(name, options.n_iter, options.n_repeats)
        logging.info("%s: %.1f %% over the bare work", name, record["overhead_percent"])
        for piece, value in record.items():
            if piece != "overhead_percent":
                share = 100 * value / record["bare work"]
                logging.info("  %8.3f ms %6.1f %%  %s", value, share, piece)
    record = {
        "milliseconds": figures,
        "seed": SEED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    path = HERE / "results" / "iteration_overhead.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--n-iter", type=int, default=100)
    parser.add_argument("--n-repeats", type=int, default=7)
    main(parser.parse_args())
