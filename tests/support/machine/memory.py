"""A limit on the memory of a program and its children, as a container has it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.e2e.programs import until

_ROOT = Path("/sys/fs/cgroup")
_GONE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """Processes that share a limit, by the kernel's own names of its files.

    Args:
        folder: Of the control group.
        limit_file: Takes bytes.
        no_limit: What it takes for none.
        peak_file: The most that was in use at once, in bytes.
        kills_file: Has a line `oom_kill N`.
    """

    folder: Path
    limit_file: str
    no_limit: str
    peak_file: str
    kills_file: str

    def take(self, pid: int) -> None:
        """Puts a process in; what it starts from now on is in as well."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def limit(self, most_bytes: int | None) -> None:
        """Sets the limit; None: there is none."""
        text = self.no_limit if most_bytes is None else str(most_bytes)
        until(lambda: self._takes(text), seconds=_GONE_SECONDS, what="the limit stands")

    def _takes(self, limit: str) -> bool:
        """Whether the kernel takes a limit, which is busy while more is in use."""
        try:
            (self.folder / self.limit_file).write_text(limit)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def peak_bytes(self) -> int:
        """Returns the most that all processes together had at once."""
        return int((self.folder / self.peak_file).read_text())

    def kills(self) -> int:
        """Returns how many processes the kernel has killed for their memory."""
        lines = (self.folder / self.kills_file).read_text().splitlines()
        counts = dict(line.split() for line in lines)
        return int(counts["oom_kill"])


_MOUNTS = {  # by the version of control groups
    "memory": ("memory.limit_in_bytes", "-1", "max_usage_in_bytes", "oom_control"),
    ".": ("memory.max", "max", "peak", "events"),
}


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Makes a group without a limit; skips the test where that is not allowed."""
    group = next(filter(None, map(_made, _MOUNTS)), None)
    if group is None:
        pytest.skip("no control group can be made here: a test of a limit on memory")
    left = group.folder / "cgroup.procs"
    try:
        yield group
    finally:
        until(lambda: not left.read_text(), seconds=_GONE_SECONDS, what="all end")
        group.folder.rmdir()


def _made(mount: str) -> MemoryGroup | None:
    limit_file, no_limit, peak, kills = _MOUNTS[mount]
    folder = _ROOT / mount / f"moma-{uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError:
        return None
    if not (folder / limit_file).exists():
        folder.rmdir()
        return None
    return MemoryGroup(
        folder, limit_file, no_limit, f"memory.{peak}", f"memory.{kills}"
    )
