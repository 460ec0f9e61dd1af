"""What a zip archive of a model unpacks to, told before anything unpacks it."""

import zipfile
from pathlib import Path

from moma_core.errors import ConfigError, first_line
from moma_core.runtime.array_faults import ARRAY_FAULTS

_SPARE_BYTES = 64 << 20  # torch packs code and names, and never values


def check_unpacked(path: Path) -> None:
    """Refuses an archive that fills the memory by unpacking.

    torch's own archives keep values as they are, so that one unpacks to about its size.

    Args:
        path: Any file; one that is no archive is let through.

    Raises:
        ConfigError: It cannot be read, or unpacks to far more than it has.
    """
    entries = archive_entries(path)
    unpacked = sum(entry.file_size for entry in entries)
    size = path.stat().st_size if entries else 0
    if unpacked > size + _SPARE_BYTES:
        raise ConfigError(
            f"{path} has {size} bytes and unpacks to {unpacked}, which no file of a "
            f"model does: ask whoever made it for another"
        )


def archive_entries(path: Path) -> list[zipfile.ZipInfo]:
    """Returns what an archive lists; nothing where the file is none.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        if not zipfile.is_zipfile(path):
            return []
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except ARRAY_FAULTS as error:
        raise ConfigError(
            f"cannot read {path}: it is damaged ({first_line(error)}); fetch it again"
        ) from None
