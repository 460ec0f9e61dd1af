"""Finding the pictures below a folder, and counting whatever else lies there."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from moma_core.data.inventory import Inventory, printable
from moma_core.errors import DataError
from moma_core.runtime.folders import SYSTEM_NAMES

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})

_LONGEST_SUFFIX = 12


def list_images(folder: Path, inventory: Inventory | None = None) -> Iterator[str]:
    """Yields the image files below a folder, sorted, relative, with forward slashes.

    A name that is no UTF-8 holds surrogates, as `os.fsdecode` makes them; it opens as
    it is, and `printable` makes it fit to be written.

    Args:
        folder: Where to look.
        inventory: Counts what is passed over; see `PictureListing`.

    Raises:
        DataError: A folder cannot be listed.
    """
    return PictureListing(folder, inventory or Inventory()).pictures()


class Level(NamedTuple):
    """What lies directly in one folder and is read, as sorted paths below the root."""

    pictures: list[str]
    folders: list[str]


class PictureListing:
    """A look at a folder that notes all that it passes over.

    Hidden things and those of operating systems are passed over, and files of other
    kinds. A link is read where it leads to something in the root; it is passed over
    where it leads out, nowhere, to a folder above itself, or stands in a linked folder
    and leads to a folder, so that every look ends.

    Args:
        root: No link out of it is read.
        inventory: Counts what is passed over.
    """

    def __init__(self, root: Path, inventory: Inventory) -> None:
        self._root = root
        self._real_root = root.resolve()
        self._inventory = inventory
        self._linked: set[str] = set()

    def level(self, below: str = "") -> Level:
        """Returns what lies directly in a folder below the root.

        Raises:
            DataError: The folder cannot be listed.
        """
        here = self._root / below
        try:
            with os.scandir(here) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"the folder {printable(str(here))} cannot be listed: "
                f"{error.strerror}; let this user read it, or take it out of the data"
            ) from error
        level = Level([], [])
        for entry in found:
            path = f"{below}/{entry.name}" if below else entry.name
            self._sort_in(entry, path, level)
        return level

    def pictures(self, below: str = "") -> Iterator[str]:
        """Yields the pictures in a folder and in all below it, sorted.

        Raises:
            DataError: A folder cannot be listed.
        """
        waiting = [below]
        while waiting:
            here = waiting.pop()
            level = self.level(here)
            if here != below and not (level.pictures or level.folders):
                self._inventory.note("stray_folder", here)
            yield from level.pictures
            waiting.extend(reversed(level.folders))

    def _sort_in(self, entry: os.DirEntry[str], path: str, level: Level) -> None:
        """Puts an entry where it belongs, or notes it."""
        if entry.name.startswith("."):
            self._inventory.note("hidden", path)
        elif entry.name.lower() in SYSTEM_NAMES:
            self._inventory.note("system", path)
        elif not self._leads_to_data(entry, path):
            self._inventory.note("link", path)
        elif entry.is_dir():
            level.folders.append(path)
        elif not entry.is_file():
            self._inventory.note("special", path)  # opening a pipe waits for ever
        elif (suffix := Path(entry.name).suffix.lower()) in IMAGE_SUFFIXES:
            level.pictures.append(path)
        else:
            is_kind = len(suffix) <= _LONGEST_SUFFIX and suffix[1:].isalnum()
            self._inventory.note("suffix", path, suffix if is_kind else "")

    def _leads_to_data(self, entry: os.DirEntry[str], path: str) -> bool:
        """Whether an entry is no link, or one that is read."""
        above = path.rpartition("/")[0]
        inside_a_link = above in self._linked
        if not entry.is_symlink():
            if inside_a_link and entry.is_dir():
                self._linked.add(path)
            return True
        target = Path(os.path.realpath(entry.path))  # takes links in a circle
        if not target.is_relative_to(self._real_root):
            return False
        if not target.is_dir():
            return target.is_file()
        here = (self._root / above).resolve()
        self._linked.add(path)
        return not (inside_a_link or here.is_relative_to(target))
