"""Milliseconds of a meta-iteration of MAML through ``meta_fit`` against a plain loop over tasks.

    python benchmarks/inner_loop.py                        # everything, about half an hour
    python benchmarks/inner_loop.py sinusoid features      # some workloads
    python benchmarks/inner_loop.py --device cuda          # Conv4 with 32 tasks on a GPU

The loop is ``plain_loop.py``: its tensors are ready and it does nothing but the gradients, the
clipping and Adam's step. ``meta_fit`` draws, checks and stacks its episodes, logs and snapshots
besides. Before they are timed, both have to give the same meta-gradient for the same tasks and
weights. Blocks of iterations alternate in one process. A call of one iteration is timed with each
block and taken off, so that what starting a call costs is recorded apart; where a block has a few
slow iterations the call counts with them. The medians of the blocks' ratios count, with bootstrap
intervals of 95 %. ``overhead`` is what ``meta_fit`` adds to
``meta_gradient`` on batches that are ready; ``iteration_overhead.py`` says where it goes.

Results of the workloads that were run go into ``benchmarks/results/inner_loop.json``, those on a
GPU into ``inner_loop_cuda.json``, and the tables for the documentation beside them.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import itertools
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from _tables import list_table
from plain_loop import CLIP_NORM, META_LEARNING_RATE, WORKLOADS, PlainLoop, Workload, plain_network

from fewshot_sklearn import (
    MLP,
    ANILClassifier,
    Conv4,
    EpisodicTasks,
    GroupedTasks,
    MAMLClassifier,
    MAMLRegressor,
    TaskSet,
)
from fewshot_sklearn._loading import make_loader
from fewshot_sklearn.datasets import make_sinusoid_tasks

RESULTS = Path(__file__).parent / "results"
SEED = 0
N_READY = 8  # meta-batches of the ways that get theirs ready
FEW = 8  # iterations of a block that are slow enough to hide the cost of a call
GPU_WORKLOADS = {
    "conv4_maml_32": replace(WORKLOADS["conv4_maml"], title="Conv4-64, MAML, TF32", n_tasks=32),
    "conv4_maml_32_bf16": replace(
        WORKLOADS["conv4_maml"], title="Conv4-64, MAML, bf16", n_tasks=32, precision="bf16"
    ),
}


def make_tasks(workload: Workload) -> TaskSet:
    """Return tasks of a workload's sizes: sine waves, or random rows and labels."""
    n_support, n_query = workload.n_support, workload.n_query
    if workload.regression:
        return make_sinusoid_tasks(100_000, n_support=n_support, n_query=n_query, random_state=SEED)
    rng = np.random.default_rng(SEED)
    if not workload.hidden:
        X = rng.random((2000, *workload.input_shape[1:]), dtype=np.float32)
        n_way = workload.n_outputs
        return EpisodicTasks(
            X, np.arange(len(X)) // 20, n_way=n_way, n_shot=n_support // n_way,
            n_query=n_query // n_way, n_tasks=100_000, random_state=SEED,
        )  # fmt: skip
    X = rng.standard_normal((4000, *workload.input_shape), dtype=np.float32)
    if workload.density < 1:
        X = (rng.random(X.shape, dtype=np.float32) < workload.density).astype(np.float32)
    y, groups = rng.integers(workload.n_outputs, size=len(X)), np.arange(len(X)) // 100
    data = scipy.sparse.csr_array(X) if workload.sparse else X
    return GroupedTasks(data, y, groups, n_support=n_support, n_query=n_query, random_state=SEED)


def make_estimator(workload: Workload, device: str) -> Any:
    """Return the estimator of a workload, not fitted."""
    backbone: Any = MLP(hidden_layer_sizes=workload.hidden, norm=None)
    options = {
        "backbone": backbone if workload.hidden else Conv4(),
        "n_inner_steps": workload.n_inner_steps,
        "inner_learning_rate": workload.inner_learning_rate,
        "meta_batch_size": workload.n_tasks,
        "meta_learning_rate": META_LEARNING_RATE,
        "clip_norm": CLIP_NORM,
        "precision": workload.precision,
        "device": device,
        "random_state": SEED,
    }
    if workload.regression:
        return MAMLRegressor(normalize_y=False, **options)
    if workload.head_only:
        return ANILClassifier(head="per_class", **options)
    return MAMLClassifier(head="per_class", first_order=workload.first_order, **options)


