"""Milliseconds of a meta-iteration of MAML over 16 tasks, in one process and in two.

    python benchmarks/two_processes.py
    torchrun --nproc-per-node 2 benchmarks/two_processes.py

Run both in turn, with OMP_NUM_THREADS=1. Prints the median of seven runs of 20 iterations.
"""

from __future__ import annotations

import os
import time

import numpy as np
import torch.distributed as dist
from sklearn.datasets import make_classification

from fewshot_sklearn import MLP, EpisodicTasks, MAMLClassifier

N_TASKS, N_ITER = 16, 20


def main(n_processes: int) -> None:
    """Train, and print the time of an iteration."""
    X, y = make_classification(
        4000, n_features=64, n_informative=20, n_classes=40, n_clusters_per_class=1, random_state=0
    )
    tasks = EpisodicTasks(X, y, n_shot=2, n_query=6, random_state=0)
    maml = MAMLClassifier(
        backbone=MLP(hidden_layer_sizes=(256, 128)),
        n_inner_steps=5,
        max_iter=N_ITER,
        meta_batch_size=N_TASKS // n_processes,
        random_state=0,
    ).meta_fit(tasks)
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        maml.partial_meta_fit(tasks)
        times.append(1000 * (time.perf_counter() - begin) / N_ITER)
    print(f"{n_processes} processes: {np.median(times):.1f} ms an iteration of {N_TASKS} tasks")


if __name__ == "__main__":
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        main(dist.get_world_size())
        dist.destroy_process_group()
    else:
        main(1)
