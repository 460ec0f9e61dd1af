"""One tiny teacher for all federations of these tests, and one run that many read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.e2e.whole_run import WholeRun, whole_run
from tests.support.e2e.world import make_tiny_teacher


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "teacher"
    make_tiny_teacher(folder)
    return folder


@pytest.fixture(scope="session")
def watched_run(
    tmp_path_factory: pytest.TempPathFactory, teacher: Path
) -> Iterator[WholeRun]:
    with whole_run(tmp_path_factory.mktemp("whole"), teacher) as run:
        yield run
