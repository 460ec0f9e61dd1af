"""A path for a Unix socket that nobody but this user can get to."""

import shutil
import tempfile
from pathlib import Path

from moma_core.errors import ConfigError

_LONGEST_PATH_BYTES = 107  # of a socket, on Linux; fewer elsewhere


def make_socket_path(name: str) -> Path:
    """Returns a path in a new folder that only this user can enter.

    The state folder would not do: its path may be too long for a socket, it may lie on
    a file system that has none, and replicas of a teacher share it, where a socket is
    one process's.

    Args:
        name: Of the socket.

    Raises:
        ConfigError: The folder for temporary files has too long a path.
    """
    path = Path(tempfile.mkdtemp(prefix="moma-")) / name
    if len(bytes(path)) > _LONGEST_PATH_BYTES:
        remove_socket_folder(path)
        raise ConfigError(
            f"{path} is too long for a socket; set TMPDIR to a shorter folder"
        )
    return path


def remove_socket_folder(path: Path) -> None:
    """Removes the folder that `make_socket_path` made."""
    shutil.rmtree(path.parent, ignore_errors=True)
