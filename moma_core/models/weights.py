"""Files of weights: safetensors and nothing else, because a pickle can run code."""

import hashlib
import logging
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moma_core.errors import ConfigError
from moma_core.models.encoder import Encoder
from moma_core.runtime.files import writing

_logger = logging.getLogger(__name__)

_PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"})
_LENGTH_BYTES = 8  # of the header, which is JSON


def check_safetensors(path: Path) -> None:
    """Refuses a file that is none, before anything reads it.

    Raises:
        ConfigError: It is missing, named like a pickle, or no safetensors file.
    """
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise ConfigError(
            f"weights {path} are named like a pickle, which can run code when it is "
            f"read: only safetensors are read"
        )
    try:
        with path.open("rb") as file:
            head = file.read(_LENGTH_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read weights {path}: {error}") from error
    if head[_LENGTH_BYTES:] != b"{":
        raise ConfigError(
            f"weights {path} are no safetensors file; a pickle is never read, it can "
            f"run code"
        )


def save_weights(encoder: Encoder, path: Path) -> str:
    """Writes the weights as safetensors and returns the file's SHA-256, hex.

    Raises:
        DiskError: The disk does not take them; an old file is as it was.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in encoder.state_dict().items()
    }
    with writing(path, "the weights", SafetensorError):
        save_file(tensors, path, metadata={"architecture": encoder.architecture})
    return file_digest(path)


def load_weights(encoder: Encoder, path: Path) -> None:
    """Reads weights that `save_weights` wrote.

    Raises:
        ConfigError: The file is missing, damaged, no safetensors, or of another model.
    """
    _load(encoder, _read(path), path)


def load_body(encoder: Encoder, path: Path) -> None:
    """Reads weights to go on from: a classifier of other classes starts anew.

    Raises:
        ConfigError: The file is missing, damaged, no safetensors, or of another model.
    """
    weights, own = _read(path), encoder.state_dict(keep_vars=True)
    of_classifier = {id(tensor) for tensor in encoder.classifier.parameters()}
    classifier = {name for name, one in own.items() if id(one) in of_classifier}
    others = {
        name
        for name in classifier
        if name not in weights or weights[name].shape != own[name].shape
    }
    if others:
        weights |= {name: own[name] for name in classifier}
        _logger.info("%s knows other classes: the classifier starts anew", path)
    _load(encoder, weights, path)


def _read(path: Path) -> dict[str, Tensor]:
    check_safetensors(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read weights {path}: {error}") from error


def _load(encoder: Encoder, weights: dict[str, Tensor], path: Path) -> None:
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        name = encoder.architecture
        raise ConfigError(f"weights {path} do not fit {name}: {error}") from error


def check_digest(path: Path, digest: str) -> None:
    """Checks that a card is of these weights.

    Args:
        path: The weights.
        digest: SHA-256, hex, as the card says.

    Raises:
        ConfigError: It is of others, or they cannot be read.
    """
    try:
        found = file_digest(path)
    except OSError as error:
        raise ConfigError(f"cannot read weights {path}: {error}") from error
    if found != digest:
        raise ConfigError(f"{path} has digest {found}, its card says {digest}")


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
