"""SIGKILL in the middle of a write leaves no private key behind."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moma_core.runtime.files import write_private
from tests.support.machine.writer import SECRET

_PROJECT = Path(__file__).resolve().parents[3]


@contextmanager
def stopped_writer(path: Path, how: str) -> Iterator["subprocess.Popen[str]"]:
    """Yields a program that has written the content and not yet the name."""
    command = [sys.executable, "-m", "tests.support.machine.writer", str(path), how]
    with subprocess.Popen(
        command, cwd=_PROJECT, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        yield writer
        writer.kill()


def holds_secret(folder: Path) -> bool:
    return any(SECRET in path.read_bytes() for path in folder.iterdir())


def test_a_kill_inside_a_private_write_leaves_nothing(tmp_path: Path) -> None:
    with stopped_writer(tmp_path / "ca.key", "whole") as writer:
        writer.kill()
        writer.wait()

        assert list(tmp_path.iterdir()) == []


def test_a_draft_that_a_kill_left_goes_with_the_next_write(tmp_path: Path) -> None:
    with stopped_writer(tmp_path / "ca.key", "named") as writer:
        writer.kill()
        writer.wait()
    was_left = holds_secret(tmp_path)

    write_private(tmp_path / "ca.key", b"another")

    assert was_left
    assert list(tmp_path.iterdir()) == [tmp_path / "ca.key"]


def test_the_draft_of_a_writer_that_lives_is_left_alone(tmp_path: Path) -> None:
    with stopped_writer(tmp_path / "ca.key", "named"):
        write_private(tmp_path / "ca.key", b"another")

        assert holds_secret(tmp_path)


@pytest.mark.parametrize("name", [".ca.key.backup", ".ca.key.abcdefghi", "ca.key.bak"])
def test_no_other_file_is_taken_for_a_draft(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")

    write_private(tmp_path / "ca.key", b"key")

    assert (tmp_path / name).read_text() == "mine"