class OurPackage:
    """An estimator that goes on with ``partial_meta_fit``, and its learner on ready batches."""

    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.tasks = workload, make_tasks(workload)
        self.estimator = make_estimator(workload, device).set_params(max_iter=1)
        self.estimator.meta_fit(self.tasks)
        meta = self.estimator._meta
        self.learner = copy.deepcopy(meta.learner).requires_grad_(True).train()
        loader = make_loader(self.estimator, self.tasks, reset=False, known=meta)
        loader.targets = meta.targets
        batches = loader.batches(workload.n_tasks, np.zeros(2, dtype=np.uint64), 0)
        self.batches = list(itertools.islice(batches, N_READY))

    def train(self, n_iter: int) -> None:
        """Take meta-iterations, everything included."""
        self.estimator.set_params(max_iter=n_iter).partial_meta_fit(self.tasks)

    def compute(self, n_iter: int) -> None:
        """Compute meta-gradients alone."""
        bf16 = self.workload.precision == "bf16"
        for i in range(n_iter):
            self.learner.zero_grad(set_to_none=True)
            batch = self.batches[i % N_READY]
            with torch.autocast(batch.x_query.device.type, torch.bfloat16, enabled=bf16):
                self.learner.meta_gradient(batch).item()

    def plain_batches(self) -> list[list[Any]]:
        """Return the ready batches as lists of tasks for a loop."""
        shape = self.workload.input_shape

        def labels(y: torch.Tensor) -> torch.Tensor:
            return y if self.workload.regression else y.argmax(dim=-1)

        return [
            [
                (xs.reshape(-1, *shape), labels(ys), xq.reshape(-1, *shape), labels(yq))
                for xs, ys, xq, yq in zip(
                    b.x_support, b.y_support, b.x_query, b.y_query, strict=True
                )
            ]
            for b in self.batches
        ]


def require_same_gradient(ours: OurPackage, loop: PlainLoop) -> None:
    """Raise a RuntimeError unless both give the same meta-gradient for the same weights."""
    mine = [*ours.learner.backbone.parameters(), *ours.learner.head.parameters()]
    theirs = list(loop.network.parameters())
    with torch.no_grad():
        for own, other in zip(mine, theirs, strict=True):
            other.copy_(own)
    ours.compute(1)
    loop.meta_gradient(loop.batches[0])
    gap = sum(((a.grad - b.grad) ** 2).sum() for a, b in zip(mine, theirs, strict=True))
    size = sum((b.grad**2).sum() for b in theirs)
    exact = ours.workload.precision == "float32" and gap.device.type == "cpu"
    most = 2e-3 if exact else 0.5
    if not (gap / size).sqrt() < most:
        raise RuntimeError(f"{ours.workload}: the gradients differ by {(gap / size).sqrt():.2g}")


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def seconds(train: Callable[[int], None], n_iter: int, clock: Callable[[], float]) -> float:
    """Return the seconds of a call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    train(n_iter)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


class Way:
    """One way to train, timed in blocks of about the same length."""

    def __init__(
        self,
        train: Callable[[int], None],
        block_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.train, self.clock = train, clock
        self.call_seconds: list[float] = []
        self.n_iter = 1
        train(2)
        while seconds(train, self.n_iter, clock) < block_seconds:
            self.n_iter *= 2

    def milliseconds(self) -> float:
        """Return milliseconds of an iteration."""
        if self.n_iter < FEW:  # a difference of so few would be noise
            return 1000 * seconds(self.train, self.n_iter, self.clock) / self.n_iter
        first = min(seconds(self.train, 1, self.clock) for _ in range(2))
        rest = (seconds(self.train, self.n_iter + 1, self.clock) - first) / self.n_iter
        self.call_seconds.append(first - rest)
        return 1000 * rest

    def call_milliseconds(self) -> float | None:
        """Return what a call costs beside its iterations, where it was measured."""
        calls = self.call_seconds
        return round(1000 * statistics.median(calls), 1) if calls else None


def bootstrap(values: Sequence[float]) -> list[float]:
    """Return the interval of 95 % of the median."""
    draws = np.random.default_rng(SEED).choice(values, size=(4000, len(values)))
    return [round(float(q), 2) for q in np.quantile(np.median(draws, axis=1), [0.025, 0.975])]


def compare(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """Return medians of alternating blocks of our package, its learner alone and the loop."""
    ours = OurPackage(workload, options.device)
    network = plain_network(workload).to(options.device)
    loop = PlainLoop(network, workload, ours.plain_batches())
    require_same_gradient(ours, loop)
    trained = {"meta_fit": ours.train, "meta_gradient": ours.compute, "loop": loop.train}
    if not (workload.hidden or workload.head_only or workload.first_order):
        network = plain_network(workload, batch_norm=True).to(options.device)
        trained["loop_batch_norm"] = PlainLoop(network, workload, ours.plain_batches()).train
    clock = CLOCKS[options.clock]
    ways = {name: Way(train, options.block_seconds, clock) for name, train in trained.items()}
    rng, times = np.random.default_rng(SEED), {name: [] for name in ways}
    for _ in range(options.n_repeats):
        for name in rng.permutation(list(ways)):
            times[name].append(ways[name].milliseconds())
    ratios = [b / a for a, b in zip(times["meta_fit"], times["loop"], strict=True)]
    pairs = zip(times["meta_fit"], times["meta_gradient"], strict=True)
    return {
        "milliseconds": {name: round(statistics.median(own), 3) for name, own in times.items()},
        "times_faster": round(statistics.median(ratios), 2),
        "ci95": bootstrap(ratios),
        "overhead": round(statistics.median(a / b for a, b in pairs) - 1, 3),
        "call_milliseconds": ways["meta_fit"].call_milliseconds(),
        "n_iter_a_block": {name: way.n_iter for name, way in ways.items()},
        "load": round(os.getloadavg()[0], 1),
    }


def describe_machine(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures depend on."""
    flags = Path("/proc/cpuinfo")
    words = set(flags.read_text().split()) if flags.exists() else set()
    gpu = {"gpu": torch.cuda.get_device_name()} if options.device == "cuda" else {}
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **gpu,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16_instructions": sorted(word for word in words if "bf16" in word),
        "threads": torch.get_num_threads(),
        "clock": options.clock,
        "torch": torch.__version__,
        "n_repeats": options.n_repeats,
        "block_seconds": options.block_seconds,
        "seed": SEED,
    }


