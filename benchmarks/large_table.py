"""Ten million rows in a file, a hundred thousand tasks: time and memory beyond the map.

    python benchmarks/large_table.py
    python benchmarks/large_table.py --n-rows 200000 --n-tasks 2000 --output /tmp/small.json

Writes a float32 table of 64 columns to a temporary folder (2.56 GB at full size; removed
afterwards), maps it, builds ``GroupedTasks`` from it, goes once through all tasks, meta-trains
ProtoNet on them and evaluates it. The rows lie in random order, so that the rows of a task are
spread over the whole file, which is the worst case.

*Beyond the map* is the resident memory of the process without the pages of the mapped file, which
belong to the system's file cache; the libraries, the labels and the group numbers are in it. Each
stage's peak is written: the system's own while the tasks are built and no page of the map is
resident, sampled twice a second afterwards. ``anonymous`` is the part that no file backs.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch

import fewshot_sklearn
from fewshot_sklearn import MLP, GroupedTasks, ProtoNetClassifier, evaluate

N_COLUMNS = 64
CHUNK = 100_000
SEED = 0
SMALLEST_GROUP = 20


def write_table(path: Path, n_rows: int, n_tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Write X in chunks; return the labels and the group of each row.

    In each task the two classes lie on either side of a plane of its own.
    """
    rng = np.random.default_rng(SEED)
    extra = rng.pareto(2.0, n_tasks)
    sizes = SMALLEST_GROUP + np.floor(
        extra / extra.sum() * (n_rows - SMALLEST_GROUP * n_tasks)
    ).astype(int)
    sizes[0] += n_rows - sizes.sum()
    groups = rng.permutation(np.repeat(np.arange(n_tasks), sizes))
    y = rng.integers(0, 2, n_rows, dtype=np.int8)
    planes = rng.standard_normal((n_tasks, 8), dtype=np.float32)
    directions = rng.standard_normal((8, N_COLUMNS), dtype=np.float32) / 8
    with path.open("wb") as file:
        for start in range(0, n_rows, CHUNK):
            part = slice(start, start + CHUNK)
            side = (2 * y[part] - 1)[:, None] * planes[groups[part]] / 2
            noise = rng.standard_normal((len(side), N_COLUMNS), dtype=np.float32)
            (noise + side @ directions).astype(np.float32).tofile(file)
    return y, groups


def peak_resident() -> float:
    """Return the most memory that was resident since the peak was last forgotten, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) * 1024 / 1e6


def resident_beyond(path: Path) -> dict[str, float]:
    """Return the resident memory of every mapping but that of a file, in MB."""
    sums = {"Rss:": 0, "Anonymous:": 0}
    counted = True
    for line in Path("/proc/self/smaps").read_text().splitlines():
        field, *rest = line.split()
        if not field.endswith(":"):  # the line that begins a mapping
            counted = not line.endswith(str(path))
        elif counted and field in sums:
            sums[field] += int(rest[0])
    return {
        "beyond_the_map": sums["Rss:"] * 1024 / 1e6,
        "anonymous": sums["Anonymous:"] * 1024 / 1e6,
    }


class Memory:
    """Samples the resident memory of the process in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self.peak = {"beyond_the_map": 0.0, "anonymous": 0.0}

    def sample(self) -> None:
        """Read the memory once."""
        now = resident_beyond(self._path)
        self.peak = {name: max(value, now[name]) for name, value in self.peak.items()}

    def run(self) -> None:
        """Sample until stopped."""
        while not self._stop.wait(0.5):
            self.sample()

    @contextmanager
    def watched(self) -> Iterator[dict[str, Any]]:
        """Fill a dict with the seconds and the peak of a block."""
        thread = threading.Thread(target=self.run)
        record: dict[str, Any] = {}
        thread.start()
        start = time.perf_counter()
        try:
            yield record
        finally:
            record["seconds"] = round(time.perf_counter() - start, 2)
            self._stop.set()
            thread.join()
            self.sample()
            record["peak_MB"] = {name: round(value) for name, value in self.peak.items()}


