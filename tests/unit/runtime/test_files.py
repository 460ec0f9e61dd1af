import fcntl
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moma_core.errors import ConfigError, DiskError
from moma_core.runtime import files
from moma_core.runtime.files import (
    append_json,
    append_line,
    locked,
    make_empty_folder,
    older_part,
    write_private,
)


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

    with pytest.raises(DiskError, match=r"key\.pem"):
        write_private(taken, b"new")

    assert list(tmp_path.iterdir()) == [taken]


@pytest.mark.parametrize("torn", [b"", b"t", b"torn" * 20])
@pytest.mark.parametrize("before", [b"", b"one\n", b"one\ntwo\n"])
def test_a_line_that_a_crash_tore_makes_room_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes, torn: bytes
) -> None:
    monkeypatch.setattr(files, "_BLOCK_BYTES", 16)
    path = tmp_path / "record.jsonl"
    path.write_bytes(before + torn)

    append_line(path, b"next")
    append_line(path, b"last")

    assert path.read_bytes() == before + b"next\nlast\n"


def test_lines_of_many_writers_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    lines = [b"%03d" % number + b"x" * 20_000 for number in range(60)]

    with ThreadPoolExecutor(6) as writers:
        list(writers.map(lambda line: append_line(path, line), lines))

    assert sorted(path.read_bytes().splitlines()) == lines
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_bounded_record_begins_anew_and_keeps_the_part_before(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    for number in range(5):
        append_json(path, {"number": number}, largest_bytes=30)

    assert path.read_text() == '{"number": 4}\n'
    assert older_part(path).read_text() == '{"number": 2}\n{"number": 3}\n'


def test_a_record_that_must_be_no_link_is_none(tmp_path: Path) -> None:
    path, other = tmp_path / "record.jsonl", tmp_path / "other"
    path.symlink_to(other)

    with pytest.raises(DiskError, match=r"record\.jsonl"):
        append_line(path, b"next", allows_symlink=False)

    assert not other.exists()


def test_a_record_may_lie_elsewhere(tmp_path: Path) -> None:
    path, other = tmp_path / "record.jsonl", tmp_path / "other"
    path.symlink_to(other)

    append_line(path, b"next")

    assert other.read_bytes() == b"next\n"


def test_a_folder_for_results_holds_nothing_yet(tmp_path: Path) -> None:
    make_empty_folder(tmp_path / "new" / "out")
    (tmp_path / "new" / "out" / "card.json").touch()

    with pytest.raises(ConfigError, match="is not empty"):
        make_empty_folder(tmp_path / "new" / "out")


def test_what_is_locked_others_on_the_machine_cannot_open(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with locked(tmp_path):
        (lock,) = tmp_path.iterdir()

        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
        with lock.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
