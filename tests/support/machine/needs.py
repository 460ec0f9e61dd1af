"""What a test needs of its machine, and what happens where that is absent.

The test is skipped, with the reason. `MOMA_REQUIRE_ALL=1`, which CI sets after it has
installed the programs, makes it fail instead: a check that is skipped for ever is none.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

_PROJECT = Path(__file__).resolve().parents[3]
_SHARED_DATA = "MOMA_SHARED_DATA"


def needs_program(*names: str, required: bool = True) -> tuple[Path, ...]:
    """Returns where the programs lie, in the order of their names.

    Args:
        names: Of the programs.
        required: Whether CI installs them.
    """
    found = {name: shutil.which(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        _absent(f"not installed here: {', '.join(missing)}", required=required)
    return tuple(Path(path) for path in found.values() if path is not None)


def needs_made(name: str, how: str, *, required: bool = True) -> Path:
    """Returns what `make` puts below build/.

    Args:
        name: Its path there.
        how: The line that makes it.
        required: Whether CI makes it.
    """
    path = _PROJECT / "build" / name
    if not path.exists():
        _absent(f"build/{name} is not there: {how}", required=required)
    return path


def shared_data(name: str) -> Path:
    """Returns a set of real histology data that lies beside the project.

    `MOMA_SHARED_DATA` names another folder. CI cannot install such data: it is
    required only of a machine that has the folder, or says that it has.
    """
    folder = Path(
        os.environ.get(_SHARED_DATA, _PROJECT.parent.joinpath("shared", "data"))
    )
    path = folder / name
    if not path.exists():
        _absent(
            f"the shared data set {name} is not at {path}",
            required=folder.is_dir() or _SHARED_DATA in os.environ,
        )
    return path


def _absent(reason: str, *, required: bool) -> NoReturn:
    if required and os.environ.get("MOMA_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
