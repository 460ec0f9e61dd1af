import logging
from pathlib import Path

import numpy as np
import pytest

from moma_core.data.sources.csv_manifest import open_csv_manifest
from moma_core.data.sources.fault_tolerant import TolerantSource
from moma_core.data.sources.image_files import FilePatches
from moma_core.errors import DataError
from tests.support.machine.pictures import noise, write_picture


def _source(folder: Path, broken: set[int]) -> FilePatches:
    """Eight training rows, labels in turn; row r shows noise of seed r."""
    lines = ["path,label,split"]
    for row in range(8):
        path = write_picture(folder / f"secret-{row}.png", seed=row)
        if row in broken:
            path.write_bytes(b"")
        lines.append(f"secret-{row}.png,{'ab'[row % 2]},train")
    (folder / "m.csv").write_text("\n".join(lines))
    return open_csv_manifest(folder / "m.csv")


def test_the_next_like_patch_stands_in(tmp_path: Path) -> None:
    source = TolerantSource(_source(tmp_path, {2, 4}), max_unreadable=2)

    patch = source.read(2)

    assert np.array_equal(patch.pixels, noise(6))
    assert patch.label == 0
    assert patch.is_stand_in
    assert not source.read(6).is_stand_in
    assert source.unreadable == 2


def test_the_search_goes_on_at_the_start(tmp_path: Path) -> None:
    source = TolerantSource(_source(tmp_path, {7}), max_unreadable=1)

    assert np.array_equal(source.read(7).pixels, noise(1))


def test_a_stand_in_does_not_depend_on_what_was_read_before(tmp_path: Path) -> None:
    fresh = TolerantSource(_source(tmp_path, {2, 4}), max_unreadable=9)
    used = TolerantSource(_source(tmp_path, {2, 4}), max_unreadable=9)
    used.read(4)

    assert np.array_equal(used.read(2).pixels, fresh.read(2).pixels)


def test_a_broken_row_counts_once(tmp_path: Path) -> None:
    source = TolerantSource(_source(tmp_path, {3}), max_unreadable=1)

    for _ in range(3):
        source.read(3)

    assert source.unreadable == 1


def test_too_many_broken_rows_stop_the_run(tmp_path: Path) -> None:
    source = TolerantSource(_source(tmp_path, {0, 1, 5}), max_unreadable=2)
    source.read(0)
    source.read(1)

    with pytest.raises(DataError, match="unreadable patches: 3, tolerated: 2"):
        source.read(5)


def test_a_row_without_a_like_one_stops_the_run(tmp_path: Path) -> None:
    source = TolerantSource(_source(tmp_path, {0, 2, 4, 6}), max_unreadable=9)

    with pytest.raises(DataError, match="no like patch can stand in"):
        source.read(0)


def test_counts_are_warned_of_and_names_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = TolerantSource(_source(tmp_path, {0}), max_unreadable=2)

    with caplog.at_level(logging.DEBUG):
        source.read(0)

    warned = [r.getMessage() for r in caplog.records if r.levelno > logging.DEBUG]
    (warning,) = warned
    assert warning.startswith("unreadable patches: 1, tolerated: 2; row 0: a file is")
    assert "secret" not in warning
    assert "secret-0" in caplog.text
