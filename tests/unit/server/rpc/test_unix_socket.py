"""Where a teacher takes relayed calls: one socket a process, for its user alone."""

import socket
import tempfile
from pathlib import Path

import pytest

from moma_core.errors import ConfigError
from moma_server.rpc.unix_socket import make_socket_path, remove_socket_folder


def test_each_process_has_a_socket_of_its_own_in_a_folder_for_its_user_alone() -> None:
    one, other = make_socket_path("a.sock"), make_socket_path("a.sock")

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(one))
        found = one.is_socket()
    modes = [path.parent.stat().st_mode & 0o777 for path in (one, other)]
    for path in (one, other):
        remove_socket_folder(path)

    assert found
    assert one != other
    assert modes == [0o700, 0o700]
    assert not one.parent.exists()


def test_a_path_that_is_too_long_for_a_socket_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    with pytest.raises(ConfigError, match="too long for a socket; set TMPDIR"):
        make_socket_path("a.sock")

    assert list(folder.iterdir()) == []
