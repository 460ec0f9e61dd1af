"""Checks an exported log with nothing but its operator's public key.

The rules, for each log of the file, line by line:

1. Every entry is written in the one way, stands at the place that it names, names the
   hash of the entry before it, and is not older.
2. Every checkpoint is signed by the key that the log names at that point, and its root
   is that of all entries before it; so is the last line's, which ends a log.
3. Another key is introduced by the one before it; changes of policy are signed.
4. A log after the first begins with the last checkpoint of the one before it, which
   named it in its last entry; the last log of all is open.
5. The pinned key is one of those that signed.
6. A checkpoint that somebody was shown is in the log. Without one, a log that was cut
   back to an earlier signed state cannot be told from one that never grew.

Memory does not grow with the log.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO

from moma_core.audit.checkpoint import ORIGIN_PATTERN, Checkpoint
from moma_core.audit.entry import LARGEST_ENTRY_BYTES, QueryEntry, decode
from moma_core.audit.export import FORMAT
from moma_core.audit.replay import LogReplay
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import AuditError
from moma_core.runtime.json_lines import json_object

_LONGEST_LINE = 4 * LARGEST_ENTRY_BYTES
_SHOWN_KEYS = 3


@dataclass(slots=True)
class SiteSum:
    """What the log says of one site.

    Args:
        queries: Number by outcome.
        denied: Number of denied queries by reason.
        charged: Number of patches.
    """

    queries: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    charged: int = 0


@dataclass(slots=True)
class Verified:
    """What was found to be true.

    Args:
        entries: Number of entries of all logs.
        logs: Names of the logs.
        checkpoint: The last checkpoint.
        sites: What the entries add up to.
    """

    entries: int = 0
    logs: list[str] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    sites: dict[str, SiteSum] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns it for a script."""
        end = self.checkpoint
        return {
            "entries": self.entries,
            "logs": self.logs,
            "checkpoint": None if end is None else end.model_dump(),
            "sites": {
                site: {
                    "queries": dict(found.queries),
                    "denied": dict(found.denied),
                    "charged_patches": found.charged,
                }
                for site, found in sorted(self.sites.items())
            },
        }


def verify_export(
    lines: Iterable[bytes], key: VerifyingKey, known: Iterable[Checkpoint] = ()
) -> Verified:
    """Reads an export to its end.

    Args:
        lines: As `export_lines` gives them.
        key: The log operator's, pinned.
        known: Checkpoints that parties were shown.

    Raises:
        AuditError: A rule is broken; the message names the first entry that is not
            as it was when the log was signed, or the two between which it lies.
    """
    verification = _Verification(known)
    for line in lines:
        verification.take(line)
    return verification.end(key)


class _Verification:
    """The verification of an export up to a line."""

    def __init__(self, known: Iterable[Checkpoint]) -> None:
        self._found = Verified()
        self._replay: LogReplay | None = None
        self._keys: set[str] = set()
        self._wanted = defaultdict[tuple[str, int], list[Checkpoint]](list)
        for each in known:
            self._wanted[each.origin, each.size].append(each)

    def take(self, line: bytes) -> None:
        if line.startswith(b'{"format":'):
            before = self._replay
            self._replay = _next_replay(before, _origin(line))
            self._found.logs.append(self._replay.origin)
        elif self._replay is None:
            raise AuditError("the file does not begin with the name of a log")
        elif line.startswith(b'{"checkpoint":'):
            self._replay.check(_checkpoint(line, self._replay.size))
        else:
            self._replay_entry(line, self._replay)

    def end(self, key: VerifyingKey) -> Verified:
        if self._replay is None:
            raise AuditError("the file holds no log")
        self._found.checkpoint = self._replay.end()
        if self._replay.next_log:
            raise AuditError(
                f"{self._replay.origin} goes on in {self._replay.next_log}, which "
                "is not in the file"
            )
        for missed in chain.from_iterable(self._wanted.values()):
            self._miss(missed, self._found.checkpoint)
        if str(key) not in self._keys:
            signers = ", ".join(sorted(self._keys)[:_SHOWN_KEYS])
            raise AuditError(f"the log was never signed by {key}, only by {signers}")
        return self._found

    def _replay_entry(self, line: bytes, log: LogReplay) -> None:
        placed = log.replay(line, decode)
        self._found.entries += 1
        if isinstance(placed.entry, QueryEntry):
            _add_up(self._found, placed.entry)
        self._keys.add(log.key)
        for shown in self._wanted.pop((log.origin, log.size), ()):
            log.check_known(shown)

    def _miss(self, missed: Checkpoint, end: Checkpoint) -> None:
        """Says what is missing, if it was really signed."""
        if missed.key in self._keys:
            missed.check(VerifyingKey.parse(missed.key))
        raise AuditError(
            f"{missed.origin} had {missed.size} entries when {missed.key} signed it "
            f"for others; here its end is at {end.size} of {end.origin}"
        )


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Yields the lines of an export.

    Raises:
        AuditError: It ends in the middle of one, or one is too long.
    """
    while line := file.readline(_LONGEST_LINE):
        if not line.endswith(b"\n"):
            raise AuditError("the file ends in the middle of a line, or has a long one")
        yield line[:-1]


def _next_replay(before: LogReplay | None, origin: str) -> LogReplay:
    if before is None:
        return LogReplay(origin, None)
    end = before.end()
    if before.next_log != origin:
        goes_on = before.next_log or "nowhere: it is not closed"
        raise AuditError(
            f"{origin} stands behind {before.origin}, which goes on in {goes_on}"
        )
    return LogReplay(origin, end)


def _origin(line: bytes) -> str:
    fields = _json(line)
    origin = fields.get("origin")
    is_name = isinstance(origin, str) and re.fullmatch(ORIGIN_PATTERN, origin)
    if fields.get("format") != FORMAT or not is_name:
        raise AuditError(f"the file is no export of the form {FORMAT}")
    return str(origin)


def _checkpoint(line: bytes, size: int) -> Checkpoint:
    content = _json(line).get("checkpoint")
    try:
        return Checkpoint.model_validate(content)
    except ValueError:
        raise AuditError(f"the checkpoint after {size} entries is damaged") from None


def _json(line: bytes) -> dict[str, Any]:
    fields = json_object(line)
    if fields is None:
        raise AuditError("a line of the file is not readable")
    return fields


def _add_up(found: Verified, entry: QueryEntry) -> None:
    site = found.sites.get(entry.site)
    if site is None:
        site = found.sites[entry.site] = SiteSum()
    site.queries[entry.outcome] += entry.queries
    site.charged += entry.charged
    if entry.reason:
        site.denied[entry.reason] += entry.queries
