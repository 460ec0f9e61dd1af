"""What lies directly in a folder, without hidden things and those of a system."""

import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from moma_core.errors import DataError

SYSTEM_NAMES: Final = frozenset(
    {
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "@eadir",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    }
)
"""Written by operating systems, archivers and network storage, in any folder."""


class FolderEntries(NamedTuple):
    """What lies directly in a folder, sorted."""

    files: list[Path]
    folders: list[Path]


def entries_of(folder: Path) -> FolderEntries:
    """Returns what lies directly in a folder.

    Hidden things and those of operating systems are passed over, and so are pipes and
    links that lead to nothing that this user may look at.

    Raises:
        DataError: The folder cannot be listed.
    """
    entries = FolderEntries([], [])
    try:
        with os.scandir(folder) as found:
            for each in sorted(found, key=lambda entry: entry.name):
                if each.name.startswith(".") or each.name.lower() in SYSTEM_NAMES:
                    continue
                if _is_folder(each):
                    entries.folders.append(folder / each.name)
                elif _is_file(each):
                    entries.files.append(folder / each.name)
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be listed: {error.strerror}; let this user "
            f"read it, or take it out of the data"
        ) from error
    return entries


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or into a folder that is closed
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def is_special(path: Path) -> bool:
    """Whether a path is a pipe or a device, for which a reader waits without end.

    Raises:
        OSError: It cannot be looked at.
    """
    mode = path.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
