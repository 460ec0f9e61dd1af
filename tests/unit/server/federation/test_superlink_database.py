"""SuperLink's database is made whole or not at all."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from moma_server.federation.engine.launcher import make_database

pytestmark = pytest.mark.filterwarnings(
    "ignore:No path_separator found:DeprecationWarning:alembic"
)

_KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from moma_server.federation.engine.launcher import make_database

@event.listens_for(Engine, "after_cursor_execute")
def kill(_connection, _cursor, statement, *_others):
    if statement.startswith("ALTER TABLE"):
        os.kill(os.getpid(), signal.SIGKILL)

make_database(Path(sys.argv[1]))
"""


def test_a_kill_in_the_middle_leaves_nothing_that_stops_the_next_start(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    command = [sys.executable, "-c", _KILLED_IN_THE_MIDDLE, str(path)]

    killed = subprocess.run(command, check=False, timeout=240)

    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    make_database(path)
    assert "node" in SqlObjectStore(str(path)).initialize()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not [each for each in tmp_path.iterdir() if each.is_dir()]


def test_a_database_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"another's")

    make_database(path)

    assert path.read_bytes() == b"another's"
