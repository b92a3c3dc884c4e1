"""
A grid search over tasks
========================

:class:`~fewshot_sklearn.TaskLearner` makes tasks the samples of a scikit-learn estimator, so that
``GridSearchCV`` chooses a meta-learner's parameters by cross-validation over tasks. Episodes of
one labelled data set need folds of classes: see what happens without.
"""

# %%
# The tasks are to tell three handwritten digits apart by one drawing of each. The grid is over the
# width of the network and the number of meta-iterations.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from fewshot_sklearn import (
    MLP,
    ClassFoldSplit,
    ClassFoldTasks,
    EpisodicTasks,
    ProtoNetClassifier,
    TaskLearner,
)

X, y = load_digits(return_X_y=True)
X = X / 16
episode = {"n_way": 3, "n_shot": 1, "n_query": 5, "random_state": 0}
protonet = ProtoNetClassifier(backbone=MLP(), meta_batch_size=2, random_state=0)
widths, iterations = [4, 16, 64], [10, 40, 160]
grid = {
    "estimator__backbone__hidden_layer_sizes": [(width,) for width in widths],
    "estimator__max_iter": iterations,
}

# %%
# ``EpisodicTasks`` draw from all ten digits. ``KFold`` splits such tasks, but not the digits: the
# digits of the test tasks have been learned in other training tasks.

leaky_tasks = EpisodicTasks(X, y, n_tasks=300, **episode)
leaky = GridSearchCV(TaskLearner(protonet), grid, cv=KFold(3), refit=False).fit(leaky_tasks)

# %%
# ``ClassFoldTasks`` deal the digits into three folds. ``ClassFoldSplit`` trains on episodes of two
# folds and tests on episodes of the third.

tasks = ClassFoldTasks(X, y, n_folds=3, n_tasks=300, **episode)
search = GridSearchCV(TaskLearner(protonet), grid, cv=ClassFoldSplit(), refit=False).fit(tasks)
baseline = cross_val_score(TaskLearner(KNeighborsClassifier(1)), tasks, cv=ClassFoldSplit())
print(f"ProtoNet, the best of the grid: {search.best_score_:.2f}")
print(f"one neighbour, which learns from the task alone: {baseline.mean():.2f}")

# %%
# The leaking scores promise more and more the longer it learns: it learns the ten digits. On digits
# that are new to it, longer learning helps little and the narrow network not at all, and one
# neighbour does better than the best of the grid: six or seven digits are too few to learn what
# tells digits apart. Only the right-hand side says so.


def draw_scores(ax, search, title):
    """Draw the mean test scores of a search as a heat map."""
    scores = search.cv_results_["mean_test_score"].reshape(len(widths), len(iterations))
    image = ax.imshow(scores, vmin=0.5, vmax=1.0, cmap="viridis", origin="lower", aspect="auto")
    for (i, j), score in np.ndenumerate(scores):
        color = "white" if score < 0.75 else "black"
        weight = "bold" if score == scores.max() else "normal"
        ax.text(j, i, f"{score:.2f}", ha="center", va="center", color=color, weight=weight)
    ax.set_xticks(range(len(iterations)), iterations)
    ax.set_yticks(range(len(widths)), widths)
    ax.set(xlabel="meta-iterations", title=title)
    return image


figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
draw_scores(axes[0], leaky, "KFold: digits leak between folds")
image = draw_scores(axes[1], search, "ClassFoldSplit: digits never seen")
axes[0].set_ylabel("hidden units")
figure.colorbar(image, ax=axes, label="mean accuracy over test tasks")
plt.show()

# %%
# Parameters that act when a task is learned need no meta-training. With ``prefit=True`` each
# candidate is the same meta-fitted estimator with another temperature, and a search of 15
# takes seconds. The log loss says how far its probabilities can be trusted.

old = y < 6
train = EpisodicTasks(X[old], y[old], **episode)
new = EpisodicTasks(X[~old], y[~old], n_tasks=150, **episode)
protonet.set_params(max_iter=40).meta_fit(train)

temperatures = np.geomspace(0.3, 100, 15)
learner = TaskLearner(protonet, scoring="neg_log_loss", prefit=True)
calibration = GridSearchCV(learner, {"estimator__temperature": temperatures}, cv=5).fit(new)

loss = -calibration.cv_results_["mean_test_score"]
spread = calibration.cv_results_["std_test_score"]
best = calibration.best_params_["estimator__temperature"]
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.fill_between(temperatures, loss - spread, loss + spread, alpha=0.3, label="spread of 5 folds")
ax.semilogx(temperatures, loss, marker=".", label="mean over tasks")
ax.axvline(best, color="black", linestyle=":", label=f"best: {best:.2g}")
ax.axhline(np.log(3), color="tab:orange", linestyle="--", label="guessing")
ax.set(xlabel="temperature", ylabel="log loss on new digits")
ax.legend()
plt.show()
