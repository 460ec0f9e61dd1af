"""Rate and unique patches, as a database keeps them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from moma_core.errors import PatchLimitError, PolicyError, TeacherBusyError
from moma_core.policy.usage import (
    PatchRate,
    add_unique,
    keep_touched,
    take_tokens,
    touched_buckets,
    unique_patches,
    usage_tables,
)
from moma_core.runtime.database import open_database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Connection]:
    engine = open_database(f"sqlite:///{tmp_path / 'usage.db'}")
    usage_tables.create_all(engine)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def digests(*numbers: int) -> list[bytes]:
    return [hashlib.sha256(bytes([number])).digest() for number in numbers]


RATE = PatchRate(per_minute=60, burst=10)


def test_a_rested_site_may_ask_a_burst_and_then_so_many_a_minute(
    database: Connection,
) -> None:
    take_tokens(database, "site-a", 10, RATE, now=0)
    with pytest.raises(TeacherBusyError, match="60 patches a minute") as refused:
        take_tokens(database, "site-a", 4, RATE, now=1)
    assert refused.value.retry_after_seconds == 3
    take_tokens(database, "site-a", 4, RATE, now=4)
    take_tokens(database, "site-b", 10, RATE, now=4)


def test_what_no_waiting_allows_is_refused_at_once(database: Connection) -> None:
    with pytest.raises(PolicyError, match="11 patches at once"):
        take_tokens(database, "site-a", 11, RATE, now=0)


def test_a_clock_that_is_set_back_gives_nothing(database: Connection) -> None:
    take_tokens(database, "site-a", 10, RATE, now=100)
    with pytest.raises(TeacherBusyError):
        take_tokens(database, "site-a", 1, RATE, now=0)
    with pytest.raises(TeacherBusyError):
        take_tokens(database, "site-a", 2, RATE, now=101)
    take_tokens(database, "site-a", 1, RATE, now=101)


def test_a_clock_that_was_far_ahead_does_not_shut_a_site_out(
    database: Connection,
) -> None:
    take_tokens(database, "site-a", 10, RATE, now=1_000_000)
    take_tokens(database, "site-a", 10, RATE, now=100)
    with pytest.raises(TeacherBusyError):
        take_tokens(database, "site-a", 2, RATE, now=101)
    take_tokens(database, "site-a", 1, RATE, now=101)


def test_a_patch_is_unique_once_for_each_site(database: Connection) -> None:
    assert add_unique(database, "site-a", digests(1, 2, 2), limit=3, now=0) == 2
    assert add_unique(database, "site-a", digests(2, 3), limit=3, now=0) == 3
    assert add_unique(database, "site-b", digests(1), limit=3, now=0) == 1
    assert unique_patches(database, "site-a") == 3
    assert unique_patches(database, "site-c") == 0


def test_more_different_patches_than_the_limit_are_refused(
    database: Connection,
) -> None:
    add_unique(database, "site-a", digests(1, 2), limit=3, now=0)
    savepoint = database.begin_nested()
    with pytest.raises(PatchLimitError, match=r"takes 2 patches .* 1 of 3 are left"):
        add_unique(database, "site-a", digests(3, 4), limit=3, now=0)
    savepoint.rollback()
    assert add_unique(database, "site-a", digests(3), limit=3, now=0) == 3


def test_marks_are_keyed(database: Connection) -> None:
    (digest,) = digests(1)
    add_unique(database, "site-a", [digest], limit=None, now=0)
    marks = database.execute(text("SELECT mark FROM policy_marks")).scalars().all()
    assert marks != [digest[:16]]
    key = database.execute(text("SELECT key FROM policy_mark_keys")).scalar_one()
    assert marks == [hashlib.sha256(key + digest).digest()[:16]]


def test_touched_buckets_are_kept(database: Connection) -> None:
    assert touched_buckets(database, "site-a") == b""
    keep_touched(database, "site-a", b"\x01", now=0)
    keep_touched(database, "site-a", b"\x03", now=1)
    assert touched_buckets(database, "site-a") == b"\x03"


@pytest.mark.parametrize("values", [(0, 1), (-1, 1), (1, 0)])
def test_a_rate_that_lets_nothing_through_is_refused(values: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        PatchRate(*values)
