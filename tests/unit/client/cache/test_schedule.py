from pathlib import Path

import numpy as np
import pytest

from moma_client.cache.schedule import ViewSchedule
from moma_core.data.view_mask import ViewMask
from moma_core.errors import DataError, TeacherUnavailableError

ROWS = np.arange(3)


def _table(*masks: int) -> ViewMask:
    return ViewMask(np.array(masks, np.uint64))


def test_a_resumed_round_keeps_its_views_though_more_are_there(tmp_path: Path) -> None:
    tables = ViewSchedule(tmp_path)
    tables.settle(1, _table(0b1, 0b1, 0))

    again = tables.settle(1, _table(0b11, 0b1, 0b1))
    later = tables.settle(2, _table(0b11, 0b1, 0b1))

    assert again.masks.tolist() == [0b1, 0b1, 0]
    assert later.masks.tolist() == [0b11, 0b1, 0]  # a run keeps its patches
    assert again.row_digest() == later.row_digest()


def test_a_round_without_a_table_has_the_one_before_it(tmp_path: Path) -> None:
    tables = ViewSchedule(tmp_path)
    tables.settle(2, _table(0b1, 0b1, 0b1))
    tables.settle(10, _table(0b11, 0b1, 0b1))

    found = [tables.of_round(number) for number in (1, 2, 9, 10, 11)]

    assert found[0] is None
    assert [t.masks.tolist()[0] for t in found[1:] if t] == [0b1, 0b1, 0b11, 0b11]


def test_a_patch_that_lost_all_its_views_stops_the_round(tmp_path: Path) -> None:
    tables = ViewSchedule(tmp_path)
    tables.settle(1, _table(0b1, 0b11, 0))

    with pytest.raises(TeacherUnavailableError, match="every view of 1 patches"):
        tables.settle(1, _table(0b10, 0b10, 0))


def test_a_teacher_may_be_away_once_each_patch_has_a_view(tmp_path: Path) -> None:
    tables = ViewSchedule(tmp_path)
    before = (
        tables.suffices(_table(1, 1, 0), ROWS),
        tables.suffices(_table(1, 2, 4), ROWS),
    )
    tables.settle(1, _table(1, 1, 0))

    assert before == (False, True)
    assert tables.suffices(_table(2, 2, 0), ROWS)
    assert not tables.suffices(_table(0, 1, 1), ROWS)


def test_a_run_keeps_the_number_of_its_patches(tmp_path: Path) -> None:
    tables = ViewSchedule(tmp_path)
    tables.check_rows(7)
    tables.settle(1, _table(1, 1, 0))

    tables.check_rows(3)
    with pytest.raises(DataError, match="from 3 to 4; a new run is needed"):
        tables.check_rows(4)
