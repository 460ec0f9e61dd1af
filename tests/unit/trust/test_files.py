import stat
from pathlib import Path

import pytest

from moma_core.trust.files import write_private


def test_a_private_file_is_its_owners_alone_even_where_it_was_open(
    tmp_path: Path,
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"old")
    path.chmod(0o644)

    write_private(path, b"new")

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    taken = tmp_path / "key.pem"
    taken.mkdir()  # a file cannot replace a folder

    with pytest.raises(OSError, match=r"key\.pem"):
        write_private(taken, b"new")

    assert list(tmp_path.iterdir()) == [taken]
