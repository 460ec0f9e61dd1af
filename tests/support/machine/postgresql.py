"""A PostgreSQL of its own for a test: Debian's, on a Unix socket, gone afterwards."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

_WAIT_SECONDS = 60


@contextmanager
def postgresql() -> Iterator[str]:
    """Yields the SQLAlchemy URL of an empty database."""
    programs = _programs()
    folder = Path(mkdtemp(prefix="moma-pg-", dir="/tmp"))  # a socket's path is short
    as_owner = _owner(folder)
    data = folder / "data"
    options = f"-k {folder} -c listen_addresses="
    log = ["-l", str(folder / "log"), "-w", "-t", str(_WAIT_SECONDS)]
    control = [programs / "pg_ctl", "-D", data]
    try:
        _run([programs / "initdb", "-D", data, "-A", "trust", "-U", "moma"], as_owner)
        _run([*control, "-o", options, *log, "start"], as_owner)
        try:
            yield f"postgresql+psycopg://moma@/postgres?host={folder}"
        finally:
            _run([*control, "-m", "fast", "-w", "stop"], as_owner)
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
