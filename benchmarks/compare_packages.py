"""Milliseconds of a meta-iteration of the packages that can be installed, beside ours.

    bash benchmarks/peers/install.sh /tmp/peers
    python benchmarks/compare_packages.py /tmp/peers/bin/python

Each package runs in a process of its own (``peers/worker.py``), those of others in the environment
that ``install.sh`` made, and blocks of iterations alternate between the processes, of which one
works at a time. The workloads and the way to count are those of ``inner_loop.py``: ours goes
through ``partial_meta_fit``, the others get ready tensors. Writes ``peers.json`` and the table
``peers.rst`` to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from inner_loop import RESULTS, Way, bootstrap, describe_machine, write_table
from plain_loop import WORKLOADS

HERE = Path(__file__).resolve().parent
VERSIONS = {
    "learn2learn": "0.2.0", "higher": "0.2.1", "torchopt": "0.7.3", "parallel-metalearn": "0.5.6",
}  # fmt: skip
OF_THIS_ENVIRONMENT = ("ours", "loop")


class Worker:
    """A process that trains with one package when asked."""

    def __init__(self, python: str, package: str, workload: str, threads: int) -> None:
        self.process = subprocess.Popen(
            [python, str(HERE / "peers" / "worker.py"), package, workload, str(threads)],
            env=os.environ | {"PYTHONPATH": str(HERE)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def train(self, n_iter: int) -> None:
        """Have meta-iterations taken; a RuntimeError when the process has died."""
        self.process.stdin.write(f"{n_iter}\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "done\n":
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def compare(workload: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return medians of alternating blocks."""
    workers, ways = [], {}
    try:
        for package in (*OF_THIS_ENVIRONMENT, *VERSIONS):
            python = sys.executable if package in OF_THIS_ENVIRONMENT else options.python
            workers.append(Worker(python, package, workload, options.threads))
            ways[package] = Way(workers[-1].train, options.block_seconds)
        times: dict[str, list[float]] = {package: [] for package in ways}
        for _ in range(options.n_repeats):
            for package, way in ways.items():
                times[package].append(way.milliseconds())
    finally:
        for worker in workers:
            worker.close()
    ratios = {
        package: [b / a for a, b in zip(times["ours"], own, strict=True)]
        for package, own in times.items()
        if package != "ours"
    }
    return {
        "milliseconds": {name: round(statistics.median(own), 3) for name, own in times.items()},
        "times_faster": {name: round(statistics.median(own), 2) for name, own in ratios.items()},
        "ci95": {name: bootstrap(own) for name, own in ratios.items()},
        "load": round(os.getloadavg()[0], 1),
    }


def main(options: argparse.Namespace) -> None:
    """Measure, print and record."""
    path = RESULTS / "peers.json"
    record = json.loads(path.read_text()) if path.exists() else {"figures": {}}
    for workload in options.workloads or WORKLOADS:
        figure = compare(workload, options)
        logging.info("%s: %s", workload, figure)
        record["figures"][workload] = figure | describe_machine(options) | {"versions": VERSIONS}
        path.write_text(json.dumps(record, indent=1) + "\n")
    packages = ["ours", "loop", *VERSIONS]
    titles = [f"{name} {VERSIONS.get(name, '')}".strip() for name in packages]
    rows = [["", *titles]]
    for key, workload in WORKLOADS.items():
        if key in record["figures"]:
            ms = record["figures"][key]["milliseconds"]
            rows.append([workload.title, *(f"{ms[name]:.1f}" for name in packages)])
    write_table("peers", rows, "28 12 12 12 12 12 12")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", help="the interpreter that install.sh has made")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n-repeats", type=int, default=9)
    parser.add_argument("--block-seconds", type=float, default=0.5)
    parser.set_defaults(device="cpu", clock="wall")
    main(parser.parse_args())
