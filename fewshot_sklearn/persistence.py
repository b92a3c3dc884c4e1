"""Saving and loading without code: tensors as safetensors, everything else as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline

from ._codec import Decoder, Encoder, all_subclasses, class_reference, find_class
from ._container import import_safetensors, read_file, reading, write_file
from ._generators import own_generators
from ._meta_state import MetaState, snapshot_parameters
from ._pipeline_file import pack_pipeline, unpack_pipeline
from .utils.discovery import all_estimators

if TYPE_CHECKING:
    from ._estimator import FewShotEstimator
    from .pipeline import MetaPipeline

__all__ = ["load", "save"]

_VERSION = 1
# The entry of a safetensors file's metadata that is ours.
_ENTRY = "fewshot_sklearn"
_META_MEMBERS = (
    "spec",
    "log",
    "targets",
    "parameters",
    "features",
    "n_epochs",
    "temperature",
    "from_fit",
)
_CURE = "pass a file that an estimator's save method wrote, or save the estimator again"


def save(estimator: FewShotEstimator | MetaPipeline, path: str | os.PathLike[str]) -> None:
    """Write an estimator with what it learned to a safetensors file, all of it or nothing.

    Parameters
    ----------
    estimator : FewShotEstimator or MetaPipeline
        Meta-fitted or fitted. Callbacks are not saved.
    path : str or path-like
        The file; it is replaced in one step when it exists.

    Raises
    ------
    NotFittedError
        When the estimator has learned nothing yet.
    ValueError
        When a parameter or a fitted attribute is something that a file without code cannot hold,
        such as a ``random_state`` that is a generator; or when a backbone that is code was
        exchanged after meta_fit; or when a pipeline was changed after meta_fit, or is the last
        step of another one.
    ImportError
        When safetensors, or for a pipeline skops, is not installed.
    OSError
        When the file cannot be written.

    See Also
    --------
    load : Read the file.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, ProtoNetClassifier
    >>> from fewshot_sklearn.persistence import save
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = ProtoNetClassifier(max_iter=2, random_state=0).meta_fit(tasks)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(clf, os.path.join(folder, "digits.fewshot"))
    ...     os.listdir(folder)
    ['digits.fewshot']
    """
    import_safetensors()
    last: Any = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    if isinstance(last, Pipeline):
        raise ValueError(
            "a pipeline inside a pipeline cannot be saved; make one pipeline of the steps of both."
        )
    meta: MetaState | None = vars(last).get("_meta")
    if meta is None:
        raise NotFittedError(
            f"this {type(last).__name__} has learned nothing that could be saved; call meta_fit or "
            "fit of a few-shot estimator first."
        )
    encoder = Encoder()
    parts = {
        "parameters": last.get_params(deep=False),
        "meta": _meta_parts(last, meta),
        "fitted": _fitted_parts(last, meta),
    }
    content = {
        "version": _VERSION,
        "class": class_reference(type(last)),
        **{name: encoder.encode(part, name) for name, part in parts.items()},
    }
    if isinstance(estimator, Pipeline):
        content["pipeline"] = pack_pipeline(estimator, encoder)
    if len({id(backbone) for backbone in encoder.outside}) > 1:
        raise ValueError(
            "backbone was changed after meta_fit; call meta_fit again, or set it back, before "
            "saving."
        )
    write_file(path, content, encoder.tensors, entry=_ENTRY)


def load(path: str | os.PathLike[str], *, backbone: Any = None, device: Any = None) -> Any:
    """Read an estimator or pipeline that its ``save`` method wrote.

    Nothing in the file is executed, unpickled or imported. The class of an estimator or backbone
    that is not this package's must be imported before.

    Parameters
    ----------
    path : str or path-like
        The file.
    backbone : BackboneSpec, nn.Module or callable, default=None
        Stands in place of the backbone in the file. Needed where that was an ``nn.Module`` or a
        function, which is code and so not in the file; its weights are, and replace those of what
        is passed.
    device : str or torch.device, default=None
        Stands in place of the parameter ``device``. Where the recorded device does not exist,
        what was learned is put on the CPU.

    Returns
    -------
    estimator : FewShotEstimator or MetaPipeline
        With the parameters, the meta state and the fitted task of the one that was saved: it
        predicts the same, and ``partial_meta_fit`` goes on from the same state.

    Raises
    ------
    ValueError
        When the file is damaged, of another version or none that ``save`` wrote; when it needs a
        class that is not imported, or a backbone that was not passed or does not fit; when
        ``device`` does not exist; when a pipeline's transformers hold a type that is not known to
        be harmless.
    ImportError
        When safetensors, or for a pipeline skops, is not installed.
    OSError
        When the file cannot be read.

    Examples
    --------
    >>> import os, tempfile
    >>> import fewshot_sklearn
    >>> from fewshot_sklearn import MLP, EpisodicTasks, ProtoNetClassifier
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=1, n_query=5, random_state=0)
    >>> clf = ProtoNetClassifier(backbone=MLP(norm="rms"), max_iter=2, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "digits.fewshot")
    ...     clf.meta_fit(tasks).fit(*tasks[0][:2]).save(path)
    ...     loaded = fewshot_sklearn.load(path)
    >>> loaded.backbone.norm, loaded.n_meta_iter_
    ('rms', 2)
    >>> bool((loaded.predict(X) == clf.predict(X)).all())
    True
    """
    tensors, content = read_file(path, entry=_ENTRY, version=_VERSION, cure=_CURE)
    with reading(path):
        decoder = Decoder(tensors, backbone)
        cls: type[FewShotEstimator] = find_class(content["class"], _known_estimators())
        parts = {n: decoder.decode(content[n]) for n in ("parameters", "meta", "fitted")}
        estimator = _make(cls, parts["parameters"], backbone)
        meta_trained = _make(cls, parts["meta"]["parameters"], backbone)
    if device is not None:
        estimator.device = device
    place = _place(estimator, asked_for=device is not None)
    with reading(path) if backbone is None else nullcontext():
        meta = _meta_state(meta_trained, parts["meta"], path).on(place)
        estimator._publish(meta)
    if parts["fitted"] is not None:
        with reading(path):
            _restore_fit(estimator, meta, parts["fitted"], place, backbone)
    if "pipeline" not in content:
        return estimator
    with reading(path):
        return unpack_pipeline(content["pipeline"], decoder, estimator)


# ---------------------------------------------------------------------- from estimator to parts


def _meta_parts(estimator: FewShotEstimator, meta: MetaState) -> dict[str, Any]:
    """Return what was meta-learned."""
    return {
        **{name: getattr(meta, name) for name in _META_MEMBERS},
        "parameters": _with_seed_of(estimator, meta.parameters),
        "learner": dict(meta.learner.state_dict()),
    }


def _with_seed_of(estimator: FewShotEstimator, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of earlier with the present seed: nothing depends on the earlier one."""
    return {**parameters, "random_state": estimator.random_state}


