"""A clock that is wrong for a look, at each party: nothing is lost, nothing stays."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moma_core.end_to_end.hpke import SUITES
from moma_core.errors import ReplayError, TeacherUnavailableError
from moma_core.pki import revocations
from moma_core.pki.certificates import create_authority
from moma_core.pki.crl_client import PollSettings, RevocationPoller
from moma_core.pki.revocations import Revocation, sign_list
from moma_server.membership.tokens import TokenRecord
from moma_server.teacher.end_to_end.identity import (
    CERTAIN_SECONDS,
    KEY_LIFETIME,
    SealingKeys,
)
from moma_server.teacher.end_to_end.replay_guard import WINDOW, ReplayGuard
from tests.support.machine.clock import Clock, SecondsClock

JUMPS = [
    sign * size
    for sign in (1, -1)
    for size in (timedelta(hours=1), timedelta(days=1), timedelta(days=365))
]
SECOND = timedelta(seconds=1)
ID = b"1" * 16


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_wrong_look_costs_no_sealing_key_and_leaves_none_that_lives_long(
    tmp_path: Path, jump: timedelta
) -> None:
    clock, seconds = Clock(), SecondsClock()
    keys = SealingKeys(tmp_path / "keys.json", SUITES, clock, seconds)
    before = keys.offers()

    clock.now += jump
    keys.offers()
    clock.now -= jump
    for offer in before:
        keys.find(offer.key.key_id)  # what a site sealed meanwhile still opens
    keys.offers()
    seconds.seconds += CERTAIN_SECONDS
    clock.now += timedelta(seconds=CERTAIN_SECONDS)
    after = keys.offers()

    assert [offer.key.suite for offer in after] == list(SUITES)
    assert all(offer.not_after <= clock.now + KEY_LIFETIME for offer in after)
    assert all(offer.not_after > clock.now for offer in after)
    for offer in (*before, *after):
        keys.find(offer.key.key_id)


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_guard_against_replay_serves_again_when_its_clock_is_right(
    tmp_path: Path, jump: timedelta
) -> None:
    clock = Clock()
    guard = ReplayGuard(clock, tmp_path / "taken-until.json")
    clock.now += SECOND
    guard.accept_once("site-a", ID, clock.ms)
    signed = clock.ms

    clock.now += jump
    if jump > SECOND:
        guard.accept_once("site-a", b"2" * 16, clock.ms + 60_000)
    clock.now -= jump
    with pytest.raises((ReplayError, TeacherUnavailableError)):
        guard.accept_once("site-a", ID, signed)
    clock.now += WINDOW + SECOND

    guard.accept_once("site-a", b"3" * 16, clock.ms)


def test_a_guard_that_began_with_a_wrong_clock_does_not_wait_for_that_time(
    tmp_path: Path,
) -> None:
    clock, kept = Clock(), tmp_path / "taken-until.json"
    clock.now += timedelta(days=365)
    guard = ReplayGuard(clock, kept)
    clock.now += SECOND
    guard.accept_once("site-a", ID, clock.ms + 60_000)
    clock.now -= timedelta(days=365)

    restarted = ReplayGuard(clock, kept)
    for each in (guard, restarted):
        with pytest.raises(TeacherUnavailableError):
            each.accept_once("site-a", ID, clock.ms)
    clock.now += 2 * WINDOW

    for each in (guard, restarted):
        each.accept_once("site-a", b"2" * 16, clock.ms)


def _poller(
    folder: Path, clock: Clock, authority_pem: bytes, lists: list[bytes]
) -> RevocationPoller:
    (folder / "ca.pem").write_bytes(authority_pem)
    settings = PollSettings(
        revoked=folder / "revoked.json",
        newest=folder / "revoked.crl",
        authority=folder / "ca.pem",
        seconds=1,
        warn_after=timedelta(minutes=10),
        most_age=timedelta(days=2),
    )
    revocations.start(settings.revoked)
    return RevocationPoller(
        settings, lambda: lists.pop(0), clock=clock, on_list=lambda _: None
    )


def test_a_list_of_a_clock_that_was_ahead_holds_back_no_later_one(
    tmp_path: Path,
) -> None:
    """Both clocks were: else the list is not believed in the first place."""
    clock = Clock()
    authority = create_authority("moma", now=clock.now)
    ahead = clock.now + timedelta(days=365)
    entry = Revocation(12345, "site-a", clock.now)
    lists = [
        sign_list((), authority, now=ahead),
        sign_list((entry,), authority, now=clock.now),
    ]
    poller = _poller(tmp_path, clock, authority.certificate_pem, lists)
    clock.now = ahead
    poller.look()

    clock.now -= timedelta(days=365)
    is_too_old = 1 in poller
    poller.look()

    assert is_too_old  # a year from now: who was revoked since is not known
    assert 12345 in poller
    assert 1 not in poller


@pytest.mark.parametrize("ahead_days", [1, 365])
def test_a_token_of_a_clock_that_was_ahead_is_not_good_for_longer(
    ahead_days: int,
) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    made_at = now + timedelta(days=ahead_days)
    token = TokenRecord(
        identifier="0" * 16,
        kind="site",
        name="site-a",
        hosts=(),
        secret_hash="0" * 64,
        created_at=made_at,
        expires_at=made_at + timedelta(days=7),
    )

    assert token.state(now) == "expired"
    assert token.state(made_at) == "open"
