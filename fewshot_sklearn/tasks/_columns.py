"""Which columns of a table name the task, are the target, and are learned from."""

from collections.abc import Hashable, Iterable
from typing import Any


def split_columns(df: Any, *, task: Hashable, target: Any, features: Any) -> tuple[Any, Any, Any]:
    """Return the features, the target and the task column of a long table.

    Parameters
    ----------
    df : DataFrame
        The table.
    task : hashable
        The column that names the task.
    target : hashable or iterable of hashable
        The column or columns to predict.
    features : hashable, iterable of hashable or None
        The columns to learn from; None for all that are neither task nor target.

    Returns
    -------
    X : DataFrame
    y : Series, or DataFrame of several targets
    groups : Series

    Raises
    ------
    TypeError
        If ``df`` is not a DataFrame.
    ValueError
        If a column is absent, occurs twice, or has two parts that exclude each other.
    """
    if not hasattr(df, "columns"):
        raise TypeError(
            f"df must be a DataFrame, got {type(df).__name__}; for arrays use "
            "GroupedTasks(X, y, groups)."
        )
    columns = list(df.columns)
    targets = _listed(target, columns)
    if features is None:
        chosen = [column for column in columns if column != task and column not in targets]
    else:
        chosen = _listed(features, columns)
    _check(columns, task, targets, chosen)
    return df[chosen], df[targets if len(targets) > 1 else targets[0]], df[task]


def _listed(chosen: Any, columns: list[Hashable]) -> list[Hashable]:
    """Return columns as a list; a tuple may be the name of one."""
    one = isinstance(chosen, str) or not isinstance(chosen, Iterable)
    if one or (isinstance(chosen, tuple) and chosen in columns):
        return [chosen]
    return list(chosen)


def _check(
    columns: list[Hashable], task: Hashable, targets: list[Hashable], features: list[Hashable]
) -> None:
    used = [task, *targets, *features]
    absent = [column for column in used if column not in columns]
    if absent or not features:
        problem = f"no column {absent[0]!r}" if absent else "no column left for features"
        raise ValueError(f"df has {problem}; its columns are {columns}.")
    twice = [column for column in used if columns.count(column) > 1]
    if twice:
        raise ValueError(
            f"the columns that are used must have names of their own, but {twice[0]!r} names "
            f"{columns.count(twice[0])} columns of df; rename them."
        )
    if task in targets:
        raise ValueError(f"the task and the target must be different columns, got {task!r} twice.")
    leaked = [column for column in features if column in targets]
    if leaked:
        raise ValueError(
            f"features must not hold the target, got {leaked[0]!r} as both; leave it out."
        )
