"""What a site takes of a card that its pinned teacher signed: the newest, no weaker."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from moma_client.identity.pinned_teacher import PinnedTeacher
from moma_client.teacher.retry import ConnectionLostError
from moma_client.teacher.sealed_client import (
    CardMemory,
    RequestSealer,
    SealedTeacherClient,
)
from moma_core.end_to_end.hpke import SuiteName
from moma_core.errors import CertificateError, NotAuthorizedError
from moma_core.runtime.files import write_private
from moma_core.teacher.card.signed import IssuedCard
from moma_proto.v1.sealed_pb2 import SealedRequest
from tests.support.teacher.sealed import TeacherSide, key_of
from tests.support.teacher.teacher_server import CARD

KEY = key_of("teacher-a")
NOW = datetime.now(UTC)


def issue(issued: int, suites: tuple[SuiteName, ...] = ("x25519",)) -> IssuedCard:
    return replace(TeacherSide(suites=suites).issue(CARD), issued=issued)


def sealer(folder: Path, now: datetime = NOW) -> RequestSealer:
    ends = PinnedTeacher(
        federation="test-federation",
        site="site-a",
        signing_key=folder / "signing.key",
        teacher="teacher-a",
        teacher_key=KEY.public,
        floor="mlkem768-x25519",
        card_memory=folder / "seen.json",
    )
    return RequestSealer(ends, lambda: now)


def test_an_older_card_is_refused_over_a_restart(tmp_path: Path) -> None:
    path, newer = tmp_path / "seen" / "teacher-a.json", issue(8)
    CardMemory(path).note(newer, KEY.public)
    CardMemory(path).note(newer, KEY.public)

    with pytest.raises(NotAuthorizedError, match="older than 8"):
        CardMemory(path).note(issue(7), KEY.public)
    CardMemory(path).note(issue(9), KEY.public)


def test_two_cards_of_one_issue_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    CardMemory(path).note(issue(8), KEY.public)

    with pytest.raises(NotAuthorizedError, match="two cards of one issue"):
        CardMemory(path).note(issue(8), KEY.public)


def test_a_memory_that_is_damaged_takes_no_card(tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    path.write_text("{")

    with pytest.raises(CertificateError):
        CardMemory(path).note(issue(8), KEY.public)


def test_a_card_with_no_suite_that_is_strong_enough_is_refused(tmp_path: Path) -> None:
    weak = issue(8).signed(KEY)

    with pytest.raises(NotAuthorizedError, match="mlkem768-x25519 or stronger"):
        sealer(tmp_path).load(weak)


def test_a_key_whose_time_is_over_is_sealed_to_no_more(tmp_path: Path) -> None:
    card = issue(8, ("mlkem768-x25519",)).signed(KEY)

    with pytest.raises(NotAuthorizedError, match="time is not over"):
        sealer(tmp_path, NOW + timedelta(days=2)).load(card)


def test_nothing_is_sealed_once_the_card_was_dropped_with_its_connection(
    tmp_path: Path,
) -> None:
    sealing = sealer(tmp_path)
    write_private(tmp_path / "signing.key", key_of("site-a").to_pem())
    sealing.load(issue(8, ("mlkem768-x25519",)).signed(KEY))
    assert sealing.seal("Embed", (b"message",), bytes(16))

    sealing.forget()

    with pytest.raises(ConnectionLostError, match="the teacher's card was dropped"):
        sealing.seal("Embed", (b"message",), bytes(16))


def test_a_stream_whose_card_was_dropped_ends_without_an_error(tmp_path: Path) -> None:
    """Whatever is raised there, gRPC prints with a traceback."""
    sealing = sealer(tmp_path)
    write_private(tmp_path / "signing.key", key_of("site-a").to_pem())
    sealing.load(issue(8, ("mlkem768-x25519",)).signed(KEY))
    channel = cast("Any", SimpleNamespace(embed=lambda requests: requests))
    client = SealedTeacherClient(channel, sealing, cast("Any", None), lambda: None)

    def requests() -> Iterator[SealedRequest]:
        yield sealing.seal("Embed", (b"message",), bytes(16))[0]
        sealing.forget()
        yield sealing.seal("Embed", (b"message",), bytes(16))[0]

    taken = list(cast("Iterator[SealedRequest]", client.embed(requests())))

    assert len(taken) == 1
