"""
Tables that no one has, to learn to read tables
===============================================

A transformer reads labelled points and answers for all others in one pass. It is meta-trained on
generated tables of two and three classes alone: it never sees a real table, nor more classes.
"""

# %%
# The prior draws a random function for each task: a network, a sum of trees, clusters. Four of
# its tables:

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_iris, make_blobs, make_circles, make_moons

from fewshot_sklearn import InContextClassifier
from fewshot_sklearn.datasets import make_prior_tasks

tasks = make_prior_tasks(
    100_000, n_features=(2, 4), n_classes=(2, 3), n_support=(12, 40), random_state=0
)
colours = "tab10"
figure, axes = plt.subplots(1, 4, figsize=(10, 2.6))
flat = [i for i in range(60) if tasks[i].X_support.shape[1] == 2][:4]
for ax, i in zip(axes, flat, strict=True):
    ax.scatter(*tasks[i].X_support.T, c=tasks[i].y_support, cmap=colours, vmin=0, vmax=9, s=15)
    ax.set(xticks=[], yticks=[], title=f"task {i}")

# %%
# Meta-training. The labels enter by whether two rows have the same, and every cell is a token, so
# that neither the number of classes nor that of features is part of the network.

clf = InContextClassifier(embedding_size=16, max_iter=250, meta_batch_size=8, random_state=0)
clf.meta_fit(tasks)

# %%
# Four data sets that are none of the prior's. ``fit`` reads the points that are drawn; the colours
# are the most probable class elsewhere, the paler the less sure. Five and eight ways are more than
# any table of meta-training had.

iris = load_iris()
data = {
    "moons, 2-way": make_moons(40, noise=0.15, random_state=0),
    "circles, 2-way": make_circles(40, noise=0.08, factor=0.4, random_state=0),
    "blobs, 5-way": make_blobs(50, centers=5, cluster_std=1.2, random_state=5),
    "blobs, 8-way": make_blobs(64, centers=8, cluster_std=0.7, random_state=3),
}
palette = plt.get_cmap(colours)
figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
for ax, (name, (X, y)) in zip(axes, data.items(), strict=True):
    clf.fit(X, y)
    (left, low), (right, high) = X.min(axis=0) - 0.5, X.max(axis=0) + 0.5
    grid = np.stack(np.meshgrid(np.linspace(left, right, 60), np.linspace(low, high, 60)), axis=-1)
    p = clf.predict_proba(grid.reshape(-1, 2))
    sure = p.max(axis=1, keepdims=True)
    colour = palette(p.argmax(axis=1))[:, :3]
    image = 1 - 0.7 * sure * (1 - colour)
    ax.imshow(
        image.reshape(60, 60, 3), origin="lower", extent=(left, right, low, high), aspect="auto"
    )
    ax.scatter(*X.T, c=palette(y), edgecolors="black", linewidths=0.5, s=18)
    ax.set(xticks=[], yticks=[], title=name)
plt.show()

# %%
# Tables of other features are read by the same network: irises, by four measurements, from 15 rows.

rows = np.r_[0:5, 50:55, 100:105]
rest = np.delete(np.arange(150), rows)
clf.fit(iris.data[rows], iris.target[rows]).score(iris.data[rest], iris.target[rest])
