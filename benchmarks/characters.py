"""Few-shot accuracy on characters, inductive: Omniglot (Vinyals split) and glyphs.

    python benchmarks/characters.py train omniglot protonet --max-time 4200
    python benchmarks/characters.py test omniglot protonet
    python benchmarks/characters.py plot

``train`` writes the estimator that scored best on validation tasks to ``benchmarks/models``,
``test`` evaluates it on test tasks and writes a JSON file to ``benchmarks/results``, ``plot`` draws
the curves of all results and writes the table of Omniglot for the documentation. Omniglot is found
as by ``fewshot_sklearn.datasets.fetch_omniglot``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import platform
import time
from pathlib import Path

import numpy as np
import torch
from _tables import list_table
from torch import nn

from fewshot_sklearn import (
    MLP,
    ANILClassifier,
    Conv4,
    EpisodicTasks,
    GNNClassifier,
    MAMLClassifier,
    MANNClassifier,
    MatchingNetClassifier,
    MemoryModuleClassifier,
    MetaNetClassifier,
    ProtoNetClassifier,
    RelationNetClassifier,
    ReptileClassifier,
    RidgeNetClassifier,
    SiameseNetClassifier,
    SNAILClassifier,
)
from fewshot_sklearn.datasets import fetch_omniglot, load_glyphs
from fewshot_sklearn.model_selection import evaluate

HERE = Path(__file__).parent
SEED = 0

SCHEDULE = {"meta_learning_rate": 2e-3, "schedule": "one_cycle", "validation_interval": 500}

# As in the paper of MAML: each class has a learned start of its own, and one step is taken.
FIVE_WAY_EPISODES = {"n_way": 5, "n_shot": 1, "n_query": 5}
INNER = {
    "head": "per_class",
    "n_inner_steps": 1,
    "inner_learning_rate": 0.4,
    "meta_batch_size": 4,
}

# Training episodes and estimator of each method. The schedules are shorter than the papers', so
# that one CPU core can run them; what was run is written beside the figures.
METHODS = {
    "protonet": (
        {"n_way": 30, "n_shot": 1, "n_query": 5},
        ProtoNetClassifier(backbone=Conv4(), meta_batch_size=1, **SCHEDULE),
    ),
    "siamese": (
        {"n_way": 20, "n_shot": 1, "n_query": 5},
        SiameseNetClassifier(backbone=Conv4(), meta_batch_size=1, **SCHEDULE),
    ),
    "matching": (
        {"n_way": 20, "n_shot": 1, "n_query": 5},
        MatchingNetClassifier(backbone=Conv4(), meta_batch_size=1, **SCHEDULE),
    ),
    "relation": (
        {"n_way": 10, "n_shot": 1, "n_query": 8},
        RelationNetClassifier(backbone=Conv4(n_pools=2), meta_batch_size=1, **SCHEDULE),
    ),
    "gnn": (
        {"n_way": 5, "n_shot": 1, "n_query": 3},
        GNNClassifier(
            backbone=Conv4(), meta_batch_size=8, **SCHEDULE | {"meta_learning_rate": 1e-3}
        ),
    ),
    "ridge": (
        {"n_way": 20, "n_shot": 1, "n_query": 5},
        RidgeNetClassifier(backbone=Conv4(), meta_batch_size=1, **SCHEDULE),
    ),
    # Batch normalisation: with that of each image by itself both learn much more slowly.
    "memory_module": (
        {"n_way": 20, "n_shot": 1, "n_query": 4},
        MemoryModuleClassifier(
            backbone=Conv4(norm="batch"),
            margin=0.3,
            precision="bf16",
            meta_batch_size=1,
            **SCHEDULE,
        ),
    ),
    # Half the filters of the paper.
    "meta_net": (
        FIVE_WAY_EPISODES,
        MetaNetClassifier(
            backbone=Conv4(n_filters=32, norm="batch"),
            hidden_layer_sizes=(32, 32),
            precision="bf16",
            meta_batch_size=4,
            **SCHEDULE | {"meta_learning_rate": 4e-3},
        ),
    ),
    "snail": (
        {"n_way": 5, "n_shot": 1, "n_query": 3},
        SNAILClassifier(
            backbone=Conv4(norm="batch"),
            precision="bf16",
            meta_batch_size=8,
            **SCHEDULE | {"meta_learning_rate": 1e-3},
        ),
    ),
    "maml": (FIVE_WAY_EPISODES, MAMLClassifier(backbone=Conv4(), **INNER, **SCHEDULE)),
    "fomaml": (
        FIVE_WAY_EPISODES,
        MAMLClassifier(backbone=Conv4(), first_order=True, **INNER, **SCHEDULE),
    ),
    "anil": (FIVE_WAY_EPISODES, ANILClassifier(backbone=Conv4(), **INNER, **SCHEDULE)),
    # Ten training shots, as in the paper, which takes 100,000 iterations with Adam inside.
    "reptile": (
        {"n_way": 5, "n_shot": 5, "n_query": 5},
        ReptileClassifier(
            backbone=Conv4(),
            head="per_class",
            inner_optimizer="sgd",
            inner_learning_rate=0.1,
            inner_batch_size=10,
            n_training_steps=5,
            n_inner_steps=20,
            validation_interval=500,
        ),
    ),
    # The network without convolutions of the paper.
    "maml_mlp": (
        FIVE_WAY_EPISODES,
        MAMLClassifier(
            backbone=MLP(hidden_layer_sizes=(256, 128, 64, 64)),
            **INNER | {"meta_batch_size": 16},
            **SCHEDULE | {"meta_learning_rate": 3e-3},
        ),
    ),
    # Images of 14 x 14 pixels (the paper: 20 x 20), and the first five presentations of a class.
    "mann": (
        {"n_way": 5, "n_shot": 4, "n_query": 1},
        MANNClassifier(
            backbone=nn.Sequential(nn.Unflatten(1, (1, 28, 28)), nn.AvgPool2d(2), nn.Flatten()),
            meta_batch_size=16,
            validation_interval=250,
        ),
    ),
}
ANY_WAY = ((5, 1), (5, 5), (20, 1), (20, 5))
FIVE_WAY = ((5, 1), (5, 5))
TEST_EPISODES = {
    "protonet": ANY_WAY,
    "siamese": ANY_WAY,
    "matching": ANY_WAY,
    "relation": FIVE_WAY,
    "ridge": FIVE_WAY,
    "gnn": ((5, 1),),
    "memory_module": ANY_WAY,
    "meta_net": ((5, 1),),
    "snail": ((5, 1),),
    "maml": FIVE_WAY,
    "fomaml": FIVE_WAY,
    "anil": FIVE_WAY,
    "reptile": FIVE_WAY,
    "maml_mlp": FIVE_WAY,
    "mann": ((5, 1), (5, 4)),
}
# As ANY_WAY, with the networks and schedules of the papers.
PUBLISHED = {
    "siamese": ("97.3", "98.4", "88.2", "97.0"),
    "matching": ("98.1", "98.9", "93.8", "98.5"),
    "protonet": ("98.8", "99.7", "96.0", "98.9"),
    "relation": ("99.6", "99.8", "97.6", "99.1"),
    "memory_module": ("98.4", "99.6", "95.0", "98.6"),
    "meta_net": ("99.0", "–", "97.0", "–"),
    "snail": ("99.1", "99.8", "97.6", "99.4"),
    # Five ways alone, and the iterations.
    "maml": ("published, transductive", "98.7", "99.9", "60,000"),
    "fomaml": ("published, transductive", "98.3", "99.2", "–"),
    "reptile": ("published", "95.39", "98.90", "100,000"),
    "maml_mlp": ("published, transductive", "89.7", "97.5", "60,000"),
}
GRADIENT_BASED = {
    "maml": ":doc:`maml`, Conv4",
    "fomaml": "the same, first order",
    "anil": ":doc:`anil`, Conv4",
    "reptile": ":doc:`reptile`, Conv4",
    "maml_mlp": ":doc:`maml`, without convolutions",
}

GLYPH_PARTS = {
    "validation": ["Cyrillic"],
    "test": ["Greek", "Armenian", "Georgian"],
}
DESCRIPTIONS = {
    "omniglot": "Omniglot, Vinyals split, 90-degree rotations as classes, test classes, inductive",
    "glyphs": "glyphs, Greek, Armenian and Georgian (validation: Cyrillic), inductive",
}


def load(data: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of one part of a data set."""
    if data == "omniglot":
        omniglot = fetch_omniglot(split="vinyals", rotations=True)
        rows = np.isin(omniglot.target, omniglot[f"{part}_classes"])
        return omniglot.data[rows], omniglot.target[rows]
    glyphs = load_glyphs(random_state=SEED)
    if part == "train":
        chosen = ~np.isin(glyphs.script, GLYPH_PARTS["validation"] + GLYPH_PARTS["test"])
    else:
        chosen = np.isin(glyphs.script, GLYPH_PARTS[part])
    rows = chosen[glyphs.target]
    return glyphs.data[rows], glyphs.target[rows]


