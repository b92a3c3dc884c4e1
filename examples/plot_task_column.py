"""
A DataFrame with a task column
==============================

Few-shot data often is one long table: a row a measurement, and a column that says to which task it
belongs. Here the tasks are shops and the rows are days. What sells, and how that depends on price,
temperature and weekend, differs from shop to shop. A new shop has been open for eight days: what
will it sell on the others?
"""

# %%
# The table is generated: 340 shops with between 5 and 400 days each. On some days nobody counted.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from fewshot_sklearn import MLP, GroupedTasks, MAMLRegressor, evaluate

rng = np.random.default_rng(0)
n_days = np.r_[np.full(20, 5), np.geomspace(30, 400, 320).astype(int)]
shops = pd.DataFrame(
    {
        "shop": [f"shop {number:03d}" for number in rng.permutation(len(n_days))],
        "size": rng.normal(0, 0.5, len(n_days)),
        "elasticity": rng.uniform(0.2, 2.0, len(n_days)),
        "weekend_effect": rng.normal(0, 0.5, len(n_days)),
        "best_temperature": rng.uniform(-1, 3, len(n_days)),
    }
)
days = shops.loc[np.repeat(shops.index, n_days)].reset_index(drop=True)
days["price"] = rng.uniform(-1, 1, len(days))
days["temperature"] = rng.uniform(-1, 3, len(days))
days["weekend"] = rng.choice([0.0, 1.0], len(days), p=[5 / 7, 2 / 7])
days["sold"] = (
    days["size"]
    - days["elasticity"] * days["price"]
    + days["weekend_effect"] * days["weekend"]
    + 1.5 * np.exp(-((days["temperature"] - days["best_temperature"]) ** 2))
    + rng.normal(0, 0.1, len(days))
)
days.loc[rng.random(len(days)) < 0.05, "sold"] = np.nan
table = days[["shop", "price", "temperature", "weekend", "sold"]].sample(frac=1, random_state=0)
table["shop"] = table["shop"].astype("category")
table.head()

# %%
# From the table to tasks. Days without a count are dropped; shops with fewer than nine counted days
# cannot be a task of eight support rows and are left out. Both are counted; ``left_out`` says why.

tasks = GroupedTasks.from_frame(
    table, task="shop", target="sold", n_support=8, n_query=60, random_state=0
)
print(tasks)
print(next(iter(tasks.left_out.items())))
print(tasks[0])

# %%
# Task sets are split like rows. Meta-training sees three hundred shops; twenty are new. Every visit
# of a shop in meta-training draws other days of it.

old, new = tasks[20:], tasks[:20]
maml = MAMLRegressor(
    backbone=MLP(hidden_layer_sizes=(40, 40), norm=None),
    n_inner_steps=3,
    inner_learning_rate=0.1,
    max_iter=1000,
    meta_learning_rate=3e-3,
    schedule="one_cycle",
    random_state=0,
).meta_fit(old)

# %%
# Two others on the same eight days: a Gaussian process that starts from nothing in each shop, and
# a boosted forest that was fitted to all days of the old shops and knows nothing of the new one.

known = table[table["shop"].isin(old.names)].dropna()
features = ["price", "temperature", "weekend"]
forest = HistGradientBoostingRegressor(random_state=0).fit(known[features], known["sold"])
process = GaussianProcessRegressor(RBF(1.5), alpha=0.05, optimizer=None, normalize_y=True)
methods = {
    "MAML": clone(maml).set_params(n_inner_steps=10),
    "Gaussian process, new shop only": process,
    "boosted trees, old shops only": FrozenEstimator(forest),
}
results = {
    name: evaluate(method, new, scoring="neg_root_mean_squared_error")
    for name, method in methods.items()
}
for name, result in results.items():
    print(f"{name}: error {-result.mean:.2f} ± {result.ci95:.2f}")

# %%
# Scores come back by the name of the task.

errors = -pd.DataFrame({name: result.frame["score"] for name, result in results.items()})
errors = errors.sort_values("MAML", ascending=False)
figure, ax = plt.subplots(figsize=(7, 5), layout="constrained")
ax.hlines(errors.index, errors.min(axis=1), errors.max(axis=1), color="lightgray", zorder=0)
for (name, column), marker in zip(errors.items(), "os^", strict=True):
    ax.scatter(column, errors.index, marker=marker, label=name)
ax.set(xlabel="root mean squared error on the other days", xlim=(0, None))
figure.legend(loc="outside upper center", ncols=3, fontsize="small")
plt.show()
