import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

Vectors = dict[str, Tensor]


@pytest.fixture
def golden() -> Callable[[str], Vectors]:
    """Reads one file of vectors; other vectors of the same layout may be named."""
    own = Path(__file__).parent / "data"
    folder = Path(os.environ.get("MOMA_GOLDEN_DIR", own))

    def read(name: str) -> Vectors:
        with np.load(folder / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    return read