def write_table(name: str, rows: list[list[str]], widths: str) -> None:
    """Write a table for the documentation."""
    RESULTS.joinpath(f"{name}.rst").write_text(list_table(rows, widths=widths))


def times(figure: dict[str, Any] | None) -> str:
    """Return how many times faster, with the interval."""
    if figure is None:
        return "–"
    low, high = figure["ci95"]
    return f"{figure['times_faster']:.1f} ({low:.1f}–{high:.1f})"


def tabulate(name: str, figures: dict[str, Any], workloads: dict[str, Workload]) -> None:
    """Write the table of all recorded figures."""
    header = ["", "tasks", "loop, ms", "``meta_fit``, ms", "times faster", "with one task"]
    rows = [header]
    for key, workload in workloads.items():
        if key in figures:
            figure, ms = figures[key], figures[key]["milliseconds"]
            numbers = [f"{ms['loop']:.1f}", f"{ms['meta_fit']:.1f}", times(figure)]
            one = times(figures.get(f"{key}, one task"))
            rows.append([workload.title, str(workload.n_tasks), *numbers, one])
    write_table(name, rows, "30 8 12 14 18 18")


def main(options: argparse.Namespace) -> None:
    """Measure, print and record."""
    torch.set_num_threads(options.threads)
    on_gpu = options.device == "cuda"
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    workloads = GPU_WORKLOADS if on_gpu else WORKLOADS
    name = "inner_loop_cuda" if on_gpu else "inner_loop"
    path = RESULTS / f"{name}.json"
    record = json.loads(path.read_text()) if path.exists() else {"figures": {}}
    for key in options.workloads or workloads:
        cases = {key: workloads[key]}
        if not on_gpu:
            cases[f"{key}, one task"] = replace(workloads[key], n_tasks=1)
        for case, workload in cases.items():
            figure = compare(workload, options)
            if on_gpu:
                ms = figure["milliseconds"]["meta_fit"]
                figure["iterations_per_second"] = round(1000 / ms, 1)
            record["figures"][case] = figure | describe_machine(options)
            logging.info("%s: %s", case, figure)
            path.write_text(json.dumps(record, indent=1) + "\n")
    tabulate(name, record["figures"], workloads)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall",
        help="processor seconds are hardly changed by other work, but mean something with one "
        "thread only",
    )  # fmt: skip
    parser.add_argument("--n-repeats", type=int, default=15)
    parser.add_argument("--block-seconds", type=float, default=0.5)
    main(parser.parse_args())
