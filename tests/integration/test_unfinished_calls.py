"""Calls whose message never comes, or never ends, and what they cost others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from moma_core.pki.certificates import Credential
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub
from moma_server.relay.server import RelaySettings
from moma_server.teacher.settings import TeacherServerSettings
from tests.support.federation.pki import Pki
from tests.support.machine.unfinished import taken_of_a_message
from tests.support.relay.world import relaying
from tests.support.teacher.teacher_server import (
    CARD,
    WAIT_SECONDS,
    MeanColour,
    Served,
    serving,
)

Code = grpc.StatusCode
DESCRIBE = "/moma.v1.TeacherService/Describe"
HEALTH = "/grpc.health.v1.Health/Check"
ANNOUNCED_BYTES = 24 * 2**20
WINDOW_BYTES = 8 * 2**20  # more than HTTP/2 lets anybody send before somebody reads
LARGE = TeacherServerSettings(max_patches_per_request=256)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


@pytest.fixture(scope="module")
def site(pki: Pki) -> Credential:
    return pki.site("site-a")


def without_message(channel: Any, method: str) -> Any:
    """Starts a call with one message, which does not come."""

    async def never() -> AsyncIterator[bytes]:
        await asyncio.sleep(10 * WAIT_SECONDS)
        yield b""

    return channel.stream_unary(method)(never())


def large_model() -> MeanColour:
    """Returns a model whose largest query is of more than ANNOUNCED_BYTES."""
    return MeanColour(replace(CARD, input_size_px=224))


async def codes_of(calls: list[Any]) -> set[grpc.StatusCode]:
    async with asyncio.timeout(WAIT_SECONDS):
        return {await call.code() for call in calls}


async def described(served: Served, site: Credential) -> Any:
    async with served.channel(site) as channel:
        stub: Any = TeacherServiceStub(channel)
        return await stub.Describe(pb.DescribeRequest(), timeout=WAIT_SECONDS)


def test_a_revoked_site_that_asks_nothing_is_told_so_and_takes_nobodys_place(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        settings = TeacherServerSettings(calls=4, read_seconds=10 * WAIT_SECONDS)
        revoked = pki.site("site-b")
        async with (
            serving(tmp_path, pki, MeanColour(), settings=settings) as served,
            AsyncExitStack() as stack,
        ):
            served.revoke(revoked)
            calls = []
            for _ in range(2 * settings.calls):
                channel = await stack.enter_async_context(served.channel(revoked))
                calls.append(without_message(channel, DESCRIBE))

            assert await codes_of(calls) == {Code.UNAUTHENTICATED}
            assert served.denied("revoked", site="") == len(calls)
            assert await described(served, site)

    asyncio.run(scenario())


def test_a_site_that_asks_nothing_is_counted_and_cut_off_in_time(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        settings = TeacherServerSettings(calls_per_peer=2, read_seconds=2.0)
        async with (
            serving(tmp_path, pki, MeanColour(), settings=settings) as served,
            served.channel(site) as one,
            served.channel(pki.site("site-a")) as two,
        ):
            calls = [without_message(one, DESCRIBE) for _ in range(2)]
            await asyncio.gather(*(call.wait_for_connection() for call in calls))
            calls.append(without_message(two, DESCRIBE))

            assert await codes_of(calls) == {Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED}
            assert "not whole in 2 seconds" in await calls[0].details()
            assert await described(served, site)

    asyncio.run(scenario())


@pytest.mark.parametrize("who", ["revoked", "a teacher"])
def test_a_message_of_who_is_not_admitted_is_not_read(
    tmp_path: Path, pki: Pki, who: str
) -> None:
    async def scenario() -> None:
        revoked = (
            pki.site("site-b")
            if who == "revoked"
            else pki.issue("teacher", "teacher-b")
        )
        async with serving(tmp_path, pki, large_model(), settings=LARGE) as served:
            if who == "revoked":
                served.revoke(revoked)
            taken = await asyncio.to_thread(
                taken_of_a_message,
                served.port,
                DESCRIBE,
                pki.ca_pem,
                revoked,
                tmp_path,
                announced=ANNOUNCED_BYTES,
            )

            assert 0 < taken <= WINDOW_BYTES

    asyncio.run(scenario())


def test_a_message_of_who_is_admitted_is_read(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    """Without this the two tests above would show nothing."""

    async def scenario() -> None:
        async with serving(tmp_path, pki, large_model(), settings=LARGE) as served:
            taken = await asyncio.to_thread(
                taken_of_a_message,
                served.port,
                DESCRIBE,
                pki.ca_pem,
                site,
                tmp_path,
                announced=ANNOUNCED_BYTES,
            )

            assert taken > WINDOW_BYTES

    asyncio.run(scenario())


def test_a_message_larger_than_such_calls_have_is_refused(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, large_model(), settings=LARGE) as served,
            served.channel(site) as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(DESCRIBE)(bytes(70_000))

            assert caught.value.code() is Code.INVALID_ARGUMENT
            assert "at most 65536" in (caught.value.details() or "")

    asyncio.run(scenario())


@pytest.mark.parametrize("content", [b"\xff\xff", b"\x0a\xff"])
def test_what_is_no_request_is_told_to_be_none(
    tmp_path: Path,
    pki: Pki,
    site: Credential,
    content: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, MeanColour()) as served,
            served.channel(site) as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(DESCRIBE)(content)

            assert caught.value.code() is Code.INVALID_ARGUMENT
            assert "unexpected error" not in caplog.text

    asyncio.run(scenario())


def test_the_relay_reads_no_message_of_who_is_not_admitted(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        revoked = pki.site("site-b")
        async with relaying(tmp_path, pki) as relay:
            relay.revoke(revoked)
            taken = await asyncio.to_thread(
                taken_of_a_message,
                relay.port,
                HEALTH,
                pki.ca_pem,
                revoked,
                tmp_path,
                announced=ANNOUNCED_BYTES,
            )

            assert 0 < taken <= WINDOW_BYTES

    asyncio.run(scenario())


def test_the_relay_waits_so_long_for_a_question_about_its_health(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        settings = RelaySettings(read_seconds=0.3)
        async with (
            relaying(tmp_path, pki, settings) as relay,
            relay.channel(site) as channel,
        ):
            assert await codes_of([without_message(channel, HEALTH)]) == {
                Code.UNAVAILABLE
            }
            assert await channel.unary_unary(HEALTH)(b"") == b"\x08\x01"
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
            assert await watch.read() == b"\x08\x01"
            watch.cancel()

    asyncio.run(scenario())
