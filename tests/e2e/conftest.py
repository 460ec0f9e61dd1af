"""One tiny teacher for all federations of these tests."""

from pathlib import Path

import pytest

from tests.e2e.world import make_tiny_teacher


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "teacher"
    make_tiny_teacher(folder)
    return folder
