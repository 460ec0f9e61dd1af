import asyncio
import random
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moma_client.cache.folder import RequestJournal
from moma_core.errors import ConfigError
from tests.support.machine import waiting
from tests.support.machine.killed import forking
from tests.support.site.journal_keeper import KEPT

GROUPS = [[3, 1, 2], [7], list(range(100, 164))]


def _written(path: Path) -> bytes:
    with closing(RequestJournal(path)) as journal:
        for group in GROUPS:
            journal.add(np.array(group))
    return path.read_bytes()


def _read(path: Path) -> list[list[int]]:
    with closing(RequestJournal(path)) as journal:
        return [group.tolist() for group in journal.groups()]


def test_what_was_noted_is_there_for_the_next_program(tmp_path: Path) -> None:
    _written(tmp_path / "cache.asked")

    assert _read(tmp_path / "cache.asked") == GROUPS


@settings(
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ]
)
@given(data=st.data())
def test_a_torn_or_damaged_line_is_left_out_and_no_other(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "cache.asked"
    path.unlink(missing_ok=True)
    content = bytearray(_written(path))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    found = _read(path)
    with closing(RequestJournal(path)) as journal:
        journal.add(np.array([5]))

    assert all(group in GROUPS for group in found)
    assert _read(path) == [*found, [5]]


def test_what_is_noted_again_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "cache.asked"
    content = _written(path)

    again = _written(path)
    path.write_bytes(content + content)  # as an older program left it

    assert again == content
    assert _read(path) == GROUPS


def test_what_is_not_kept_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "cache.asked"
    _written(path)

    with closing(RequestJournal(path)) as journal:
        journal.keep([np.array([7]), np.array([1, 2, 3])])  # the second is not noted
    some = _read(path)
    with closing(RequestJournal(path)) as journal:
        journal.keep([])

    assert some == [[7]]
    assert _read(path) == []


def test_a_journal_is_for_its_owner_alone_though_it_was_not(tmp_path: Path) -> None:
    older, newer = tmp_path / "older.asked", tmp_path / "newer.asked"
    older.touch()
    older.chmod(0o644)

    _written(older)
    _written(newer)

    modes = [path.stat().st_mode & 0o777 for path in (older, newer)]
    assert modes == [0o600, 0o600]


def test_two_programs_do_not_fill_one_cache(tmp_path: Path) -> None:
    path = tmp_path / "cache.asked"
    with (
        closing(RequestJournal(path)),
        pytest.raises(ConfigError, match="another program fills this teacher cache"),
    ):
        RequestJournal(path)

    with pytest.raises(ConfigError, match="cannot write"):
        RequestJournal(tmp_path / "none" / "cache.asked")


def test_a_kill_while_it_is_written_anew_loses_no_request(tmp_path: Path) -> None:
    path, chance = tmp_path / "cache.asked", random.Random(5)
    found = []

    with forking("tests.support.site.journal_keeper", path) as children:
        for _ in range(25):
            (tmp_path / "progress").unlink(missing_ok=True)

            def until() -> None:
                asyncio.run(waiting.until((tmp_path / "progress").exists))
                time.sleep(chance.uniform(0, 0.01))

            children.run(until=until)
            found.append(_read(path))

    assert all(KEPT in groups for groups in found)
    assert len(list(tmp_path.iterdir())) <= 3  # nothing but the journal and progress


def test_a_program_that_held_the_file_before_finds_the_one_that_is_there_now(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cache.asked"
    with closing(RequestJournal(path)) as journal:
        journal.add(np.array([1]))
        journal.keep([np.array([1])])
        with pytest.raises(ConfigError, match="another program fills"):
            RequestJournal(path)
        journal.add(np.array([2]))

    assert _read(path) == [[1], [2]]
    assert path.stat().st_mode & 0o777 == 0o600
