"""Saving and loading without code: tensors as safetensors, everything else as JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from sklearn.exceptions import NotFittedError

from ._codec import Decoder, Encoder, all_subclasses, class_reference, find_class
from ._meta_state import MetaState, snapshot_parameters
from .utils.discovery import all_estimators

if TYPE_CHECKING:
    from .base import FewShotEstimator

__all__ = ["load", "save"]

_VERSION = 1
# The entry of a safetensors file's metadata that is ours.
_ENTRY = "fewshot_sklearn"
_META_MEMBERS = ("spec", "log", "targets", "parameters", "features", "n_epochs", "from_fit")
# What a file with another content than an Encoder's leads to.
_MISREAD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


def save(estimator: FewShotEstimator, path: str | os.PathLike[str]) -> None:
    """Write an estimator with what it learned to a safetensors file, all of it or nothing.

    Parameters
    ----------
    estimator : FewShotEstimator
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
        exchanged after meta_fit.
    ImportError
        When safetensors is not installed.
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
    safetensors = _import_safetensors()
    meta: MetaState | None = vars(estimator).get("_meta")
    if meta is None:
        raise NotFittedError(
            f"this {type(estimator).__name__} has learned nothing that could be saved; call "
            "meta_fit or fit first."
        )
    encoder = Encoder()
    parts = {
        "parameters": estimator.get_params(deep=False),
        "meta": _meta_parts(estimator, meta),
        "fitted": _fitted_parts(estimator, meta),
    }
    content = {
        "version": _VERSION,
        "class": class_reference(type(estimator)),
        **{name: encoder.encode(part, name) for name, part in parts.items()},
    }
    if len({id(backbone) for backbone in encoder.outside}) > 1:
        raise ValueError(
            "backbone was changed after meta_fit; call meta_fit again, or set it back, before "
            "saving."
        )
    content["sha256"] = _digest(content, encoder.tensors)
    text = json.dumps(content, allow_nan=False)
    _replace(Path(path), safetensors.save(encoder.tensors, {_ENTRY: text}))


def load(
    path: str | os.PathLike[str], *, backbone: Any = None, device: Any = None
) -> FewShotEstimator:
    """Read an estimator that :meth:`~fewshot_sklearn.base.FewShotEstimator.save` wrote.

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
    estimator : FewShotEstimator
        With the parameters, the meta state and the fitted task of the one that was saved: it
        predicts the same, and ``partial_meta_fit`` goes on from the same state.

    Raises
    ------
    ValueError
        When the file is damaged, of another version or none that ``save`` wrote; when it needs a
        class that is not imported, or a backbone that was not passed or does not fit; when
        ``device`` does not exist.
    ImportError
        When safetensors is not installed.
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
    tensors, content = _read(Path(path))
    with _reading(path):
        decoder = Decoder(tensors, backbone)
        cls: type[FewShotEstimator] = find_class(content["class"], _known_estimators())
        parts = {n: decoder.decode(content[n]) for n in ("parameters", "meta", "fitted")}
        estimator = _make(cls, parts["parameters"], backbone)
        meta_trained = _make(cls, parts["meta"]["parameters"], backbone)
    if device is not None:
        estimator.device = device
    place = _place(estimator, asked_for=device is not None)
    with _reading(path) if backbone is None else nullcontext():
        meta = _meta_state(meta_trained, parts["meta"], path).on(place)
        estimator._publish(meta)
    if parts["fitted"] is not None:
        with _reading(path):
            _restore_fit(estimator, meta, parts["fitted"], place, backbone)
    return estimator


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
    with torch.random.fork_rng(devices=[]):
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


# ---------------------------------------------------------------------- bytes


def _import_safetensors() -> Any:
    try:
        return import_module("safetensors.torch")
    except ImportError as error:
        raise ImportError(
            "saving and loading need the package safetensors; pip install 'fewshot-sklearn[save]'."
        ) from error


def _digest(content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a SHA-256 over the content and every tensor, by which damage is seen."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Write a file such that at any moment the old or the new one is there."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the content of a file that is whole and of this version."""
    safetensors = _import_safetensors()
    data = path.read_bytes()
    try:
        tensors: dict[str, torch.Tensor] = safetensors.load(data)
        n_header = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + n_header]).get("__metadata__", {})
    except (import_module("safetensors").SafetensorError, *_MISREAD) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}): it is damaged, cut off or something "
            "else; save the estimator again."
        ) from error
    if _ENTRY not in metadata:
        raise ValueError(
            f"{path} is a safetensors file that fewshot_sklearn did not write; load takes what an "
            "estimator's save method wrote."
        )
    with _reading(path):
        content: dict[str, Any] = json.loads(metadata[_ENTRY])
        version, digest = content["version"], content.pop("sha256", None)
    if version != _VERSION:
        raise ValueError(
            f"{path} has the format version {version!r}, but this fewshot_sklearn reads version "
            f"{_VERSION}; load it with the release that wrote it, or save it again."
        )
    if _digest(content, tensors) != digest:
        raise ValueError(
            f"{path} is damaged: its content does not match its checksum; save the estimator again."
        )
    return tensors, content


@contextmanager
def _reading(path: Any) -> Iterator[None]:
    """Turn whatever a wrong content leads to into a ValueError that names the file."""
    try:
        yield
    except _MISREAD as error:
        reason = str(error)
        if not isinstance(error, ValueError):
            reason = f"its content is not what save writes ({type(error).__name__}: {error})."
        raise ValueError(f"{path} cannot be loaded: {reason}") from error
