"""Transformers in front of a few-shot estimator: fitted once on older tasks, then frozen."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.callback import with_callbacks
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.metaestimators import available_if

from . import persistence
from ._distributed import World, object_world
from ._frozen import (
    FrozenSteps,
    check_seeded,
    copy_estimator,
    fit_transformers,
    is_skipped,
    last_step_has,
    pipeline_has,
    with_check,
)
from .utils._sklearn import _clone_parametrized, estimator_html_repr

__all__ = ["MetaPipeline", "make_meta_pipeline"]


class MetaPipeline(Pipeline):
    """A scikit-learn Pipeline whose last step learns to learn.

    ``meta_fit(tasks)`` fits the transformers once, on the pooled rows of the tasks, and freezes
    them; the last step is meta-fitted to the transformed tasks. Afterwards ``fit`` only transforms
    a support set and adapts the last step to it: five rows would be too few to fit a scaler, a
    vocabulary or principal components to.

    Before ``meta_fit`` it is an ordinary pipeline: ``fit`` fits every step to the rows it is given.

    Parameters
    ----------
    steps : list of (str, estimator) tuples
        Transformers, then a few-shot estimator. ``"passthrough"`` and None skip a step.
    transform_input : list of str, default=None
        As in scikit-learn; not for ``meta_fit``, which takes no such metadata.
    memory : str or joblib.Memory, default=None
        Caches the transformers that ``meta_fit`` fits.
    verbose : bool, default=False
        Whether to print the time that each transformer takes to fit.

    Attributes
    ----------
    named_steps : :class:`~sklearn.utils.Bunch`
        The steps by name. After ``meta_fit`` the transformers in it are fitted.
    classes_ : ndarray of shape (n_classes,)
        The labels of the last support set, of a classifier.
    n_features_in_ : int
        As the first step has it.

    See Also
    --------
    make_meta_pipeline : Names the steps by their types.
    sklearn.pipeline.Pipeline : Fits its transformers again to every support set.

    Notes
    -----
    The transformers see the rows that the tasks given to ``meta_fit`` can draw, each row once,
    support and query rows alike, and no others: in cross-validation nothing of the tasks that are
    held out. They see labels where each pooled row has one label whose meaning is the same in all
    tasks: targets of a regression, shared classes, and the classes of
    :class:`~fewshot_sklearn.EpisodicTasks`.

    The rows of tasks over one data set are transformed once, before meta-training. Sparse results
    stay sparse; each meta-iteration makes its own rows dense. Where X is a memory map, the
    transformers are fitted to at most 100,000 of its rows, evenly spread, and all rows are
    transformed chunk by chunk into a temporary memory map. Of an iterator of tasks the transformers
    see the first 100.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from fewshot_sklearn import EpisodicTasks, MetaPipeline, ProtoNetClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> old = y < 6
    >>> tasks = EpisodicTasks(X[old], y[old], n_way=3, n_tasks=100, random_state=0)
    >>> pipe = MetaPipeline([
    ...     ("pca", PCA(n_components=16, whiten=True, random_state=0)),
    ...     ("protonet", ProtoNetClassifier(max_iter=20, random_state=0)),
    ... ]).meta_fit(tasks)
    >>> new = EpisodicTasks(X[~old], y[~old], n_way=3, n_tasks=1, random_state=1)
    >>> X_support, y_support, X_query, y_query = new[0]
    >>> pipe.fit(X_support, y_support).score(X_query, y_query)
    0.7...
    """

    steps: list[tuple[str, Any]]
    _frozen: FrozenSteps | None = None

    # ------------------------------------------------------------------ meta-training

    @available_if(last_step_has("meta_fit"))
    @with_callbacks
    def meta_fit(self, tasks: Any, validation_tasks: Any = None, **params: Any) -> Self:
        """Fit the transformers to the pooled rows of the tasks, and meta-fit the last step.

        Where the last step has ``warm_start=True``, a second call keeps the transformers and goes
        on from the weights that are there.

        Parameters
        ----------
        tasks : TaskSet, list or iterable of tasks
            Each a :class:`~fewshot_sklearn.Task` or a tuple
            ``(X_support, y_support, X_query, y_query)``, with features as the first step takes
            them: a DataFrame, texts, missing values.
        validation_tasks : like tasks, default=None
            Only transformed.
        **params
            Passed on to the ``meta_fit`` of the last step.

        Returns
        -------
        self : object
            Meta-fitted, not fitted.

        Raises
        ------
        ValueError
            When a transformer fails, or needs labels that the pooled rows do not have; or when
            there is a ``checkpoint`` and a transformer's ``random_state`` is no int.
        TaskError
            When a task cannot be used; the message names it.
        """
        keep = self._is_meta_fitted() and bool(getattr(self.steps[-1][1], "warm_start", False))
        return self._learn("meta_fit", tasks, validation_tasks, params, keep=keep)

    @available_if(last_step_has("partial_meta_fit"))
    @with_callbacks
    def partial_meta_fit(self, tasks: Any, validation_tasks: Any = None, **params: Any) -> Self:
        """Go on meta-training the last step; the transformers stay as they are.

        Parameters
        ----------
        tasks, validation_tasks, **params : as in :meth:`meta_fit`
            A pipeline that is not meta-fitted fits its transformers to them first.

        Returns
        -------
        self : object
        """
        keep = self._is_meta_fitted()
        return self._learn("partial_meta_fit", tasks, validation_tasks, params, keep=keep)

    def _learn(
        self, method: str, tasks: Any, validation_tasks: Any, params: dict[str, Any], *, keep: bool
    ) -> Self:
        """Transform tasks, by kept or by new transformers, and call a method of the last step."""
        if self.transform_input is not None:
            raise ValueError(
                f"transform_input is for the metadata of fit, and {method} takes none; leave "
                "transform_input=None."
            )
        world = object_world()
        with world.together():
            if params.get("checkpoint") is not None and not keep:
                check_seeded(self.steps)
            root = self._init_callback_context(task_name=method, max_subtasks=2)
            root.call_on_fit_task_begin(estimator=self)
            step = root.subcontext(task_name="fit-transformers")
            step.call_on_fit_task_begin(estimator=self)
            used = [name for name, step in self.steps if not is_skipped(step)]
            world.check_alike({"transformers": "kept" if keep else "fitted", "steps": used})
            frozen, tasks = self._transform_tasks(tasks, world, keep=keep)
            if validation_tasks is not None:
                validation_tasks = frozen.transform_tasks(validation_tasks, first_visit=True)
            step.call_on_fit_task_end(estimator=self)
            world.exchange(None)
        last = self.steps[-1][1]
        before = getattr(last, "meta_loss_curve_", None)
        step = root.subcontext(task_name=f"{method}-final-estimator")
        try:
            with step.propagate_callback_context(last):
                step.call_on_fit_task_begin(estimator=self)
                getattr(last, method)(tasks, validation_tasks, **params)
                step.call_on_fit_task_end(estimator=self)
        except BaseException:
            if getattr(last, "meta_loss_curve_", None) is not before:
                self._freeze(frozen)  # what was learned until then is kept, and goes with these
            raise
        self._freeze(frozen)
        root.call_on_fit_task_end(estimator=self)
        return self

    def _transform_tasks(self, tasks: Any, world: World, *, keep: bool) -> tuple[FrozenSteps, Any]:
        """Return kept or new transformers, the same in all processes, and what they make."""
        if not keep:
            options = {"memory": self.memory, "verbose": self.verbose}
            return fit_transformers(self.steps, tasks, world=world, **options)
        frozen = self._checked_frozen().from_main(world)
        return frozen, frozen.transform_tasks(tasks)

    def _freeze(self, frozen: FrozenSteps) -> None:
        """Take over fitted transformers."""
        self.steps, self._frozen = list(frozen.steps), frozen

    # ------------------------------------------------------------------ one task

    @with_callbacks
    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Learn one task: transform the support set and adapt the last step to it.

        A pipeline that is not meta-fitted fits all its steps to X and y, as scikit-learn's does.

        Parameters
        ----------
        X : array-like, DataFrame, sparse matrix or list of str
            The support set's rows, as the first step takes them.
        y : array-like of shape (n_support,)
            Their labels.
        **params
            Parameters of the steps' ``fit``, as in scikit-learn; none on a meta-fitted pipeline.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            When a transformer, or one of its parameters, was changed after ``meta_fit``.
        """
        if not self._is_meta_fitted():
            return super().fit(X, y, **params)
        frozen = self._checked_frozen()
        if params:
            raise ValueError(
                "fit on a meta-fitted pipeline only adapts the last step and takes X and y alone, "
                f"got {sorted(params)} too; leave them out."
            )
        root = self._init_callback_context(max_subtasks=1)
        root.call_on_fit_task_begin(estimator=self, X=X, y=y)
        last = self.steps[-1][1]
        if hasattr(last, "meta_fit"):  # it has none in a slice, such as pipe[:-1]
            step = root.subcontext(task_name="fit-final-estimator")
            with step.propagate_callback_context(last):
                step.call_on_fit_task_begin(estimator=self, X=X, y=y)
                last.fit(frozen.transform(X), y)
                step.call_on_fit_task_end(estimator=self, X=X, y=y)
        root.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @available_if(pipeline_has("fit_transform"))
    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Fit the steps and transform X; transformers that are frozen only transform.

        Parameters
        ----------
        X, y, **params : as in :meth:`fit`

        Returns
        -------
        Xt : array, DataFrame or sparse matrix
        """
        if self._is_meta_fitted():
            return self.fit(X, y, **params).transform(X)
        return super().fit_transform(X, y, **params)

    @available_if(last_step_has("predict_tasks"))
    def predict_tasks(self, tasks: Any, *, method: str = "predict") -> list[NDArray[Any]]:
        """Adapt to each task and predict its query set, many tasks at once.

        Parameters
        ----------
        tasks : TaskSet or list of tasks
        method : {"predict", "predict_proba", "decision_function"}, default="predict"

        Returns
        -------
        predictions : list of ndarray
            For each task what ``fit(X_support, y_support)`` and ``method(X_query)`` give, to
            rounding. The pipeline itself stays as it is.

        Raises
        ------
        NotFittedError
            When the pipeline is not meta-fitted.
        """
        if not self._is_meta_fitted():
            raise NotFittedError(
                f"predict_tasks needs a meta-fitted {type(self).__name__}; call meta_fit first."
            )
        tasks = self._checked_frozen().transform_tasks(tasks, first_visit=True)
        predictions: list[NDArray[np.generic]] = self.steps[-1][1].predict_tasks(
            tasks, method=method
        )
        return predictions

    predict = with_check("predict")
    predict_proba = with_check("predict_proba")
    decision_function = with_check("decision_function")
    score = with_check("score")
    transform = with_check("transform")

    # ------------------------------------------------------------------ frozen transformers

    def _is_meta_fitted(self) -> bool:
        return self._frozen is not None

    def _checked_frozen(self) -> FrozenSteps:
        """Return the frozen steps of a meta-fitted pipeline, which must be as they were."""
        frozen: Any = self._frozen
        frozen.check(self.steps)
        return frozen

    # ------------------------------------------------------------------ protocols

    def __getitem__(self, ind: Any) -> Any:
        """Return a step, or a pipeline of some steps; what is frozen stays so."""
        part = super().__getitem__(ind)
        if isinstance(ind, slice) and self._frozen is not None:
            part._frozen = self._frozen.part(ind)
        return part

    def __sklearn_clone__(self) -> Self:
        new: Self = _clone_parametrized(self)
        if self._frozen is None:
            return new
        last = self.steps[-1][1]
        # The last step of a slice, such as pipe[:-1], is one more transformer that is kept.
        memo = {id(last): new.steps[-1][1]} if hasattr(last, "meta_fit") else {}
        new.steps = [(name, copy_estimator(step, memo)) for name, step in self.steps]
        kept = [(name, memo.get(id(step), step)) for name, step in self._frozen.steps]
        new._frozen = FrozenSteps(tuple(kept), self._frozen.given)
        return new

    def _html_repr(self) -> str:
        html = estimator_html_repr(self)
        status = "Meta-fitted" if self._is_meta_fitted() else "Not fitted"
        return html.replace("<span>Not fitted</span>", f"<span>{status}</span>", 1)

    def save(self, path: Any) -> None:
        """Write the pipeline to a file that holds no code.

        Parameters
        ----------
        path : str or path-like
            A safetensors file as an estimator's, with the transformers as skops writes them; read
            it with :func:`fewshot_sklearn.load`. Needs the extra ``save``.

        Raises
        ------
        ValueError
            When a transformer holds something that is code, such as a function of your own.
        """
        persistence.save(self, path)


def make_meta_pipeline(
    *steps: Any, memory: Any = None, transform_input: list[str] | None = None, verbose: bool = False
) -> MetaPipeline:
    """Make a :class:`MetaPipeline` of estimators, named by their types in lower case.

    Parameters
    ----------
    *steps : estimators
        Transformers, then a few-shot estimator.
    memory : str or joblib.Memory, default=None
        Caches the transformers that ``meta_fit`` fits.
    transform_input : list of str, default=None
        As in scikit-learn.
    verbose : bool, default=False
        Whether to print the time that each transformer takes to fit.

    Returns
    -------
    pipeline : MetaPipeline

    See Also
    --------
    MetaPipeline : With names of your own.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from fewshot_sklearn import ProtoNetClassifier, make_meta_pipeline
    >>> pipe = make_meta_pipeline(StandardScaler(), ProtoNetClassifier())
    >>> list(pipe.named_steps)
    ['standardscaler', 'protonetclassifier']
    """
    named = make_pipeline(*steps).steps
    return MetaPipeline(named, memory=memory, transform_input=transform_input, verbose=verbose)
