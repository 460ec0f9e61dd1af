"""A coordinator that holds the authority's key, stands in the middle, and uses both.

It can mint a certificate for any name. It reads no patch, forges no query, spends no
budget and swaps no key.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import NotAuthorizedError, TeacherError
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import (
    ScriptedTeacher,
    Site,
    follow_all,
    running,
    scripted,
)
from tests.support.teacher.sealed import SiteSide, TeacherSide, key_of
from tests.support.teacher.teacher_server import (
    PATCH_BYTES,
    MeanColour,
    Served,
    request,
)

WAIT_SECONDS = 120
PATTERN = bytes(range(1, 251))  # of pixels that somebody looks for


class Captured(NamedTuple):
    """What a coordinator in the middle has: a site's message, and its answer."""

    served: Served
    side: SiteSide
    request: SealedRequest
    answer: Any

    def charged(self) -> int:
        return self.served.budget.charged("site-a")

    def send(self, message: SealedRequest, *, site: str = "site-a") -> Any:
        """Sends a message over a connection that the coordinator minted."""
        with _channel(self.served, site) as channel:
            stub: Any = TeacherServiceStub(channel)
            return list(stub.Embed(iter([message]), timeout=WAIT_SECONDS))

    def refused(self, message: SealedRequest, *, site: str = "site-a") -> Any:
        with pytest.raises(grpc.RpcError) as refused:
            self.send(message, site=site)
        return refused.value


@contextmanager
def _channel(served: Served, site: str) -> Iterator[grpc.Channel]:
    with served.channel(served.pki.site(site), grpc) as channel:
        yield channel


@pytest.fixture
def captured(tmp_path: Path, pki: Pki) -> Iterator[Captured]:
    with running(tmp_path, pki, MeanColour()) as served:
        with _channel(served, "site-a") as channel:
            stub: Any = TeacherServiceStub(channel)
            card = convert.signed_card_from_wire(stub.Describe(pb.DescribeRequest()))
        side = SiteSide(card, "site-a")
        asked = request()
        asked.pixels = (PATTERN * PATCH_BYTES)[:PATCH_BYTES]
        sealed, _pending = side.seal("Embed", asked)
        found = Captured(served, side, sealed, None)
        (answer,) = found.send(sealed)
        yield found._replace(answer=answer)


def test_it_reads_neither_patch_nor_answer(captured: Captured) -> None:
    seen = captured.request.SerializeToString() + captured.answer.SerializeToString()

    assert PATTERN[:16] not in seen
    _, another = captured.side.seal("Embed", request())
    with pytest.raises(NotAuthorizedError):  # the key of one question opens one answer
        captured.side.open("Embed", captured.answer, another)


def test_a_certificate_that_it_mints_asks_nothing_without_the_sites_key(
    captured: Captured,
) -> None:
    own = SiteSide(captured.served.server.card(), "site-a", key=SigningKey.create())
    forged, _ = own.seal("Embed", request())

    error = captured.refused(forged)

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert captured.charged() == 1


Change = Callable[[SealedRequest], None]


def _flip_sealed(message: SealedRequest) -> None:
    message.sealed = message.sealed[:-1] + bytes([message.sealed[-1] ^ 1])


def _cut(message: SealedRequest) -> None:
    message.sealed = message.sealed[:-1]


def _flip_signature(message: SealedRequest) -> None:
    message.signature = bytes([message.signature[0] ^ 1]) + message.signature[1:]


def _other_id(message: SealedRequest) -> None:
    message.request_id = bytes(16)


def _other_key(message: SealedRequest) -> None:
    message.key_id = bytes(len(message.key_id))


def _later(message: SealedRequest) -> None:
    message.issued_ms += 1


@pytest.mark.parametrize(
    "change", [_flip_sealed, _cut, _flip_signature, _other_id, _other_key, _later]
)
def test_what_it_changes_on_the_way_is_refused_and_costs_nothing(
    captured: Captured, change: Change
) -> None:
    changed = SealedRequest()
    changed.CopyFrom(captured.request)
    change(changed)

    error = captured.refused(changed)

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert captured.charged() == 1


def test_what_it_repeats_spends_nothing_and_tells_it_nothing(
    captured: Captured,
) -> None:
    (again,) = captured.send(captured.request)

    assert captured.charged() == 1
    assert again.sealed != captured.answer.sealed or again == captured.answer
    assert PATTERN[:16] not in again.SerializeToString()


def test_another_sites_connection_does_not_carry_it(captured: Captured) -> None:
    error = captured.refused(captured.request, site="site-b")

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "the connection is of site site-b" in error.details()
    assert captured.served.budget.charged("site-b") == 0


def test_a_question_to_another_teacher_or_federation_is_not_taken(
    captured: Captured,
) -> None:
    card = captured.served.server.card()
    for changed in ({"teacher": "teacher-b"}, {"federation": "another"}):
        redirected, _ = SiteSide(card, "site-a", **changed).seal("Embed", request())
        error = captured.refused(redirected)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert captured.charged() == 1


def _nothing(_requests: Any, _context: Any) -> Iterator[pb.EmbedResponse]:
    return iter(())


@pytest.mark.parametrize(
    ("desk", "reason"),
    [
        (lambda: TeacherSide(key=SigningKey.create()), "is not of ed25519:"),
        (lambda: TeacherSide(suites=("x25519",)), "no sealing key of suite mlkem768"),
    ],
)
def test_a_teacher_that_it_plays_is_shown_no_patch(
    tmp_path: Path, pki: Pki, desk: Callable[[], TeacherSide], reason: str
) -> None:
    teacher = ScriptedTeacher(_nothing)
    teacher.desk = desk()
    with scripted(pki, teacher) as port:  # with a certificate for teacher-a
        site = Site(tmp_path, pki, port)
        with pytest.raises(NotAuthorizedError, match=reason):
            follow_all(site)

    assert teacher.streams == 0


def test_a_card_whose_keys_it_swaps_is_not_believed(tmp_path: Path, pki: Pki) -> None:
    real, own = TeacherSide(), TeacherSide(key=SigningKey.create())

    class Swapping(TeacherSide):
        def card(self, card: Any) -> Any:
            signed, swapped = real.card(card), own.card(card)
            return signed._replace(content=swapped.content)

    teacher = ScriptedTeacher(_nothing)
    teacher.desk = Swapping()
    with scripted(pki, teacher) as port, pytest.raises(NotAuthorizedError):
        follow_all(Site(tmp_path, pki, port))

    assert teacher.streams == 0


def test_an_older_card_than_was_seen_is_refused(tmp_path: Path, pki: Pki) -> None:
    teacher = ScriptedTeacher(_nothing)
    with scripted(pki, teacher) as port:
        site = Site(tmp_path, pki, port)
        with site.teacher() as remote:
            remote.describe()
        teacher.desk.issued -= 1000
        with site.teacher() as remote, pytest.raises(TeacherError, match="older"):
            remote.describe()


def test_a_site_that_was_approved_with_another_key_is_not_replaced(
    captured: Captured,
) -> None:
    side = replace_site(captured, "site-z")
    unknown, _ = side.seal("Embed", request())

    error = captured.refused(unknown, site="site-z")

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "approved no key" in error.details()


def replace_site(captured: Captured, site: str) -> SiteSide:
    """Returns a site that the coordinator admitted, and the teacher's owner did not."""
    side = SiteSide(captured.served.server.card(), site, key=key_of(site))
    side.parties = replace(side.parties, site=site)
    return side
