"""Files of weights are safetensors and nothing else: a pickle can run code."""

from pathlib import Path

from moma_core.errors import ConfigError

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