def _fitted_parts(estimator: FewShotEstimator, meta: MetaState) -> dict[str, Any] | None:
    """Return what belongs to the task that was last fitted; None when there is none."""
    if "_adapted" not in vars(estimator):
        return None
    _, state, decoder = estimator._adapted
    now = estimator.get_params(deep=False)
    shown = type(estimator)(**now)
    shown._publish(meta)
    own = {k: v for k, v in vars(estimator).items() if k.endswith("_") and k not in vars(shown)}
    parameters = _with_seed_of(estimator, vars(estimator).get("_fit_parameters", now))
    return {"parameters": parameters, "state": state, "decoder": decoder, "attributes": own}


# ---------------------------------------------------------------------- from parts to estimator


def _known_estimators() -> list[type]:
    """Return this package's estimators and all others that are imported."""
    all_estimators()
    # The module base imports this one, so it is looked up when it is needed.
    return all_subclasses(import_module(f"{__package__}.base").FewShotEstimator)


def _make(
    cls: type[FewShotEstimator], parameters: Mapping[str, Any], backbone: Any
) -> FewShotEstimator:
    """Return a new estimator with checked parameters."""
    own = {} if backbone is None else {"backbone": backbone}
    estimator = cls(**{**parameters, **own})
    estimator._validate_params()
    return estimator


def _place(estimator: FewShotEstimator, *, asked_for: bool) -> torch.device:
    """Return the estimator's device, or the CPU where that does not exist."""
    try:
        device = estimator._torch_device()
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, ValueError) as error:
        if asked_for:
            raise ValueError(
                f"device={estimator.device!r} does not exist on this machine; pass 'auto' or 'cpu'."
            ) from error
        return torch.device("cpu")
    return device


def _meta_state(estimator: FewShotEstimator, parts: dict[str, Any], path: Any) -> MetaState:
    """Return the meta state, its learner built anew from the parameters it was trained with."""
    with own_generators():
        learner = estimator._make_learner(parts["spec"])
    learner = learner.to(estimator._tensor_maker().dtype)
    try:
        learner.load_state_dict(parts["learner"])
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {path} do not fit the backbone; pass one that is built as the one "
            f"that was meta-trained. {error}"
        ) from error
    members = {name: parts[name] for name in _META_MEMBERS}
    members["parameters"] = snapshot_parameters(estimator.get_params(deep=False))
    return MetaState(learner=learner.requires_grad_(False).eval(), **members)


def _restore_fit(
    estimator: FewShotEstimator,
    meta: MetaState,
    parts: dict[str, Any],
    place: torch.device,
    backbone: Any,
) -> None:
    """Give an estimator the task that it was fitted to."""
    fitted = _make(type(estimator), parts["parameters"], backbone)
    parameters = snapshot_parameters(fitted.get_params(deep=False))
    fitted.device = place
    state = {name: tensor.to(place) for name, tensor in parts["state"].items()}
    estimator._adapted = (fitted._current_learner(meta), state, parts["decoder"])
    estimator.__dict__.update(parts["attributes"], _fit_parameters=parameters)
