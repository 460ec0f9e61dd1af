"""What all tests share: one thread, and a hypothesis profile without a clock."""

import os

import torch
from hypothesis import settings

# Two cores and torch's own threads fight each other.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")
