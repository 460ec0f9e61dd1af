"""One tiny teacher for all federations of these tests, and one run that many read."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.e2e.whole_run import WholeRun, whole_run
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


@pytest.fixture(scope="session")
def watched_run(
    tmp_path_factory: pytest.TempPathFactory, teacher: Path
) -> Iterator[WholeRun]:
    with whole_run(tmp_path_factory.mktemp("whole"), teacher) as run:
        yield run
