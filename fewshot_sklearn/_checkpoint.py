"""A file from which an interrupted meta-training goes on, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ._codec import Decoder, Encoder
from ._container import import_safetensors, read_file, reading, write_file
from ._training_run import TrainingRun
from .tasks import StreamTasks, TaskSet

if TYPE_CHECKING:
    from ._estimator import FewShotEstimator
    from ._meta_state import MetaState

_VERSION = 1
_ENTRY = "fewshot_sklearn.checkpoint"
# A write is followed by so many times its own duration without one.
_PAUSE = 20
_N_SAMPLED = 8
_FREE = {"device", "verbose", "warm_start"}

Tasks = TaskSet | StreamTasks


class Checkpoint:
    """Where a meta-training keeps its state, and the configuration that the state belongs to.

    Parameters
    ----------
    path : str or path-like
        The file; its folder must exist.
    configuration : dict of str
        What must be the same in the call that goes on.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    ImportError
        When safetensors is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], configuration: Mapping[str, str]) -> None:
        import_safetensors()
        self.path = Path(path)
        self.configuration = dict(configuration)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"checkpoint={str(path)!r} needs the folder {str(self.path.parent)!r}, which does "
                "not exist; make it first."
            )
        self._pause_ends = -np.inf

    def read(self) -> dict[str, Any] | None:
        """Return the state that was written last, or None when there is no file.

        Raises
        ------
        ValueError
            When the file is damaged, no checkpoint, or one of another configuration.
        """
        if not self.path.exists():
            return None
        cure = "delete it to start anew"
        tensors, content = read_file(self.path, entry=_ENTRY, version=_VERSION, cure=cure)
        with reading(self.path):
            written: dict[str, str] = dict(content["configuration"])
            state: dict[str, Any] = Decoder(tensors).decode(content["state"])
        names = [*self.configuration, *(written.keys() - self.configuration.keys())]
        for name in names:
            old, new = written.get(name, "absent"), self.configuration.get(name, "absent")
            if old != new:
                raise ValueError(
                    f"{self.path} is the checkpoint of another configuration: it was written with "
                    f"{name}={old}, now {name}={new}; set it back to go on, or delete the file to "
                    "start anew."
                )
        return state

    def offer(self, run: TrainingRun, others: Mapping[str, Any]) -> None:
        """Write the state of a run, unless that was done a moment ago.

        Parameters
        ----------
        run : TrainingRun
        others : dict
            What else belongs to the state.
        """
        begin = time.monotonic()
        last = run.finished or run.n_done == run.options.max_iter
        if begin < self._pause_ends and not last:
            return
        encoder = Encoder()
        state = encoder.encode({"run": run.state(), **others}, "state")
        content = {"version": _VERSION, "configuration": self.configuration, "state": state}
        write_file(self.path, content, encoder.tensors, entry=_ENTRY)
        end = time.monotonic()
        self._pause_ends = end + _PAUSE * (end - begin)


def describe_configuration(
    estimator: FewShotEstimator,
    tasks: Tasks,
    validation_tasks: Tasks | None,
    known: MetaState | None,
) -> dict[str, str]:
    """Return in words and checksums what a meta-training's result depends on.

    Parameters
    ----------
    estimator : FewShotEstimator
    tasks, validation_tasks : TaskSet, StreamTasks or None
        They enter by their kind, number, seed and a sample of their rows.
    known : MetaState or None
        What the training starts from.
    """
    start = {} if known is None else known.learner.state_dict()
    if known is None and isinstance(estimator.backbone, nn.Module):
        start = estimator.backbone.state_dict()
    return {
        "estimator": type(estimator).__name__,
        **describe_parameters(estimator),
        "tasks": _describe_tasks(tasks),
        "validation_tasks": "None"
        if validation_tasks is None
        else _describe_tasks(validation_tasks),
        "starting weights": _checksum(start.values()) if start else "new",
    }


def describe_parameters(estimator: FewShotEstimator) -> dict[str, str]:
    """Return in words the parameters that the result of meta-training depends on."""
    parameters = estimator._parameters().items()
    return {name: _describe(value) for name, value in parameters if name not in _FREE}


def _describe(value: Any) -> str:
    if isinstance(value, (np.random.RandomState, np.random.Generator)):
        return type(value).__name__  # its seed is in the state
    if callable(value) and not isinstance(value, nn.Module):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return repr(value)


def _describe_tasks(tasks: Tasks | None) -> str:
    """Return the kind, the number, the seed and a checksum over some of the tasks."""
    if tasks is None:
        return "None"
    if isinstance(tasks, StreamTasks):
        return f"{type(tasks).__name__}({_checksum(tasks.head(1)[0])})"
    positions = np.unique(np.linspace(0, len(tasks) - 1, _N_SAMPLED).astype(int))
    sample = [part for i in positions.tolist() for part in tasks.task(i)]
    return f"{tasks!r}, random_state={tasks.random_state}, checksum {_checksum(sample)}"


def _checksum(arrays: Any) -> str:
    """Return a few digits of a SHA-256 over the values of arrays of any kind."""
    sha = hashlib.sha256()
    for array in arrays:
        if hasattr(array, "toarray"):
            array = array.toarray()
        values = array.cpu().numpy() if torch.is_tensor(array) else np.asarray(array)
        sha.update(f"{values.shape}".encode())
        if values.dtype.kind in "OUSTmM":
            sha.update(json.dumps(values.ravel().tolist(), default=str).encode())
        else:
            sha.update(np.ascontiguousarray(values).tobytes())
    return sha.hexdigest()[:12]
