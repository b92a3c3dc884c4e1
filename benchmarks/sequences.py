"""How networks with a memory learn to copy, by the sequences that they have seen.

    python benchmarks/sequences.py train copy ntm
    python benchmarks/sequences.py train copy lstm
    python benchmarks/sequences.py plot copy

The tasks are ``copy``, ``repeat_copy``, ``associative_recall``, ``ngram`` and ``priority_sort``,
the memories ``ntm``, ``dnc`` and ``lstm``. ``train`` fits on 30,000 generated sequences, each seen
once, eight at a time. Its curve is the loss of a bit, before it was learned from, times the mean
number of bits of a sequence; batches are of like length and weigh alike, so that long sequences
weigh less in it than in a cost a sequence. The costs at each length are those of 200 further
sequences. Adam with a constant step size. Writes
``benchmarks/results/sequences_<task>_<memory>.json``; ``plot`` draws what is there and writes the
table of the documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _tables import list_table

from fewshot_sklearn import NTMSequenceClassifier
from fewshot_sklearn.datasets import (
    make_associative_recall_sequences,
    make_copy_sequences,
    make_ngram_sequences,
    make_priority_sort_sequences,
    make_repeat_copy_sequences,
    ngram_optimal_proba,
)
from fewshot_sklearn.metrics import bits_per_sequence, wrong_bits_per_sequence

RESULTS = Path(__file__).parent / "results"
N_SEQUENCES, BATCH, SEED = 30_000, 8, 0
# What makes a task, what it is trained on, and what is changed for each of the tests.
TASKS: dict[str, tuple[Any, dict[str, Any], dict[str, dict[str, Any]]]] = {
    "copy": (make_copy_sequences, {}, {f"{n}": {"lengths": n} for n in (5, 10, 20, 30, 40)}),
    "repeat_copy": (
        make_repeat_copy_sequences,
        {"normalize_by": (1, 10)},
        {
            "5, 5 times": {"lengths": 5, "repeats": 5},
            "10, 10 times": {"lengths": 10, "repeats": 10},
            "20, 10 times": {"lengths": 20, "repeats": 10},
            "10, 20 times": {"lengths": 10, "repeats": 20},
        },
    ),
    "associative_recall": (
        make_associative_recall_sequences,
        {},
        {f"{n} items": {"n_items": n} for n in (2, 4, 6, 10, 15)},
    ),
    "ngram": (
        make_ngram_sequences,
        {"length": 50, "n_context": 3},
        {f"{n} bits": {"length": n} for n in (25, 50, 100)},
    ),
    "priority_sort": (make_priority_sort_sequences, {}, {"20 vectors": {}}),
}
SHARED = {
    "batch_size": BATCH,
    "max_iter": N_SEQUENCES // BATCH,
    "clip_norm": 10.0,
    "random_state": SEED,
}
MEMORIES = {
    "ntm": NTMSequenceClassifier(controller="feedforward", learning_rate=1e-3, **SHARED),
    "dnc": NTMSequenceClassifier(
        memory="dnc", controller="feedforward", n_slots=64, learning_rate=1e-3, **SHARED
    ),
    "lstm": NTMSequenceClassifier(
        memory="lstm", n_hidden=256, n_layers=2, learning_rate=1e-3, **SHARED
    ),
}


def train(task: str, memory: str, max_time: float | None = None) -> None:
    """Fit one network, score it at each length, and write what was found."""
    make, training, tests = TASKS[task]
    X, y = make(N_SEQUENCES, **training, random_state=SEED)
    clf = MEMORIES[memory].set_params(max_time=max_time)
    begin, used = time.time(), time.process_time()
    clf.fit(X, y)
    seconds, processor = time.time() - begin, time.process_time() - used
    mean_bits = np.mean([(~np.isnan(targets)).sum() for targets in y])
    losses = np.array(clf.loss_curve_) / np.log(2) * mean_bits
    window = 50
    curve = losses[: len(losses) // window * window].reshape(-1, window).mean(axis=1)
    record: dict[str, Any] = {
        "task": task,
        "memory": memory,
        "estimator": " ".join(repr(clf).split()),
        "sequences": clf.n_iter_ * BATCH,
        "seconds": round(seconds),
        "processor seconds": round(processor),
        "seed": SEED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "torch": torch.__version__,
        "curve": [
            [(i + 1) * window * BATCH, round(float(cost), 3)] for i, cost in enumerate(curve)
        ],
        "bits a sequence": {},
    }
    for name, changes in tests.items():
        X, y = make(200, **training | changes, random_state=SEED + 1)
        costs = [
            bits_per_sequence([targets], [p])
            for targets, p in zip(y, clf.predict_proba(X), strict=True)
        ]
        half = 1.96 * np.std(costs, ddof=1) / len(costs) ** 0.5
        record["bits a sequence"][name] = {
            "cost": round(float(np.mean(costs)), 2),
            "ci95": round(float(half), 2),
            "wrong bits": round(wrong_bits_per_sequence(y, clf.predict(X)), 2),
        }
        if task == "ngram":
            best = ngram_optimal_proba(X, n_context=training["n_context"])
            record["bits a sequence"][name]["optimum"] = round(bits_per_sequence(y, best), 2)
    path = RESULTS / f"sequences_{task}_{memory}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


def plot(task: str) -> None:
    """Draw the curves that were recorded, and write the table of costs."""
    import matplotlib.pyplot as plt

    records = [
        json.loads(path.read_text())
        for memory in MEMORIES
        if (path := RESULTS / f"sequences_{task}_{memory}.json").exists()
    ]
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for record in records:
        seen, cost = np.array(record["curve"]).T
        left.plot(seen, cost, label=record["memory"].upper())
        found = record["bits a sequence"]
        names = [int(name) if name.isdecimal() else name for name in found]
        right.plot(names, [test["cost"] for test in found.values()], ".-")
    left.set(xlabel="sequences seen", ylabel="loss a bit × bits a sequence", ylim=(0, None))
    right.set(
        xlabel="length" if task == "copy" else "",
        ylabel="bits a sequence, afterwards",
        yscale="symlog",
        ylim=(0, None),
    )
    left.legend()
    fig.savefig(RESULTS / f"sequences_{task}.png", dpi=100)
    write_table(task, records)


def write_table(task: str, records: list[dict[str, Any]]) -> None:
    """Write the costs by length as the documentation shows them."""
    sizes = list(records[0]["bits a sequence"])
    heads = [f"length {size}" if size.isdecimal() else size for size in sizes]
    rows = [["", *heads, "wrong bits at the last", "minutes"]]
    for record in records:
        found = record["bits a sequence"]
        rows.append(
            [
                record["memory"].upper(),
                *(f"{found[s]['cost']} ± {found[s]['ci95']}" for s in sizes),
                str(found[sizes[-1]]["wrong bits"]),
                f"{record['processor seconds'] / 60:.1f}",
            ]
        )
    optima = [test.get("optimum") for test in records[0]["bits a sequence"].values()]
    if None not in optima:
        rows.append(["optimum", *(str(cost) for cost in optima), "", ""])
    (RESULTS / f"sequences_{task}.rst").write_text(list_table(rows))


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["train", "plot"])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("memory", choices=MEMORIES, nargs="?")
    parser.add_argument("--max-time", type=float, help="seconds after which training stops")
    arguments = parser.parse_args()
    if arguments.action == "train":
        train(arguments.task, arguments.memory, arguments.max_time)
    else:
        plot(arguments.task)


if __name__ == "__main__":
    main()
