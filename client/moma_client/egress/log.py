"""The site's own record of what left and what was suppressed; it never leaves.

state_dir/egress.jsonl         what left: one line an item, for the site's officer
          egress.jsonl.kept    what was suppressed, and rounds that were refused
          egress.jsonl.1 ...   the lines before these, of either

Two files, because a coordinator can request what it is refused as often as it likes,
and would else roll the lines about what left out of their file.

Several processes of a site write at a time. A kill tears one line at most, and the
next one takes its place.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from pathlib import Path
from typing import Literal

from moma_core.errors import ConfigError
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import append_line, make_folder, older_part
from moma_core.runtime.json_lines import json_objects

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
            DiskError: It cannot be written; then nothing should leave.
        """
        entry = {
            "time": utc_now().isoformat(timespec="milliseconds"),
            "channel": channel,
            "outcome": outcome,
            "item": item,
            **details,
        }
        path = self._path if outcome == "sent" else _kept(self._path)
        make_folder(path.parent)
        append_line(
            path,
            json.dumps(entry).encode(),
            largest_bytes=self._largest_bytes,
            durable=False,
            allows_symlink=False,
        )


def log_path(state_dir: Path) -> Path:
    """Returns where a site records what left and what was suppressed."""
    return state_dir / "egress.jsonl"


def log_entries(path: Path) -> Iterator[dict[str, object]]:
    """Yields what was noted, oldest first; a torn line is passed over."""
    files = [_entries((older_part(each), each)) for each in (path, _kept(path))]
    yield from merge(*files, key=lambda entry: str(entry.get("time")))


def _entries(parts: Iterable[Path]) -> Iterator[dict[str, object]]:
    for part in parts:
        try:
            content = part.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(f"cannot read {part}: {error}") from error
        yield from json_objects(content)


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
