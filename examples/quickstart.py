"""
Five letters of an alphabet never seen
======================================

One drawing of each of five letters is all that a classifier gets, and the letters come from
alphabets that it has never seen. A ProtoNet and a MAML have learned on other scripts how to learn
a letter; logistic regression, nearest neighbours and a random forest start from nothing.

Run it with ``make demo``, or ``python examples/quickstart.py``. It prints one table and saves one
picture, ``examples/quickstart.png``.
"""

import time
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from fewshot_sklearn import Conv4, EpisodicTasks, MAMLClassifier, ProtoNetClassifier, compare
from fewshot_sklearn.datasets import load_glyphs

UNSEEN = ["Greek", "Armenian", "Georgian"]
PICTURE = Path(__file__).with_name("quickstart.png")


def main() -> None:
    """Meta-fit two methods, compare five, and draw an episode."""
    start = time.perf_counter()
    glyphs = load_glyphs(random_state=0)
    unseen = np.isin(glyphs.script, UNSEEN)[glyphs.target]
    print(
        f"{len(glyphs.data):,} drawings of {len(glyphs.target_names):,} characters; "
        f"{', '.join(UNSEEN)} are kept for the test [{time.perf_counter() - start:.0f} s]"
    )

    # Episodes cut from the other scripts are what the methods learn from ...
    X, y = glyphs.data[~unseen], glyphs.target[~unseen]
    many_way = EpisodicTasks(X, y, n_way=20, n_shot=1, n_query=5, random_state=0)
    five_way = EpisodicTasks(X, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    protonet = ProtoNetClassifier(
        backbone=Conv4(n_filters=32),
        max_iter=400,
        meta_batch_size=1,
        meta_learning_rate=2e-3,
        schedule="one_cycle",
        random_state=0,
    )
    maml = MAMLClassifier(
        backbone=Conv4(n_filters=32),
        n_inner_steps=3,
        inner_learning_rate=0.4,
        first_order=True,
        max_iter=160,
        meta_batch_size=4,
        meta_learning_rate=3e-3,
        schedule="one_cycle",
        random_state=0,
    )
    for estimator, tasks in ((protonet, many_way), (maml, five_way)):
        began = time.perf_counter()
        estimator.meta_fit(tasks)
        print(f"meta-fitted {type(estimator).__name__} [{time.perf_counter() - began:.0f} s]")

    # ... and episodes of unseen scripts are what all are judged by.
    test = EpisodicTasks(
        glyphs.data[unseen], glyphs.target[unseen], n_way=5, n_shot=1, n_query=10,
        n_tasks=150, random_state=1,
    )  # fmt: skip
    estimators = {
        "ProtoNet": protonet,
        "MAML": maml,
        "logistic regression": LogisticRegression(),
        "1-nearest neighbour": KNeighborsClassifier(1),
        "random forest": RandomForestClassifier(random_state=0),
    }
    table = compare(estimators, test)
    print(f"\nAccuracy on {len(test)} tasks: 5-way 1-shot, {', '.join(UNSEEN)}")
    print("(difference: to ProtoNet on the same tasks; p: Wilcoxon's signed-rank test)\n")
    print(table.to_string(float_format=lambda v: f"{v:.3g}" if abs(v) < 1e-3 else f"{v:.3f}"))
    draw_episode(test[3], estimators)
    print(f"\nsaved {PICTURE.name} [{time.perf_counter() - start:.0f} s in all]")


def draw_episode(task, estimators) -> None:
    """Draw a task's support set, its query set, and what each method takes each query for."""
    X_support, y_support, X_query, y_query = task
    classes = np.unique(y_support)
    queries = np.concatenate([np.flatnonzero(y_query == c)[:2] for c in classes])
    rows = len(estimators) + 1
    figure, axes = plt.subplots(rows, 1 + len(queries), figsize=(1 + len(queries), rows + 0.6))
    for ax in axes.flat:
        ax.set_axis_off()
    shown = {c: X_support[np.flatnonzero(y_support == c)[0]] for c in classes}
    axes[0, 0].text(0.5, 0.5, "query", ha="center", va="center")
    for ax, i in zip(axes[0, 1:], queries, strict=True):
        ax.imshow(X_query[i].reshape(28, 28), cmap="gray_r")
    for row, (name, estimator) in zip(axes[1:], estimators.items(), strict=True):
        predicted = estimator.fit(X_support, y_support).predict(X_query)
        right = np.mean(predicted == y_query)
        label = f"{name.replace(' ', chr(10), 1)}\n{right:.0%}"
        row[0].text(0.5, 0.5, label, ha="center", va="center", fontsize=8)
        for ax, i in zip(row[1:], queries, strict=True):
            ax.imshow(shown[predicted[i]].reshape(28, 28), cmap="gray_r")
            color = "tab:green" if predicted[i] == y_query[i] else "tab:red"
            ax.set_axis_on()
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set(color=color, linewidth=3)
    figure.suptitle(
        "Query drawings (top) and the one drawing of the class that each method chose\n"
        "(green: right, red: wrong; per cent: of all queries of this task)",
        fontsize=9,
    )
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        main()
