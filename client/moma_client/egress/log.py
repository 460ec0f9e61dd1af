"""The site's own record of what left and what was suppressed; it never leaves.

state_dir/egress.jsonl         what left: one line an item, for the site's officer
          egress.jsonl.kept    what was suppressed, and rounds that were refused
          egress.jsonl.1 ...   the lines before these, of either

Two files, because a coordinator can request what it is refused as often as it likes,
and would else roll the lines about what left out of their file.

Several processes of a site write at a time. A kill tears one line at most, and the
next one takes its place.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from heapq import merge
from pathlib import Path
from typing import IO, Literal

from moma_core.errors import ConfigError
from moma_core.runtime.files import cut_torn_line

Channel = Literal["coordinator", "teacher"]
Outcome = Literal["sent", "blocked", "refused"]

_HEAD = ("time", "channel", "outcome", "item")

LARGEST_LOG_BYTES = 8 * 2**20
"""Of each file of the record."""


class EgressLog:
    """Appends items to the record.

    Args:
        path: The file; its folder is made if it is missing.
        largest_bytes: Size of a file at which its lines become the older ones.
    """

    def __init__(self, path: Path, largest_bytes: int = LARGEST_LOG_BYTES) -> None:
        self._path, self._largest_bytes = path, largest_bytes

    def add(
        self, channel: Channel, outcome: Outcome, item: str, **details: object
    ) -> None:
        """Adds one line.

        Args:
            channel: The party that the item was for.
            outcome: Whether it left; a refusal leaves as a fixed sentence.
            item: What it is; may name what no other party may know.
            details: More of the item, for example `rule` or `bytes`.

        Raises:
            ConfigError: It cannot be written; then nothing should leave.
        """
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "channel": channel,
            "outcome": outcome,
            "item": item,
            **details,
        }
        line = json.dumps(entry).encode() + b"\n"
        try:
            path = self._path if outcome == "sent" else _kept(self._path)
            with self._opened(path, len(line)) as file:
                file.write(line)
        except OSError as error:
            raise ConfigError(f"cannot write {self._path}: {error}") from error

    def _opened(self, path: Path, more_bytes: int) -> IO[bytes]:
        """Returns a file, locked, and with room for a line."""
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
            file = os.fdopen(os.open(path, flags, 0o600), "ab")
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file.fileno()).st_size
            if _was_moved(file, path):
                file.close()  # by another process, while this one waited
                continue
            if not size or size + more_bytes <= self._largest_bytes:
                cut_torn_line(file.fileno())
                return file
            path.replace(_older(path))
            file.close()


def _was_moved(file: IO[bytes], path: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return True


def log_path(state_dir: Path) -> Path:
    """Returns where a site records what left and what was suppressed."""
    return state_dir / "egress.jsonl"


def log_entries(path: Path) -> Iterator[dict[str, object]]:
    """Yields all entries, oldest first; a torn line is passed over."""
    files = [_entries((_older(each), each)) for each in (path, _kept(path))]
    yield from merge(*files, key=lambda entry: str(entry.get("time")))


def _entries(parts: Iterable[Path]) -> Iterator[dict[str, object]]:
    for part in parts:
        try:
            lines = part.read_bytes().splitlines()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(f"cannot read {part}: {error}") from error
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry


def entry_line(entry: Mapping[str, object]) -> str:
    """Returns an entry as a person reads it."""
    head = [str(entry.get(name, "")) for name in _HEAD]
    rest = [
        f"{name} {value}"
        for name, value in entry.items()
        if name not in _HEAD and value not in (None, "", [])
    ]
    return "  ".join([*head, ", ".join(rest)]).rstrip()


def _kept(path: Path) -> Path:
    return path.with_name(f"{path.name}.kept")


def _older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")
