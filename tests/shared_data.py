"""Where real histology data for tests lie, and what happens where they do not."""

import os
from pathlib import Path

import pytest

_PROJECT = Path(__file__).resolve().parent.parent


def shared_data(name: str) -> Path:
    """Returns a data set beside the project; skips the test where it is absent.

    `MOMA_SHARED_DATA` names another folder, and `MOMA_REQUIRE_ALL=1` makes the
    absence a failure.
    """
    default = _PROJECT.parent / "shared" / "data"
    path = Path(os.environ.get("MOMA_SHARED_DATA", default)) / name
    if not path.exists():
        reason = f"the shared data set {name} is not at {path}"
        if os.environ.get("MOMA_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
