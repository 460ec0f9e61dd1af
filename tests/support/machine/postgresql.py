"""A PostgreSQL of its own for a test: Debian's, on a Unix socket, gone afterwards."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest

_WAIT_SECONDS = 60


@dataclass(slots=True)
class DatabaseServer:
    """A server that runs, and can be killed.

    Args:
        folder: Of its socket, its log and its data.
        programs: Folder of its programs.
        owner: Whose processes it has; None: ours.
        is_killed: Whether it does not run, by our doing.
    """

    folder: Path
    programs: Path
    owner: int | None
    is_killed: bool = True

    @property
    def url(self) -> str:
        """SQLAlchemy's, of an empty database."""
        return f"postgresql+psycopg://moma@/postgres?host={self.folder}"

    def start(self) -> None:
        """Starts it, or starts it again, and waits until it serves."""
        options = f"-k {self.folder} -c listen_addresses="
        log = ["-l", self.folder / "log", "-w", "-t", _WAIT_SECONDS]
        _run([*self._control, "-o", options, *log, "start"], self.owner)
        self.is_killed = False

    def stop(self) -> None:
        """Ends it in good order, unless it is dead."""
        if not self.is_killed:
            _run([*self._control, "-m", "fast", "-w", "stop"], self.owner)

    def kill(self) -> None:
        """Takes all its processes away at once, as a power cut does."""
        main = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        processes = (main, *map(int, children))
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        deadline = time.monotonic() + _WAIT_SECONDS
        while any(Path(f"/proc/{process}").exists() for process in processes):
            assert time.monotonic() < deadline, "the killed server is still there"
            time.sleep(0.02)
        self.is_killed = True

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _control(self) -> list[object]:
        return [self.programs / "pg_ctl", "-D", self._data]


@contextmanager
def postgresql() -> Iterator[str]:
    """Yields the SQLAlchemy URL of an empty database."""
    with database_server() as server:
        yield server.url


@contextmanager
def database_server() -> Iterator[DatabaseServer]:
    """Yields a server that runs, with an empty database."""
    programs = _programs()
    folder = Path(mkdtemp(prefix="moma-pg-", dir="/tmp"))  # a socket's path is short
    server = DatabaseServer(folder, programs, _owner(folder))
    try:
        made = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "moma"]
        _run(made, server.owner)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    pytest.importorskip("psycopg", reason="needs psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        reason = "not installed here: PostgreSQL"
        if os.environ.get("MOMA_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found[-1].parent


def _owner(folder: Path) -> int | None:
    """Returns whose server it is: PostgreSQL refuses to be root's."""
    if os.getuid() != 0:
        return None
    owner = pwd.getpwnam("postgres").pw_uid
    os.chown(folder, owner, -1)
    return owner


def _run(command: list[object], owner: int | None) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        user=owner,
        cwd="/",  # its owner may not be allowed to look into ours
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=_WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
