"""An in-context classifier that saw only generated tables, on the classification tables of PMLB.

    python benchmarks/in_context.py train --max-time 3000
    python benchmarks/in_context.py test

``train`` meta-trains on ``make_prior_tasks`` alone; the weights that are kept are those with the best
accuracy on held-out tasks of the prior. ``test`` draws support sets with 5 and with 10 rows of
each class from every table, and compares with ordinary estimators on the same draws. Missing values
are imputed by the support's medians; columns of categories are numbers as they are. Writes
``in_context.json`` and ``in_context.rst`` to ``benchmarks/results``; the trained model is kept in
``benchmarks/models``.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch

from fewshot_sklearn import InContextClassifier
from fewshot_sklearn.datasets import make_prior_tasks

HERE = Path(__file__).parent
RESULTS, MODELS = HERE / "results", HERE / "models"
SEED = 0
PRIOR = {"n_features": (2, 24), "n_classes": (2, 6), "n_support": (6, 60)}
MODEL = MODELS / "in_context.safetensors"


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
    start, used = time.time(), time.process_time()
    model.meta_fit(tasks, held_out, checkpoint=MODELS / "in_context.checkpoint")
    model.save(MODEL)
    print(f"{model.n_meta_iter_} iterations, {time.time() - start:.0f} s, "
          f"{time.process_time() - used:.0f} processor seconds")  # fmt: skip
    print(model.validation_scores_)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["train", "test"])
    parser.add_argument("--max-time", type=float, default=3000)
    options = parser.parse_args()
    if options.step == "train":
        train(options.max_time)


if __name__ == "__main__":
    main()
