"""
A sine wave from ten points
===========================

Each task is a sine wave with an amplitude and a phase of its own, of which ten points are known. A
random forest, which starts from nothing, cannot tell what lies between so few points. MAML has seen
other waves, and starts where a few gradient steps are enough (Finn et al. 2017).
"""

# %%
# Meta-fit on a thousand waves. Every visit of a wave draws other points of it.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from fewshot_sklearn import MLP, MAMLRegressor, evaluate
from fewshot_sklearn.datasets import make_sinusoid_tasks

tasks = make_sinusoid_tasks(n_support=10, n_query=20, random_state=0)
maml = MAMLRegressor(
    backbone=MLP(hidden_layer_sizes=(40, 40), norm=None),
    n_inner_steps=3,
    inner_learning_rate=0.02,
    max_iter=1500,
    meta_batch_size=16,
    meta_learning_rate=2e-3,
    schedule="one_cycle",
    random_state=0,
).meta_fit(tasks)

# %%
# What it learned is a start. Adapt it to the points of a wave that it has not seen, with no, one,
# and several gradient steps: ``n_inner_steps`` may change after meta-training.

unseen = make_sinusoid_tasks(200, n_support=10, n_query=20, random_state=1)
grid = np.linspace(-5, 5, 200).reshape(-1, 1)
figure, axes = plt.subplots(1, 3, figsize=(12, 3.5), sharey=True)
for ax, i in zip(axes, (0, 2, 5), strict=True):
    X_support, y_support, _, _ = unseen[i]
    ax.plot(grid, unseen.function(i)(grid), color="black", label="the wave")
    for n_steps, color in ((0, "lightblue"), (1, "tab:cyan"), (10, "tab:blue")):
        maml.set_params(n_inner_steps=n_steps).fit(X_support, y_support)
        ax.plot(grid, maml.predict(grid), color=color, label=f"MAML, {n_steps} steps")
    forest = RandomForestRegressor(random_state=0).fit(X_support, y_support)
    ax.plot(grid, forest.predict(grid), "--", color="tab:orange", label="random forest")
    ax.plot(X_support, y_support, "k^", label="support set")
    ax.set(xlabel="x", ylim=(-6, 6))
axes[0].legend(fontsize=7)
figure.tight_layout()

# %%
# The mean squared error over 200 waves falls with the steps, also beyond the three of
# meta-training. A Gaussian process that is told the length scale of sine waves knows as much
# beforehand as MAML had to learn, and does better still: where a good prior can be written down,
# write it down.


def mean_squared_error(estimator):
    """Return the error over the unseen waves, with half its 95 % interval."""
    result = evaluate(estimator, unseen, scoring="neg_mean_squared_error")
    return f"{-result.mean:.2f} ± {result.ci95:.2f}"


for n_steps in (0, 1, 3, 10):
    print(f"MAML, {n_steps:2d} steps: {mean_squared_error(maml.set_params(n_inner_steps=n_steps))}")
print(f"random forest:  {mean_squared_error(RandomForestRegressor(random_state=0))}")
process = GaussianProcessRegressor(10 * RBF(2.0), alpha=1e-4, optimizer=None)
print(f"Gaussian process: {mean_squared_error(process)}")
plt.show()
