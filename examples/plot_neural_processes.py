"""
Neural processes as points come
===============================

A neural process is a network that reads labelled points and predicts the others, with a standard
deviation, in one pass. It learns to do so from many functions, here sine waves. Three of them are
shown on one wave as its points become known: the conditional one (Garnelo et al. 2018a) reads the
mean encoding of the points, the latent one (Garnelo et al. 2018b) a distribution over functions,
and the attentive one (Kim et al. 2019) also the points that are near the query.
"""

# %%
# Meta-train them on waves of ten points. In each iteration they are shown a random number of these,
# with ``min_support_share=0`` from one to all, so that they learn to predict from few as well.

import matplotlib.pyplot as plt
import numpy as np

from fewshot_sklearn import ANPRegressor, CNPRegressor, NPRegressor
from fewshot_sklearn.datasets import make_sinusoid_tasks

tasks = make_sinusoid_tasks(10_000, random_state=0)
shared = {
    "n_hidden": 64,
    "min_support_share": 0.0,
    "max_iter": 1000,
    "meta_batch_size": 16,
    "meta_learning_rate": 3e-3,
    "schedule": "one_cycle",
    "random_state": 0,
}
processes = {
    "conditional": CNPRegressor(**shared),
    "latent": NPRegressor(n_latent=32, **shared),
    "attentive": ANPRegressor(n_latent=32, n_heads=4, **shared),
}
for process in processes.values():
    process.meta_fit(tasks)

# %%
# The bands are central intervals of 90 %: the mean with 1.645 standard deviations to either side.
# The predictions come nearer to the wave as its points become known. The bands hardly narrow,
# though a single point leaves many waves: a mean does not know of how many points it is.

wave, i = make_sinusoid_tasks(20, n_support=10, random_state=1), 2
grid = np.linspace(-5, 5, 200).reshape(-1, 1)
figure, axes = plt.subplots(3, 4, figsize=(12, 7.5), sharex=True, sharey=True)
for row, (name, process) in zip(axes, processes.items(), strict=True):
    for ax, n_points in zip(row, (1, 2, 4, 10), strict=True):
        X_support, y_support = wave[i].X_support[:n_points], wave[i].y_support[:n_points]
        mean, std = process.fit(X_support, y_support).predict(grid, return_std=True)
        ax.fill_between(grid[:, 0], mean - 1.645 * std, mean + 1.645 * std, alpha=0.25, lw=0)
        ax.plot(grid, mean, label=name)
        ax.plot(grid, wave.function(i)(grid), "k--", lw=1, label="the wave")
        ax.plot(X_support, y_support, "k^", label="support set")
        ax.set(title=f"{name}, {n_points} point{'s' * (n_points > 1)}", ylim=(-6, 6))
axes[0, 0].legend(fontsize=7, loc="lower left")
figure.tight_layout()

# %%
# Over 100 waves: the error, and the share of the targets that lie in the band. The bands are right
# for the numbers of points in meta-training on average: too narrow for one point, too wide for ten.
# ``min_support_share`` near 1 makes them right for supports as large as those of meta-training.

for n_points in (1, 4, 10):
    unseen = make_sinusoid_tasks(100, n_support=n_points, n_query=50, random_state=1)
    for name, process in processes.items():
        errors, inside = [], []
        for X_support, y_support, X_query, y_query in unseen:
            mean, std = process.fit(X_support, y_support).predict(X_query, return_std=True)
            errors.append(np.square(y_query - mean).mean())
            inside.append(np.abs(y_query - mean) < 1.645 * std)
        print(
            f"{n_points:2} points, {name + ':':12} error {np.mean(errors):.3f}, "
            f"{np.mean(inside):.3f} inside the band"
        )
plt.show()
