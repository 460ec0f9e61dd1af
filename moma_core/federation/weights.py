"""Weights as bytes, and the checks that anybody's weights must pass.

The form is safetensors: no code in it, names and shapes in front.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from moma_core.errors import CheckpointError, UpdateRejectedError
from moma_core.federation.task import Weights
from moma_core.runtime.canonical_json import canonical_json
from moma_core.runtime.files import write_private

_MOST_HEADER_BYTES = 1 << 20  # some thousand tensors; each becomes an object
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,200}")  # of a tensor, as errors quote it
_LARGEST_FLOAT = 1e9  # of a weight or a batch-norm statistic; its square is still one
_LARGEST_INTEGER = 1 << 40  # of a count of steps
# what safetensors raises for a file that it cannot read, or numpy has no type for
_UNREADABLE = (
    OSError,
    SafetensorError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
)
_DIGEST = "sha256"  # key of the header
_DTYPES = frozenset({"float16", "float32", "float64", "int32", "int64", "uint8"})


def weights_to_bytes(
    weights: Weights, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Returns `weights` as safetensors, with `metadata` in the header."""
    contiguous = {
        # ascontiguousarray would turn a scalar into a vector
        name: array if array.flags.c_contiguous else array.copy(order="C")
        for name, array in weights.items()
    }
    return save(contiguous, dict(metadata) if metadata else None)


def weights_from_bytes(content: bytes, *, max_bytes: int) -> dict[str, NDArray[Any]]:
    """Reads weights that came from another party.

    Raises:
        UpdateRejectedError: Larger than `max_bytes`, damaged, of too many tensors, or
            of a type that is neither a float nor an integer.
    """
    if len(content) > max_bytes:
        raise UpdateRejectedError(
            f"the weights have {len(content)} bytes, at most {max_bytes} are taken"
        )
    header_bytes = int.from_bytes(content[:8], "little")
    if len(content) >= header_bytes > _MOST_HEADER_BYTES:
        raise UpdateRejectedError(
            f"the weights name their tensors in {header_bytes} bytes, "
            f"{_MOST_HEADER_BYTES} are read"
        )
    try:
        weights = load(content)
    except _UNREADABLE as error:
        raise UpdateRejectedError("the weights are not whole safetensors") from error
    if not all(_NAME.fullmatch(name) for name in weights):
        raise UpdateRejectedError("a tensor of the weights has no proper name")
    check_weights(weights)
    return weights


def check_weights(weights: Weights, like: Weights | None = None) -> None:
    """Checks that every value can be one and, given `like`, that all fits it.

    A variance below zero, or a weight of 10^38, is finite, and is NaN one step later.

    Raises:
        UpdateRejectedError: It names the first tensor that does not fit.
    """
    if like is not None and weights.keys() != like.keys():
        odd = sorted(weights.keys() ^ like.keys())
        raise UpdateRejectedError(f"the update differs in {len(odd)} names: {odd[:3]}")
    for name, array in weights.items():
        if array.dtype.name not in _DTYPES:
            raise UpdateRejectedError(f"{name} has the type {array.dtype.name}")
        if like is not None and _form(array) != _form(like[name]):
            raise UpdateRejectedError(
                f"{name} is {_form(array)}, the global model has {_form(like[name])}"
            )
        _check_values(name, array)


def _check_values(name: str, array: NDArray[Any]) -> None:
    if not array.size:
        return
    low, high = array.min().item(), array.max().item()  # NaN if any value is
    is_float = array.dtype.kind == "f"
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UpdateRejectedError(f"{name} holds a value that is not finite")
    largest = _LARGEST_FLOAT if is_float else _LARGEST_INTEGER
    if high > largest or low < -largest:
        raise UpdateRejectedError(f"{name} holds a value beyond {largest:g}")
    if name.endswith("running_var") and low < 0:
        raise UpdateRejectedError(f"{name} holds a variance below zero")


def save_weights(
    path: Path, weights: Weights, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes `weights`, with `metadata` in the header, whole or not at all."""
    about = {key: text for key, text in (metadata or {}).items() if key != _DIGEST}
    about[_DIGEST] = _digest(weights, about)
    write_private(path, weights_to_bytes(weights, about))


class StoredWeights(Mapping[str, NDArray[Any]]):
    """Weights in one of our own files; each tensor is read when it is asked for.

    Args:
        path: File of safetensors.

    Raises:
        CheckpointError: The file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, "np")
            self._names: list[str] = list(self._file.keys())  # type: ignore[no-untyped-call]
            metadata = dict(self._file.metadata() or {})  # type: ignore[no-untyped-call]
        except _UNREADABLE as error:
            raise CheckpointError(f"{path} is missing or damaged") from error
        self._path = path
        _check_digest(path, self, metadata)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        try:
            tensor: NDArray[Any] = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        except _UNREADABLE as error:
            raise CheckpointError(f"{self._path} is damaged") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def form_of(weights: Weights) -> tuple[str, ...]:
    """Returns names, types and shapes of the tensors, alike for alike models."""
    return tuple(f"{name}:{_form(weights[name])}" for name in sorted(weights))


def load_with_metadata(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Returns the tensors of one of our own files, and the text in its header.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the handle is no mapping
            metadata = dict(file.metadata() or {})
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is missing or damaged") from error
    _check_digest(path, tensors, metadata)
    return tensors, metadata


def load_metadata(path: Path) -> dict[str, str]:
    """Returns the text in the header of one of our own files.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        with safe_open(path, "np") as file:
            found = dict(file.metadata() or {})
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is missing or damaged") from error
    found.pop(_DIGEST, None)  # it is of the tensors too, which are not read here
    return found


def _check_digest(path: Path, weights: Weights, metadata: dict[str, str]) -> None:
    """Takes the digest out of a file's metadata, and holds the rest against it."""
    digest = metadata.pop(_DIGEST, None)  # none in a file of the release before
    if digest is not None and digest != _digest(weights, metadata):
        raise CheckpointError(f"{path} is damaged: it is not what was written")


def _digest(weights: Weights, metadata: Mapping[str, str]) -> str:
    """Returns SHA-256 of tensors and metadata, hexadecimal; safetensors has none."""
    digest = hashlib.sha256(canonical_json(dict(metadata)))
    for name in sorted(weights):
        digest.update(f"\n{name}:{_form(weights[name])}\n".encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return digest.hexdigest()


def _form(array: NDArray[Any]) -> str:
    return f"{array.dtype.name}{list(array.shape)}"
