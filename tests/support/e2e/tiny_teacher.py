"""One tiny teacher for all federations of a session."""

import fcntl
import os
from pathlib import Path

import pytest

from tests.support.e2e.world import make_tiny_teacher


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher's folder, made by the first worker that needs it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "teacher"
    with (shared / "teacher.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make_tiny_teacher(folder)
    return folder
