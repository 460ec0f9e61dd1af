"""Calls through the relay: a site asks, a teacher that dialled out answers."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.federation.pki import Pki
from tests.support.machine.waiting import promised, until
from tests.support.relay.world import (
    SERVICE,
    WAIT_SECONDS,
    echo,
    exchange,
    refused,
    relaying,
    start,
    teaching,
)

Code = grpc.StatusCode


def test_messages_pass_both_ways_as_they_are_and_are_counted(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        messages = [os.urandom(n) for n in (0, 1, 5, 70_000)]
        async with (
            relaying(tmp_path, pki) as relay,
            teaching(relay, echo),
            relay.channel(pki.site("site-a")) as channel,
        ):
            call = start(channel)
            answers = await exchange(call, *messages)
            await call.done_writing()

            assert answers == messages
            assert await call.code() is Code.OK
            for direction in ("to_teacher", "to_site"):
                assert relay.relayed_bytes("site-a", direction) == 70_006
            assert relay.server.forwarder.quota.now == 0

    asyncio.run(scenario())


def test_a_call_with_one_question_and_one_answer_passes(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki) as relay,
            teaching(relay, echo),
            relay.channel(pki.site("site-a")) as channel,
        ):
            describe = channel.unary_unary(SERVICE + "Describe")
            answer = await describe(
                b"who?", metadata=(("moma-teacher", "teacher-a"),), timeout=WAIT_SECONDS
            )

            assert answer == b"who?"

    asyncio.run(scenario())


def test_a_message_of_32_mib_passes_and_lets_a_small_one_by(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki) as relay,
            teaching(relay, echo),
            relay.channel(pki.site("site-a")) as large,
            relay.channel(pki.site("site-b")) as small,
        ):
            content = os.urandom(2**20) * 32
            big = start(large)
            passing = asyncio.create_task(exchange(big, content))
            await until(lambda: relay.server.forwarder.quota.now >= 2**20)

            quick = start(small)
            assert await exchange(quick, b"quick") == [b"quick"]

            assert await passing == [content]
            for call in (big, quick):
                await call.done_writing()
                assert await call.code() is Code.OK
            assert relay.server.forwarder.quota.most <= 3 * 2**25 + 2**23
            assert relay.server.forwarder.quota.now == 0

    asyncio.run(scenario())


def test_a_refusal_reaches_the_site_as_the_teacher_spoke_it(
    tmp_path: Path, pki: Pki
) -> None:
    async def busy(requests: AsyncIterator[bytes], context: Any) -> None:
        async for _ in requests:
            await context.abort(
                Code.RESOURCE_EXHAUSTED,
                "queues are full",
                (("grpc-retry-pushback-ms", "2500"), ("x-secret", "stays here")),
            )

    async def scenario() -> None:
        async with relaying(tmp_path, pki) as relay, teaching(relay, busy):
            for messages in ([b"one"], [b"x" * 2**22] * 5):
                error = await refused(relay, pki.site("site-a"), *messages)

                assert error.code() is Code.RESOURCE_EXHAUSTED
                assert error.details() == "queues are full"
                metadata = dict(error.trailing_metadata())
                assert metadata == {"grpc-retry-pushback-ms": "2500"}

    asyncio.run(scenario())


def test_a_cancelled_call_is_cancelled_at_the_teacher(tmp_path: Path, pki: Pki) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def hang(requests: AsyncIterator[bytes], context: Any) -> None:
        try:
            began.set()
            await asyncio.sleep(WAIT_SECONDS)
        finally:
            ended.set()

    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki) as relay,
            teaching(relay, hang),
            relay.channel(pki.site("site-a")) as channel,
        ):
            call = start(channel)
            await call.write(b"x")
            async with asyncio.timeout(WAIT_SECONDS):
                await began.wait()
                call.cancel()
                await ended.wait()

            await until(lambda: relay.server.forwarder.open_calls == 0)
            assert await call.code() is Code.CANCELLED

    asyncio.run(scenario())


def test_a_call_that_the_teacher_cancels_is_over_at_the_site(
    tmp_path: Path, pki: Pki
) -> None:
    async def cancel(requests: AsyncIterator[bytes], context: Any) -> None:
        await context.abort(Code.CANCELLED, "not now")

    async def scenario() -> None:
        async with relaying(tmp_path, pki) as relay, teaching(relay, cancel):
            error = await refused(relay, pki.site("site-a"), b"x")

            assert (error.code(), error.details()) == (Code.CANCELLED, "not now")

    asyncio.run(scenario())


def test_a_deadline_passes_to_the_teacher(tmp_path: Path, pki: Pki) -> None:
    left: list[float] = []
    ended, seconds = asyncio.Event(), promised(3)

    async def hang(requests: AsyncIterator[bytes], context: Any) -> None:
        left.append(context.time_remaining())
        try:
            await asyncio.sleep(WAIT_SECONDS)
        finally:
            ended.set()

    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki) as relay,
            teaching(relay, hang),
            relay.channel(pki.site("site-a")) as channel,
        ):
            method = channel.unary_unary(SERVICE + "Budget")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(
                    b"", metadata=(("moma-teacher", "teacher-a"),), timeout=seconds
                )
            async with asyncio.timeout(WAIT_SECONDS):
                await ended.wait()

            assert caught.value.code() is Code.DEADLINE_EXCEEDED
            assert 0 < left[0] < seconds + 1  # gRPC rounds

    asyncio.run(scenario())