def train(data: str, method: str, options: argparse.Namespace) -> None:
    """Meta-train one method and keep the estimator."""
    episodes, estimator = METHODS[method]
    tasks = EpisodicTasks(*load(data, "train"), n_tasks=1_000_000, random_state=SEED, **episodes)
    validation = EpisodicTasks(
        *load(data, "validation"), n_way=5, n_shot=1, n_query=5, n_tasks=300, random_state=SEED
    )
    estimator.set_params(
        max_iter=options.max_iter, max_time=options.max_time, verbose=1, random_state=SEED
    )
    start = time.time()
    estimator.meta_fit(tasks, validation_tasks=validation)
    record = {"training_seconds": round(time.time() - start), "training_episodes": episodes}
    path = HERE / "models" / f"{data}_{method}.pkl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps((estimator, record)))


def test(data: str, method: str, options: argparse.Namespace) -> None:
    """Evaluate a kept estimator on test tasks and record the figures."""
    estimator, record = pickle.loads((HERE / "models" / f"{data}_{method}.pkl").read_bytes())
    X, y = load(data, "test")
    figures = {}
    for n_way, n_shot in TEST_EPISODES[method]:
        n_query, n_tasks = (15, options.n_tasks) if n_way == 5 else (5, options.n_tasks * 2 // 5)
        tasks = EpisodicTasks(
            X, y, n_way=n_way, n_shot=n_shot, n_query=n_query,
            n_tasks=n_tasks, random_state=SEED + 1,
        )  # fmt: skip
        result = evaluate(estimator, tasks)
        figures[f"{n_way}-way {n_shot}-shot"] = {
            "accuracy": round(100 * result.mean, 2),
            "ci95": round(100 * result.ci95, 2),
            "n_tasks": n_tasks,
            "n_query": n_query,
        }
        logging.info("%s %s %d-way %d-shot: %s", data, method, n_way, n_shot, result)
    record |= {
        "method": method,
        "estimator": repr(estimator),
        "data": DESCRIPTIONS[data],
        "figures": figures,
        "n_meta_iter": estimator.n_meta_iter_,
        "meta_loss_curve": [
            [i, round(float(np.mean(estimator.meta_loss_curve_[max(0, i - 100) : i])), 4)]
            for i in range(100, estimator.n_meta_iter_ + 1, max(100, estimator.n_meta_iter_ // 40))
        ],
        "validation_scores": [(i, round(s, 4)) for i, s in estimator.validation_scores_],
        "seed": SEED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    path = HERE / "results" / f"{data}_{method}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def tabulate() -> None:
    """Write the tables of the methods on Omniglot, with the published figures."""
    columns = [f"{n_way}-way {n_shot}-shot" for n_way, n_shot in ANY_WAY]
    header = ["", *columns, "time of one core"]
    together = [header]
    for method in (m for m in TEST_EPISODES if m not in (*GRADIENT_BASED, "mann")):
        record = recorded(method)
        if record is None:
            continue
        row = [*accuracies(record, columns), f"{record['training_seconds'] / 60:.0f} min"]
        published = [["published", *PUBLISHED[method], ""]] if method in PUBLISHED else []
        write_table(f"omniglot_{method}", [header, ["here", *row], *published])
        together += [[f":doc:`{method}`", *row], *published]
    write_table("characters", together)
    rows = [["", *columns[:2], "iterations"]]
    for method, title in GRADIENT_BASED.items():
        record = recorded(method)
        if record is None:
            continue
        rows.append([title, *accuracies(record, columns[:2]), f"{record['n_meta_iter']:,}"])
        if method in PUBLISHED:
            rows.append([*PUBLISHED[method]])
    write_table("characters_gradient", rows)


def recorded(method: str) -> dict | None:
    """Return the record of a method on Omniglot, if there is one."""
    path = HERE / "results" / f"omniglot_{method}.json"
    return json.loads(path.read_text()) if path.exists() else None


def accuracies(record: dict, columns: list[str]) -> list[str]:
    """Return the accuracies with their intervals."""
    figures = record["figures"]
    return [
        f"{figures[c]['accuracy']:.1f} ± {figures[c]['ci95']:.1f}" if c in figures else "–"
        for c in columns
    ]


def write_table(name: str, rows: list[list[str]]) -> None:
    """Write a table for the documentation."""
    widths = " ".join(["20", *["16"] * (len(rows[0]) - 1)])
    (HERE / "results" / f"{name}.rst").write_text(list_table(rows, widths=widths))


def plot() -> None:
    """Draw validation accuracy by meta-iteration for all results."""
    import matplotlib.pyplot as plt

    paths = [
        HERE / "results" / f"{data}_{method}.json" for data in DESCRIPTIONS for method in METHODS
    ]
    results = [json.loads(path.read_text()) for path in paths if path.exists()]
    names = sorted({r["data"] for r in results})
    figure, axes = plt.subplots(1, len(names), figsize=(6.5 * len(names), 4.2), sharey=True)
    for ax, name in zip(np.atleast_1d(axes), names, strict=True):
        for i, result in enumerate(r for r in results if r["data"] == name):
            iterations, scores = zip(*result["validation_scores"], strict=True)
            minutes = result["training_seconds"] / 60
            label = f"{result['method']} ({minutes:.0f} min)"
            ax.plot(iterations, scores, "-" if i < 10 else "--", label=label)
        ax.set(xlabel="meta-iteration", title=name.split(",")[0], xscale="log", ylim=(0, 1))
        ax.axhline(0.2, color="gray", linestyle=":", label="chance")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    np.atleast_1d(axes)[0].set_ylabel("validation accuracy, 5-way 1-shot")
    figure.tight_layout()
    figure.savefig(HERE / "results" / "characters.png", dpi=110)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["train", "test", "plot"])
    parser.add_argument("data", choices=sorted(DESCRIPTIONS), nargs="?")
    parser.add_argument("method", choices=sorted(METHODS), nargs="?")
    parser.add_argument("--max-iter", type=int, default=30_000)
    parser.add_argument("--max-time", type=float, default=None)
    parser.add_argument("--n-tasks", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.action == "plot":
        plot()
        tabulate()
    else:
        action = {"train": train, "test": test}[arguments.action]
        action(arguments.data, arguments.method, arguments)
