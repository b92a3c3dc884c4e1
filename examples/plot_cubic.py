"""
A cubic polynomial, step by step
================================

Each task is a cubic polynomial, known at 40 points. A network of two hidden layers can learn any of
them by gradient descent; where it starts decides how many steps that takes. MAML (Finn et al. 2017)
and Reptile (Nichol et al. 2018) learn the start from other polynomials.
"""

# %%
# Three starts for the same network and the same steps of 0.01 on the 40 points. MAML differentiates
# through one such step. Reptile takes three, and moves the start towards where they led. The third
# start is random. An iteration of meta-training has one polynomial.

import matplotlib.pyplot as plt
import numpy as np

from fewshot_sklearn import (
    MLP,
    FromScratchRegressor,
    MAMLRegressor,
    ReptileRegressor,
    evaluate,
)
from fewshot_sklearn.datasets import make_cubic_tasks

tasks = make_cubic_tasks(100_000, random_state=0)
shared = {
    "backbone": MLP(hidden_layer_sizes=(40, 40), norm=None),
    "inner_learning_rate": 0.01,
    "meta_batch_size": 1,
    "meta_optimizer": "adam",
    "meta_learning_rate": 1e-3,
    "schedule": "linear",
    "max_iter": 3000,
    "random_state": 0,
}
estimators = {
    "random": FromScratchRegressor(inner_optimizer="sgd", **shared),
    "Reptile": ReptileRegressor(
        n_training_steps=3, inner_optimizer="sgd", inner_batch_size=None, **shared
    ),
    "MAML": MAMLRegressor(n_inner_steps=1, **shared),
}
for estimator in estimators.values():
    estimator.meta_fit(tasks)

# %%
# The error on other points of 200 polynomials that none of them has seen, after every number of
# steps: ``n_inner_steps`` may change after meta-training.

unseen = make_cubic_tasks(200, random_state=1)
steps = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50)
errors = {
    name: [
        evaluate(estimator.set_params(n_inner_steps=n), unseen, scoring="neg_mean_squared_error")
        for n in steps
    ]
    for name, estimator in estimators.items()
}
print("steps   " + "".join(f"{n:>8}" for n in steps))
for name, results in errors.items():
    print(f"{name:8}" + "".join(f"{-result.mean:8.2f}" for result in results))

# %%
# The learned starts are after two steps where the random one is after twenty. On the left the mean
# over polynomials with its 95 % interval, on the right one of them after two steps.

figure, (by_step, one) = plt.subplots(1, 2, figsize=(11, 4))
colors = {"random": "gray", "Reptile": "tab:green", "MAML": "tab:blue"}
i, grid = 20, np.linspace(-5, 5, 200).reshape(-1, 1)
X_support, y_support, _, _ = unseen[i]
one.plot(grid, unseen.function(i)(grid), color="black", label="the polynomial")
for name, estimator in estimators.items():
    mean = np.array([-result.mean for result in errors[name]])
    half = np.array([result.ci95 for result in errors[name]])
    by_step.plot(steps, mean, "o-", color=colors[name], label=name)
    by_step.fill_between(steps, mean - half, mean + half, color=colors[name], alpha=0.2)
    estimator.set_params(n_inner_steps=2).fit(X_support, y_support)
    one.plot(grid, estimator.predict(grid), color=colors[name], label=name)
one.plot(X_support, y_support, "k^", markersize=4, label="support set")
by_step.set(xlabel="inner steps", ylabel="mean squared error", yscale="log")
by_step.legend(title="start")
one.set(xlabel="x", title="after two steps")
one.legend(fontsize=7)
figure.tight_layout()
plt.show()
