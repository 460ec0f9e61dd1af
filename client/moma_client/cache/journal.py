"""What was asked and is perhaps not kept yet.

A request is charged when it is asked, and a repetition is free if it is the same
patches again. So what is about to be asked is written down first, and a program that
was killed asks just that again.
"""

import fcntl
import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moma_core.errors import ConfigError


class RequestJournal:
    """Groups of places in the cache, one line each; one program writes at a time.

    Args:
        path: The file.

    Raises:
        ConfigError: It cannot be written, or another program writes it.
    """

    def __init__(self, path: Path) -> None:
        try:
            handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            self._file = os.fdopen(handle, "a+b")
            os.fchmod(handle, 0o600)  # it may have been there before
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ConfigError("another program fills this teacher cache") from None
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error}") from error
        self._file.seek(0)
        found = (_group_in(line) for line in self._file.read().splitlines())
        self._groups = dict.fromkeys(group for group in found if group is not None)

    def groups(self) -> list[NDArray[np.int64]]:
        """Returns what was asked, oldest first; a torn line was never asked."""
        return [np.array(group, np.int64) for group in self._groups]

    def add(self, group: NDArray[np.int64]) -> None:
        """Notes what is about to be asked, once; on return it survives a kill."""
        places = tuple(group.tolist())
        if places not in self._groups:
            self._write(places)

    def keep(self, groups: Iterable[NDArray[np.int64]]) -> None:
        """Forgets all but these: the rest is kept, or will not be answered."""
        chosen = {tuple(group.tolist()) for group in groups}
        kept = [places for places in self._groups if places in chosen]
        self._file.truncate(0)
        self._groups.clear()
        for places in kept:
            self._write(places)

    def close(self) -> None:
        """Closes the file, and lets another program have it."""
        self._file.close()

    def _write(self, places: tuple[int, ...]) -> None:
        text = json.dumps(places).encode()
        self._file.write(b"\n%08x %b\n" % (zlib.crc32(text), text))
        self._file.flush()
        os.fdatasync(self._file.fileno())
        self._groups[places] = None


def _group_in(line: bytes) -> tuple[int, ...] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    return tuple(json.loads(text))