def build(X: np.memmap, y: np.ndarray, groups: np.ndarray) -> tuple[GroupedTasks, dict[str, Any]]:
    """Build the tasks; the peak is the system's own, which no sample misses."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of writing the table
    start = time.perf_counter()
    tasks = GroupedTasks(X, y, groups, n_support=10, n_query=20, random_state=SEED)
    seconds = time.perf_counter() - start
    peak = round(peak_resident())
    return tasks, {"seconds": round(seconds, 2), "peak_MB": {"beyond_the_map": peak}}


def iterate(tasks: GroupedTasks, path: Path) -> dict[str, Any]:
    """Make every task once: gather its support and query rows from the map."""
    n_rows = 0
    with Memory(path).watched() as record:
        for task in tasks:
            n_rows += len(task.X_support) + len(task.X_query)
    return record | {
        "tasks_per_second": round(len(tasks) / record["seconds"]),
        "rows_gathered": n_rows,
    }


def meta_train(tasks: GroupedTasks, path: Path, max_iter: int) -> dict[str, Any]:
    """Meta-train ProtoNet on all but the last thousandth of the tasks, which it is scored on."""
    n_test = max(len(tasks) // 1000, 50)
    net = ProtoNetClassifier(
        backbone=MLP(hidden_layer_sizes=(64,)), max_iter=max_iter, random_state=SEED, device="cpu"
    )
    untrained = ProtoNetClassifier(backbone=MLP(hidden_layer_sizes=(64,)), max_iter=1, device="cpu")
    untrained.set_params(random_state=SEED).meta_fit(tasks[:100])
    with Memory(path).watched() as record:
        net.meta_fit(tasks[:-n_test])
    return record | {
        "max_iter": max_iter,
        "meta_batch_size": net.meta_batch_size,
        "n_test_tasks": n_test,
        "accuracy_after_1": repr(evaluate(untrained, tasks[-n_test:])),
        f"accuracy_after_{max_iter}": repr(evaluate(net, tasks[-n_test:])),
    }


def measure(folder: Path, n_rows: int, n_tasks: int, max_iter: int) -> dict[str, Any]:
    """Run all stages on a table in a folder."""
    path = folder / "table.f32"
    y, groups = write_table(path, n_rows, n_tasks)
    X = np.memmap(path, dtype=np.float32, mode="r", shape=(n_rows, N_COLUMNS))
    start = round(resident_beyond(path)["beyond_the_map"])
    tasks, built = build(X, y, groups)
    sizes = np.bincount(groups)
    stages = {
        "build": built,
        "iterate": iterate(tasks, path),
        "meta_train": meta_train(tasks, path, max_iter),
    }
    return {
        "table": {
            "n_rows": n_rows,
            "n_columns": N_COLUMNS,
            "GB": round(path.stat().st_size / 1e9, 2),
            "n_tasks": len(tasks),
            "n_left_out": tasks.n_left_out,
            "rows_a_task": [int(sizes.min()), int(np.median(sizes)), int(sizes.max())],
        },
        "MB_before_build": start,
        "stages": stages,
    }


def main() -> None:
    """Read the arguments, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n-rows", type=int, default=10_000_000)
    parser.add_argument("--n-tasks", type=int, default=100_000)
    parser.add_argument("--max-iter", type=int, default=300)
    parser.add_argument("--folder", help="where the table is written; default: a temporary folder")
    results = Path(__file__).parent / "results"
    parser.add_argument("--output", type=Path, default=results / "large_table.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures = measure(Path(folder), args.n_rows, args.n_tasks, args.max_iter)
    figures |= {
        "seed": SEED,
        "machine": f"{platform.machine()}, {platform.system()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "fewshot-sklearn": fewshot_sklearn.__version__,
    }
    args.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
