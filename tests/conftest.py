"""What all tests share: one thread, hypothesis without a clock, and common fixtures."""

import os

import pytest
import torch
from hypothesis import settings

from tests.support.federation.pki import Pki
from tests.support.machine.clock import Clock

# Two cores and torch's own threads fight each other.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")


@pytest.fixture(scope="module")
def pki() -> Pki:
    """A federation's authority, and what it signs."""
    return Pki()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until the test moves it."""
    return Clock()
