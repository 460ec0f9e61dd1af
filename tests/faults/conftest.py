"""How many faults, and in which order."""

import pytest

from tests.support.e2e.tiny_teacher import teacher

__all__ = ["teacher"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what a suite of faults takes on its command line."""
    parser.addoption("--seed", type=int, default=1, help="names the order of faults")
    parser.addoption("--count", type=int, default=25, help="faults for each mode")


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    """Of the faults."""
    return int(pytestconfig.getoption("--seed"))


@pytest.fixture
def count(pytestconfig: pytest.Config) -> int:
    """Faults in one mode."""
    return int(pytestconfig.getoption("--count"))
