"""A teacher elsewhere knows within seconds whom the coordinator has revoked."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moma_core.errors import FederationError
from moma_core.pki import revocations
from moma_core.pki.certificates import create_key
from moma_core.pki.crl import read_list, sign_list
from moma_core.pki.crl_client import PollSettings, RevocationPoller
from moma_core.pki.identity import read_peer
from moma_core.pki.revocations import Revocation, Revocations
from moma_server.membership.members import revoke_member
from tests.support.federation.enrolment_port import LOOPBACK, OpenDesk, link
from tests.support.federation.pki import Pki

Fetch = Callable[[], bytes]


class Follower:
    """The revocations of a teacher at another institution."""

    def __init__(
        self, folder: Path, authority: Path, most_age: timedelta | None = None
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.now = datetime.now(UTC)
        self.seen: list[datetime] = []
        self.settings = PollSettings(
            revoked=folder / "revoked.json",
            newest=folder / "revoked.crl",
            authority=authority,
            seconds=1,
            warn_after=timedelta(minutes=10),
            most_age=most_age,
        )
        revocations.start(self.settings.revoked)

    def answering(self, fetch: Fetch) -> RevocationPoller:
        return RevocationPoller(
            self.settings, fetch, clock=lambda: self.now, on_list=self.seen.append
        )


@pytest.fixture
def pki_follower(tmp_path: Path) -> tuple[Pki, Follower]:
    pki = Pki()
    files = pki.write(tmp_path / "pki", pki.server())
    return pki, Follower(tmp_path / "teacher", files.ca, timedelta(hours=2))


def unreachable() -> bytes:
    raise FederationError("cannot reach coordinator.example:8445")


def test_what_the_coordinator_revokes_is_refused_elsewhere(
    tmp_path: Path, desk: OpenDesk
) -> None:
    token = desk.token("teacher-b", "teacher", hosts=(LOOPBACK,))
    teacher = link(desk, "teacher-b", "teacher")
    serial = read_peer(teacher.enrol(token, create_key(), None)).serial
    follower = Follower(tmp_path / "teacher", desk.config.authority.certificate)
    followed = follower.answering(teacher.revoked)
    followed.look()
    before = serial in followed

    revoke_member(desk.config, token.peer)
    until = time.monotonic() + 30
    while serial not in followed and time.monotonic() < until:
        follower.now = datetime.now(UTC)
        followed.look()

    assert (before, serial in followed) == (False, True)
    assert serial in Revocations(follower.settings.revoked)  # a restart forgets nothing


def test_a_list_of_another_authority_is_not_believed(
    pki_follower: tuple[Pki, Follower], caplog: pytest.LogCaptureFixture
) -> None:
    _, follower = pki_follower
    forged = sign_list((), Pki().authority, now=follower.now)

    follower.answering(lambda: forged).look()

    assert "not signed by our authority" in caplog.text
    assert follower.seen == []


def test_one_changed_bit_never_changes_what_a_list_says(
    pki_follower: tuple[Pki, Follower],
) -> None:
    """Wherever it is: what cannot be read must not end the thread that follows.

    A signature may be spelt in more than one way, so that a bit of it can change and
    the list still be the authority's, word for word.
    """
    pki, follower = pki_follower
    entry = Revocation(12345, "site-a", follower.now)
    der = sign_list((entry,), pki.authority, now=follower.now)
    true = read_list(der, pki.ca_pem, now=follower.now)
    changed = (
        bytes([*der[:at], der[at] ^ 1 << bit, *der[at + 1 :]])
        for at in range(len(der))
        for bit in range(8)
    )
    followed = follower.answering(lambda: next(changed))

    for _ in range(8 * len(der)):
        followed.look()

    assert set(follower.seen) <= {true.made_at}
    assert 12345 in followed
    assert (12344 in followed) == (not follower.seen)  # without one nobody is in


def test_an_older_list_does_not_take_a_newers_place(
    pki_follower: tuple[Pki, Follower], caplog: pytest.LogCaptureFixture
) -> None:
    """Who is between the two may keep a list back, and show the one before."""
    pki, follower = pki_follower
    old = sign_list((), pki.authority, now=follower.now - timedelta(minutes=2))
    entry = Revocation(12345, "site-a", follower.now)
    answers = [sign_list((entry,), pki.authority, now=follower.now), old]
    followed = follower.answering(lambda: answers.pop(0))

    followed.look()
    followed.look()

    assert 12345 in followed
    assert "an older revocation list than the last" in caplog.text
    assert follower.seen == [
        read_list(follower.settings.newest.read_bytes(), pki.ca_pem, now=None).made_at
    ]


def test_a_list_that_is_out_of_date_is_not_believed(
    pki_follower: tuple[Pki, Follower], caplog: pytest.LogCaptureFixture
) -> None:
    pki, follower = pki_follower
    stale = sign_list((), pki.authority, now=follower.now - timedelta(hours=3))

    follower.answering(lambda: stale).look()

    assert "which is not now" in caplog.text


def test_who_cannot_reach_the_coordinator_says_so_and_then_admits_nobody(
    pki_follower: tuple[Pki, Follower], caplog: pytest.LogCaptureFixture
) -> None:
    pki, follower = pki_follower
    answers: list[Fetch] = [lambda: sign_list((), pki.authority, now=follower.now)]
    followed = follower.answering(lambda: (answers or [unreachable]).pop()())
    followed.look()

    admitted = []
    for minutes in (1, 11, 121):
        follower.now += timedelta(minutes=minutes)
        followed.look()
        admitted.append(7 not in followed)

    assert admitted == [True, True, False]
    levels = [r.levelname for r in caplog.records if "cannot reach" in r.getMessage()]
    assert levels == ["WARNING", "ERROR", "ERROR"]


def test_an_outage_is_said_once_and_again_after_the_next_list(
    pki_follower: tuple[Pki, Follower], caplog: pytest.LogCaptureFixture
) -> None:
    pki, follower = pki_follower
    der = sign_list((), pki.authority, now=follower.now)
    answers: list[Fetch] = [lambda: der, unreachable, unreachable, lambda: der]
    followed = follower.answering(lambda: (answers or [unreachable]).pop(0)())

    for _ in range(6):
        followed.look()

    assert caplog.text.count("cannot reach") == 2


def test_a_restart_remembers_how_old_the_list_is(
    pki_follower: tuple[Pki, Follower],
) -> None:
    pki, follower = pki_follower
    der = sign_list((), pki.authority, now=follower.now)
    follower.answering(lambda: der).look()

    follower.now += timedelta(hours=1)
    soon = follower.answering(unreachable)
    follower.now += timedelta(hours=2)

    assert 7 in soon
    assert len(follower.seen) == 2


def test_without_any_list_nobody_is_admitted_where_the_config_says_so(
    pki_follower: tuple[Pki, Follower],
) -> None:
    _, follower = pki_follower

    assert 7 in follower.answering(unreachable)
