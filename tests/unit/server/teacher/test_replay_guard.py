"""A message that acts at once is taken once, over restarts and with fast clocks."""

from datetime import timedelta
from pathlib import Path

import pytest

from moma_core.errors import NotAuthorizedError, ReplayError, TeacherUnavailableError
from moma_server.teacher.end_to_end.replay_guard import WINDOW, ReplayGuard
from tests.support.machine.clock import Clock

SECOND = timedelta(seconds=1)
ID = b"1" * 16


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "teacher" / "taken-until.json"


def started(clock: Clock, kept: Path) -> ReplayGuard:
    """Returns what a process knows that began a second ago."""
    replay_guard = ReplayGuard(clock, kept)
    clock.now += SECOND
    return replay_guard


def test_a_message_is_taken_once_from_each_site(clock: Clock, kept: Path) -> None:
    replay_guard = started(clock, kept)
    replay_guard.accept_once("site-a", ID, clock.ms)

    with pytest.raises(ReplayError):
        replay_guard.accept_once("site-a", ID, clock.ms)
    replay_guard.accept_once("site-b", ID, clock.ms)


def test_an_old_message_is_refused_also_after_a_restart(
    clock: Clock, kept: Path
) -> None:
    replay_guard = started(clock, kept)
    signed = clock.ms
    clock.now += WINDOW + SECOND
    with pytest.raises(NotAuthorizedError, match="seconds ago"):
        replay_guard.accept_once("site-a", ID, signed)

    signed = clock.ms
    clock.now += SECOND
    with pytest.raises(TeacherUnavailableError, match="before the teacher began"):
        ReplayGuard(clock, kept).accept_once("site-a", b"2" * 16, signed)


def test_what_a_site_with_a_fast_clock_sent_is_not_taken_again_after_a_restart(
    clock: Clock, kept: Path
) -> None:
    ahead = timedelta(minutes=4)
    signed = clock.ms + int(ahead / timedelta(milliseconds=1))
    started(clock, kept).accept_once("site-a", ID, signed)

    restarted = started(clock, kept)
    while clock.now < Clock().now + ahead + WINDOW:
        with pytest.raises(TeacherUnavailableError):
            restarted.accept_once("site-a", ID, signed)
        clock.now += timedelta(minutes=1)


def test_after_a_restart_nobody_waits_for_a_site_with_a_fast_clock(
    clock: Clock, kept: Path
) -> None:
    ahead_ms = int(timedelta(minutes=4) / timedelta(milliseconds=1))
    started(clock, kept).accept_once("site-a", ID, clock.ms + ahead_ms)

    restarted = started(clock, kept)

    restarted.accept_once("site-b", b"2" * 16, clock.ms)
    clock.now += timedelta(seconds=15)
    restarted.accept_once("site-a", b"2" * 16, clock.ms + ahead_ms)

    for site, late_ms in (("site-a", ahead_ms), ("site-b", 0)):  # they were taken
        with pytest.raises(ReplayError):
            restarted.accept_once(site, b"2" * 16, clock.ms + late_ms)


def test_clocks_that_are_right_cost_no_write(clock: Clock, kept: Path) -> None:
    replay_guard = started(clock, kept)

    replay_guard.accept_once("site-a", ID, clock.ms)

    assert not kept.exists()


def test_where_the_kept_times_are_damaged_the_longest_is_waited_for(
    clock: Clock, kept: Path
) -> None:
    kept.parent.mkdir()
    kept.write_text("[")
    restarted = started(clock, kept)

    with pytest.raises(TeacherUnavailableError):
        restarted.accept_once("site-a", ID, clock.ms)
    clock.now += WINDOW + timedelta(seconds=10)
    restarted.accept_once("site-a", ID, clock.ms)

    with pytest.raises(ReplayError):
        restarted.accept_once("site-a", ID, clock.ms)
