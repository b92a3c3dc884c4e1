"""A safetensors file with JSON in its header: written whole or not at all, and never executed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from .utils._optional import require

# What a file with another content than an Encoder's leads to.
_MISREAD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


def import_safetensors() -> Any:
    """Return safetensors, or say which extra has it."""
    return require("safetensors.torch", extra="save", purpose="saving or loading")


def write_file(
    path: str | os.PathLike[str],
    content: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    *,
    entry: str,
) -> None:
    """Write a file such that at any moment the old or the new one is there.

    Parameters
    ----------
    path : str or path-like
    content : dict
        What JSON can hold; ``content["version"]`` is the version of the format.
    tensors : dict of Tensor
        On the CPU.
    entry : str
        The name of the content in the file's header, which says what the file is.
    """
    safetensors = import_safetensors()
    marked = {**content, "sha256": digest(content, tensors)}
    text = json.dumps(marked, allow_nan=False)
    _replace(Path(path), safetensors.save(dict(tensors), {entry: text}))


def read_file(
    path: str | os.PathLike[str], *, entry: str, version: int, cure: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the content of a file that is whole and of this version.

    Parameters
    ----------
    path : str or path-like
    entry : str
        What :func:`write_file` was told.
    version : int
        The one that can be read.
    cure : str
        What to do about a file that is none, for errors.

    Raises
    ------
    ValueError
        When it is not such a file; the message names the path and the cure.
    OSError
        When it cannot be read.
    """
    path = Path(path)
    safetensors = import_safetensors()
    data = path.read_bytes()
    try:
        tensors: dict[str, torch.Tensor] = safetensors.load(data)
        n_header = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + n_header]).get("__metadata__", {})
    except (import_module("safetensors").SafetensorError, *_MISREAD) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}): it is damaged, cut off or something "
            f"else; {cure}."
        ) from error
    if entry not in metadata:
        raise ValueError(
            f"{path} is a safetensors file that fewshot_sklearn did not write for this; {cure}."
        )
    with reading(path):
        content: dict[str, Any] = json.loads(metadata[entry])
        found, checksum = content["version"], content.pop("sha256", None)
    if found != version:
        raise ValueError(
            f"{path} has the format version {found!r}, but this fewshot_sklearn reads version "
            f"{version}; use the release that wrote it, or {cure}."
        )
    if digest(content, tensors) != checksum:
        raise ValueError(f"{path} is damaged: its content does not match its checksum; {cure}.")
    return tensors, content


@contextmanager
def reading(path: Any) -> Iterator[None]:
    """Turn whatever a wrong content leads to into a ValueError that names the file."""
    try:
        yield
    except _MISREAD as error:
        reason = str(error)
        if not isinstance(error, ValueError):
            reason = f"its content is not what save writes ({type(error).__name__}: {error})."
        raise ValueError(f"{path} cannot be loaded: {reason}") from error


def digest(content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a SHA-256 over the content and every tensor, by which damage is seen."""
    sha = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Write bytes to another name first, then rename."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
