"""What a site sends to update its session model, and what such bytes must be.

The form is safetensors: no code in it, names and shapes in front.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from moma_core.errors import MalformedRequestError, OversizedError, printable_line
from moma_core.models.ema import MomentumTerms

CHUNK_BYTES = 2**20
_HEADER_BYTES_PER_TENSOR = 512  # its name, type, shape and place, generously
_SHOWN_NAMES = 3
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A momentum session that a site opens.

    Args:
        architecture: The student's.
        terms: How the session model is to be updated.
    """

    architecture: str
    terms: MomentumTerms


@dataclass(frozen=True, slots=True)
class SyncHead:
    """What a site says of an update before it sends it.

    Args:
        session: Whose model is to be updated.
        steps: Made since the teacher's own weights.
        total_bytes: Of the safetensors file.
        digest: Its SHA-256.
    """

    session: bytes
    steps: int
    total_bytes: int
    digest: bytes


class IncomingUpdate:
    """Puts an update together from its chunks, within the bounds of its head.

    Args:
        head: What was declared.
        like: The tensors that the session model has, by name.

    Raises:
        OversizedError: The head declares more than such tensors take.
    """

    def __init__(self, head: SyncHead, like: Mapping[str, Tensor]) -> None:
        most = largest_update_bytes(like)
        if head.total_bytes > most:
            raise OversizedError(
                f"the update has {head.total_bytes} bytes, the model at most {most}"
            )
        self._head, self._like = head, like
        self._content = bytearray()
        self._hasher = hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """Takes the next chunk in.

        Raises:
            OversizedError: It is too large, or more than was declared.
            MalformedRequestError: It is empty.
        """
        if len(chunk) > CHUNK_BYTES:
            raise OversizedError(
                f"a chunk has at most {CHUNK_BYTES} bytes, got {len(chunk)}"
            )
        if not chunk:
            raise MalformedRequestError("a chunk of an update is empty")
        declared = self._head.total_bytes
        if len(self._content) + len(chunk) > declared:
            raise OversizedError(f"more came than the {declared} bytes declared")
        self._content += chunk
        self._hasher.update(chunk)

    def weights(self) -> dict[str, Tensor]:
        """Returns the tensors, once all of the update is there; keeps nothing of it.

        Raises:
            MalformedRequestError: It is cut short, was changed on its way, or does
                not fit the model; the message names what.
        """
        came, declared = len(self._content), self._head.total_bytes
        if came != declared:
            raise MalformedRequestError(
                f"the update ended after {came} of {declared} bytes"
            )
        digest = self._hasher.hexdigest()
        if digest != self._head.digest.hex():
            raise MalformedRequestError(
                f"the update's digest is {digest[:12]}, "
                f"declared was {self._head.digest.hex()[:12]}"
            )
        content, self._content = self._content, bytearray()
        weights = _read(content)
        _check(weights, self._like)
        return weights


def weights_to_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """Returns tensors as a safetensors file."""
    return save({name: t.detach().cpu().contiguous() for name, t in weights.items()})


def largest_update_bytes(like: Mapping[str, Tensor]) -> int:
    """Returns how large a safetensors file of such tensors can be."""
    header = (len(like) + 1) * _HEADER_BYTES_PER_TENSOR
    return header + sum(tensor.nbytes for tensor in like.values())


def _read(content: bytearray) -> dict[str, Tensor]:
    """Returns the tensors of a file, and empties it."""
    whole = bytes(content)
    content.clear()
    try:
        return load(whole)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise MalformedRequestError("the update is no whole safetensors") from error


def _check(weights: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    missing, unknown = like.keys() - weights.keys(), weights.keys() - like.keys()
    if missing or unknown:
        found = [("lacks", missing), ("holds the unknown", unknown)]
        faults = (f"{verb} {_shown(names)}" for verb, names in found if names)
        raise MalformedRequestError(f"the update {' and '.join(faults)}")
    for name, tensor in weights.items():
        if _form(tensor) != _form(like[name]):
            raise MalformedRequestError(
                f"{name} is {_form(tensor)}, the model has {_form(like[name])}"
            )
        if not tensor.isfinite().all():
            raise MalformedRequestError(f"{name} holds NaN or infinity")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _shown(names: Iterable[str]) -> str:
    """Returns the first names, fit for a message: a peer may have made them up."""
    ordered = sorted(names)
    names = (printable_line(name, _LONGEST_NAME) for name in ordered[:_SHOWN_NAMES])
    shown = ", ".join(names)
    rest = len(ordered) - _SHOWN_NAMES
    return f"{shown} and {rest} more" if rest > 0 else shown
