"""What all tests share: one thread, hypothesis without a clock, and common fixtures."""

import os
from pathlib import Path

# Two cores and torch's own threads fight each other; torch reads it when it is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from tests.support.federation.pki import Pki
from tests.support.machine.clock import Clock

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")

# Where workers share the tests out, the longest come first.
_FOLDERS = ("e2e", "integration", "contract", "golden", "unit")
# What these read is made once for all of them.
_TOGETHER = {
    "e2e/test_whole_run.py": "watched run",
    "e2e/test_whole_run_metrics.py": "watched run",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a module together, for what they share is made once."""
    for item in items:
        name = _place(item).as_posix()
        item.add_marker(pytest.mark.xdist_group(_TOGETHER.get(name, name)))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _FOLDERS.index(_place(item).parts[0]))


def _place(item: pytest.Item) -> Path:
    return item.path.relative_to(Path(__file__).parent)


@pytest.fixture(scope="module")
def pki() -> Pki:
    """A federation's authority, and what it signs."""
    return Pki()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until the test moves it."""
    return Clock()
