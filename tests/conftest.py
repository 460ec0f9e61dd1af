"""What all tests share: one thread, hypothesis without a clock, and common fixtures."""

import os
import sys
from pathlib import Path

# Two cores and torch's own threads fight each other; torch reads it when it is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from tests.support.federation.pki import Pki
from tests.support.machine.clock import Clock

# "too slow" is said of a busy machine, too.
_TIMELESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", _TIMELESS, derandomize=True)
# pytest --hypothesis-profile=long: other examples at each call, and many
settings.register_profile("long", _TIMELESS, max_examples=5000)
settings.load_profile("ci")

# Where workers share the tests out, the longest come first.
_FOLDERS = ("faults", "e2e", "integration", "contract", "golden", "fuzz", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what takes longest first, where workers share the tests out."""
    here = Path(__file__).parent
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda i: _FOLDERS.index(i.path.relative_to(here).parts[0]))


def pytest_configure() -> None:
    """Leaves the programs that tests start unmeasured: it would cost a third more.

    What they do is checked by tests; what is covered is told by the tests' own process.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


def pytest_sessionfinish() -> None:
    """Keeps what a worker measured: one that ends slowly is killed before it could."""
    if "PYTEST_XDIST_WORKER" in os.environ and "coverage" in sys.modules:
        from coverage import Coverage

        if (measured := Coverage.current()) is not None:
            measured.save()


@pytest.fixture(scope="module")
def pki() -> Pki:
    """A federation's authority, and what it signs."""
    return Pki()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until the test moves it."""
    return Clock()
