"""What a zip archive of a model unpacks to, told before anything unpacks it."""

import zipfile
from pathlib import Path

from moma_core.errors import ConfigError

_SPARE_BYTES = 64 << 20  # torch packs code and names, and never values


def check_unpacked(path: Path) -> None:
    """Refuses an archive that fills the memory by unpacking.

    torch's own archives keep values as they are, so that one unpacks to about its size.

    Args:
        path: Any file; one that is no archive is let through.

    Raises:
        ConfigError: It cannot be read, or unpacks to far more than it has.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        size = path.stat().st_size
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if unpacked > size + _SPARE_BYTES:
        raise ConfigError(
            f"{path} has {size} bytes and unpacks to {unpacked}, which no file of a "
            f"model does: ask whoever made it for another"
        )
