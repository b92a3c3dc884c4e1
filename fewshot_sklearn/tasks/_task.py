"""One few-shot task: a support set to learn from and a query set to predict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_sklearn.tasks._rows import as_rows


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Task(Sequence[Any]):
    """A support set to adapt to and a query set to predict.

    A task is immutable and behaves as the tuple ``(X_support, y_support, X_query, y_query)``: it
    unpacks, indexes, slices and has length 4. Two tasks are equal only if they are the same object.

    Parameters
    ----------
    X_support : array-like, DataFrame or sparse matrix of shape (n_support, ...)
        The labelled rows. Kept as it is, without a copy; lists become arrays.
    y_support : array-like of shape (n_support,) or (n_support, n_outputs)
        Their labels, of any type.
    X_query : array-like, DataFrame or sparse matrix of shape (n_query, ...)
        The rows to predict.
    y_query : array-like of shape (n_query,) or (n_query, n_outputs)
        Their labels.
    name : hashable or None, default=None
        What the task is called in scores and errors.

    Examples
    --------
    >>> from fewshot_sklearn.tasks import Task
    >>> task = Task([[0.0], [1.0]], ["a", "b"], [[0.2]], ["a"], name="toy")
    >>> task
    Task(X_support=(2, 1), y_support=(2,), X_query=(1, 1), y_query=(1,), name='toy')
    >>> X_support, y_support, X_query, y_query = task
    >>> y_query.tolist()
    ['a']
    """

    X_support: Any
    y_support: Any
    X_query: Any
    y_query: Any
    name: Any = None

    def __post_init__(self) -> None:
        """Give every member a shape."""
        for member in ("X_support", "y_support", "X_query", "y_query"):
            object.__setattr__(self, member, as_rows(getattr(self, member)))

    def _members(self) -> tuple[Any, Any, Any, Any]:
        return self.X_support, self.y_support, self.X_query, self.y_query

    def __len__(self) -> int:
        """Return 4, the number of members."""
        return 4

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the four members."""
        return iter(self._members())

    def __getitem__(self, key: Any) -> Any:
        """Return a member, or a tuple of members for a slice."""
        return self._members()[key]

    def __repr__(self) -> str:
        """Show the shapes and the name."""
        names = ("X_support", "y_support", "X_query", "y_query")
        shapes = [
            f"{n}={tuple(member.shape)}" for n, member in zip(names, self._members(), strict=True)
        ]
        named = [] if self.name is None else [f"name={self.name!r}"]
        return f"Task({', '.join(shapes + named)})"
