"""A denied query is counted once, and logged, however often it is denied."""

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from moma_core.audit.denied_queries import MOST_ENTRIES
from moma_core.audit.export import export_lines
from moma_core.audit.verify import verify_export
from moma_core.end_to_end.sealed_messages import MessageContext, Sealed
from moma_proto.convert import sealed as convert_sealed
from moma_proto.v1.sealed_pb2 import SealedRequest
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub
from tests.support.federation.pki import Pki
from tests.support.machine.waiting import WAIT_SECONDS, until
from tests.support.teacher.sealed import SiteSide
from tests.support.teacher.teacher_server import (
    MeanColour,
    ledger_in,
    refusal,
    request,
    serving,
    signing_key_in,
)


def test_a_refusal_is_not_counted_as_a_message_that_was_too_large(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        pki = Pki()
        async with (
            serving(tmp_path, pki, MeanColour(), grants={"site-a": 1}) as served,
            served.stub(pki.site()) as stub,
        ):
            for _ in range(5):
                await refusal(stub, request(patches=2))

            await until(lambda: served.denied("budget") == 5)
            assert served.denied("size") == 0

    asyncio.run(scenario())


def test_a_site_that_is_denied_over_and_over_costs_the_log_a_few_entries(
    tmp_path: Path,
) -> None:
    times = 3 * MOST_ENTRIES

    async def denied_after(more: int) -> float:
        pki = Pki()
        async with (
            serving(tmp_path, pki, MeanColour(), grants={"site-a": 1}) as served,
            served.stub(pki.site()) as stub,
        ):
            for _ in range(more):
                await refusal(stub, request(patches=2))
            return served.denied("budget")

    async def scenario() -> None:
        assert await denied_after(times) <= times
        assert await denied_after(0) == times  # as the log says

        ledger = ledger_in(tmp_path, "teacher-a", {}, lambda: datetime.now(UTC))
        lines = ledger.read(lambda database: list(export_lines(database)[0]))
        ledger.budget.close()
        found = verify_export(lines, signing_key_in(tmp_path).public)
        assert found.sites["site-a"].denied == {"budget": times}
        two_minutes = 2 * (MOST_ENTRIES + 1)  # one may begin meanwhile
        assert sum(b'"denied"' in line for line in lines) <= two_minutes

    asyncio.run(scenario())


def test_a_question_whose_form_is_broken_is_nobodys_and_refused_by_a_status(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        pki = Pki()
        async with (
            serving(tmp_path, pki, MeanColour()) as served,
            served.stub(pki.site()) as stub,
        ):
            error = await refusal(stub, request(request_id=b"short"))

            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert served.denied("malformed", site="") == 1
            assert served.denied("malformed") == 0

    asyncio.run(scenario())


def test_a_question_that_a_site_signed_and_is_malformed_inside_is_in_the_log(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        pki = Pki()
        async with (
            serving(tmp_path, pki, MeanColour()) as served,
            served.channel(pki.site()) as channel,
        ):
            side, stub = SiteSide(served.server.card()), TeacherServiceStub(channel)
            two_ids, _ = side.seal("Embed", request(), request_id=bytes(16))
            no_message, _ = side.seal("Embed", b"\xff", request_id=b"i" * 16)
            unopenable = cut_inside(side)
            before = served.log_size()
            answers = [one async for one in stub.Embed(iter([two_ids, no_message]))]
            with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
                await stub.Budget(unopenable)

            assert len(answers) == 2
            assert served.log_size() == before + 3
            assert served.denied("malformed") == 3
            labels = {"site": "site-a", "teacher": "teacher-a", "outcome": "denied"}
            assert served.metric("requests_total", **labels) == 3

    asyncio.run(scenario())


def cut_inside(side: SiteSide) -> SealedRequest:
    """Returns what a site signed and nobody can open."""
    place = MessageContext(method="Budget", request_id=b"c" * 16, issued_ms=1)
    key_id, content = side.offer.key.key_id, bytes(200)
    signed = place.to_bytes(side.parties, key_id) + hashlib.sha256(content).digest()
    signature = side.key.sign("sealed question", signed)
    sealed = Sealed(content, signature)
    return convert_sealed.sealed_request_to_wire(side.site, place, key_id, sealed)


@pytest.mark.parametrize("method", ["Embed", "SyncMomentum"])
def test_a_message_that_is_not_readable_is_told_and_counted(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, MeanColour()) as served,
            served.channel(pki.site()) as channel,
        ):
            call = channel.stream_stream(f"/moma.v1.TeacherService/{method}")()

            await call.write(b"\x0a\xff")

            async with asyncio.timeout(WAIT_SECONDS):
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "not readable" in await call.details()
            assert served.denied("malformed", site="") == 1

    asyncio.run(scenario())
    assert "unexpected" not in caplog.text
