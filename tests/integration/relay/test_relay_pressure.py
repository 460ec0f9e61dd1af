"""What the relay holds while one end is slow, and when a replica dies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from moma_server.relay.agent import LinkLimits
from moma_server.relay.limits import RelayBounds
from moma_server.relay.server import RelaySettings
from tests.support.federation.pki import Pki
from tests.support.machine.cuttable import cuttable
from tests.support.machine.waiting import promised, until
from tests.support.relay.world import (
    WAIT_SECONDS,
    Behaviour,
    echo,
    exchange,
    linked_agent,
    refused,
    relaying,
    start,
    teaching,
)

Code = grpc.StatusCode
MIB = 2**20
SMALL_REQUESTS = RelaySettings(bounds=RelayBounds(request_bytes=2 * MIB))


async def settled(count: Any) -> int:
    """Returns a figure that has stopped to grow."""
    last = -1
    while last != count():
        last = count()
        await asyncio.sleep(1)
    return last


def test_a_teacher_that_does_not_read_holds_the_site_back(
    tmp_path: Path, pki: Pki
) -> None:
    go_on = asyncio.Event()

    async def slow(requests: AsyncIterator[bytes], context: Any) -> None:
        await go_on.wait()
        total = 0
        async for message in requests:
            total += len(message)
        await context.write(str(total).encode())

    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki, SMALL_REQUESTS) as relay,
            teaching(relay, slow),
            relay.channel(pki.site("site-a")) as channel,
        ):
            call = start(channel)
            sent = 0

            async def send() -> None:
                nonlocal sent
                for _ in range(64):
                    await call.write(b"x" * MIB)
                    sent += 1
                await call.done_writing()

            sending = asyncio.create_task(send())
            assert await settled(lambda: sent) < 60  # windows, and gRPC's own
            assert relay.server.forwarder.quota.most <= 3 * MIB

            go_on.set()
            async with asyncio.timeout(6 * WAIT_SECONDS):
                assert await call.read() == str(64 * MIB).encode()
                await sending
            assert relay.server.forwarder.quota.most <= 3 * MIB

    asyncio.run(scenario())


def test_a_site_that_does_not_read_holds_the_teacher_back(
    tmp_path: Path, pki: Pki
) -> None:
    sent = 0

    async def pour(requests: AsyncIterator[bytes], context: Any) -> None:
        nonlocal sent
        for _ in range(64):
            await context.write(b"y" * MIB)
            sent += 1

    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki, SMALL_REQUESTS) as relay,
            teaching(relay, pour),
            relay.channel(pki.site("site-a")) as channel,
        ):
            call = start(channel)
            await call.write(b"go")
            assert await settled(lambda: sent) < 60
            held = relay.server.forwarder.quota
            assert 0 < held.most <= 8 * MIB  # a window, and a message at either end

            async with asyncio.timeout(WAIT_SECONDS):
                answers = [await call.read() for _ in range(64)]
            assert all(answer == b"y" * MIB for answer in answers)
            assert held.most <= 8 * MIB

    asyncio.run(scenario())


def test_more_than_the_relay_may_hold_is_turned_away_until_there_is_room(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        bounds = RelayBounds(
            request_bytes=2 * MIB, site_bytes=7 * MIB, held_bytes=9 * MIB
        )
        async with (
            relaying(tmp_path, pki, RelaySettings(bounds=bounds)) as relay,
            teaching(relay, echo),
            relay.channel(pki.site("site-a")) as channel,
        ):
            # A message that may be half here is counted before it is whole.
            calls = [start(channel) for _ in range(3)]
            for call in calls:
                assert await exchange(call, b"x") == [b"x"]
            held = relay.server.forwarder.quota
            await until(lambda: held.now == 6 * MIB)

            error = await refused(relay, pki.site("site-a"), b"x")

            assert error.code() is Code.RESOURCE_EXHAUSTED
            assert "grpc-retry-pushback-ms" in dict(error.trailing_metadata())
            async with relay.channel(pki.site("site-b")) as other:
                assert await exchange(start(other), b"x") == [b"x"]
            await calls[0].done_writing()
            await until(lambda: held.now == 4 * MIB)
            assert await exchange(start(channel), b"x") == [b"x"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("settings", "idle"),
    [
        (RelaySettings(bounds=RelayBounds(calls=8)), 8),
        (RelaySettings(site_calls=8), 8),
        (
            RelaySettings(
                bounds=RelayBounds(request_bytes=MIB, held_bytes=8 * MIB + 100)
            ),
            8,
        ),
    ],
    ids=["all streams of a teacher", "all calls of the relay", "all that it may hold"],
)
def test_idle_calls_of_greedy_sites_make_room_for_another(
    tmp_path: Path, pki: Pki, settings: RelaySettings, idle: int
) -> None:
    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki, settings) as relay,
            teaching(relay, echo),
            relay.channel(pki.site("site-a")) as one,
            relay.channel(pki.site("site-b")) as two,
            relay.channel(pki.site("site-c")) as modest,
        ):
            greedy = [
                start(channel) for channel in (one, two) for _ in range(idle // 2)
            ]
            for call in greedy:
                assert await exchange(call, b"x") == [b"x"]
            await until(lambda: relay.server.forwarder.open_calls == idle)

            calls: list[Any] = []
            async with asyncio.timeout(WAIT_SECONDS):
                while not calls or not await answered(calls[-1]):
                    calls.append(start(modest))  # the others were not idle for long

            over = [call for call in greedy if call.done()]
            assert len(over) == 1
            assert await over[0].code() is Code.RESOURCE_EXHAUSTED
            assert "grpc-retry-pushback-ms" in dict(await over[0].trailing_metadata())

    asyncio.run(scenario())


async def answered(call: Any) -> bool:
    """Whether a call had room and got an answer; another may have it in a moment."""
    with suppress(grpc.aio.AioRpcError):
        return await exchange(call, b"y") == [b"y"]
    await asyncio.sleep(0.1)
    return False


def test_a_site_does_not_take_room_from_one_that_has_no_more(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        settings = RelaySettings(bounds=RelayBounds(calls=2))
        async with (
            relaying(tmp_path, pki, settings) as relay,
            teaching(relay, echo),
            relay.channel(pki.site("site-a")) as one,
            relay.channel(pki.site("site-b")) as other,
        ):
            kept = [start(one), start(other)]
            for call in kept:
                assert await exchange(call, b"x") == [b"x"]
            await asyncio.sleep(3)  # idle for long

            error = await refused(relay, pki.site("site-b"), b"y")

            assert error.code() is Code.RESOURCE_EXHAUSTED
            for call in kept:
                assert await exchange(call, b"z") == [b"z"]

    asyncio.run(scenario())


def test_a_message_that_is_too_long_is_refused_at_either_end(
    tmp_path: Path, pki: Pki
) -> None:
    async def long_answer(requests: AsyncIterator[bytes], context: Any) -> None:
        await context.write(b"x" * 3 * MIB)

    async def scenario() -> None:
        bounds = RelayBounds(message_bytes=2 * MIB, request_bytes=2 * MIB)
        async with relaying(tmp_path, pki, RelaySettings(bounds=bounds)) as relay:
            async with teaching(relay, echo):
                error = await refused(relay, pki.site("site-a"), b"x" * 3 * MIB)
                assert error.code() is Code.RESOURCE_EXHAUSTED  # gRPC's own bound
            async with teaching(relay, long_answer, folder="long"):
                error = await refused(relay, pki.site("site-a"), b"x")
                assert error.code() is Code.INVALID_ARGUMENT

    asyncio.run(scenario())


def named(name: bytes) -> Behaviour:
    async def answer(requests: AsyncIterator[bytes], context: Any) -> None:
        async for _ in requests:
            await context.write(name)

    return answer


def test_replicas_share_the_calls_and_one_takes_over_from_a_dead_one(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki) as relay,
            AsyncExitStack() as first,
            teaching(relay, named(b"second"), folder="second"),
            relay.channel(pki.site("site-a")) as channel,
        ):
            wire = first.enter_context(cuttable(relay.port))
            await first.enter_async_context(
                teaching(
                    relay,
                    named(b"first"),
                    folder="first",
                    address=f"localhost:{wire.entrance}",
                )
            )
            calls = [start(channel) for _ in range(4)]
            answers = [(await exchange(call, b"?"))[0] for call in calls]
            assert sorted(answers) == [b"first", b"first", b"second", b"second"]

            wire.close()
            await until(lambda: relay.links == {"teacher-a": 1})

            for call, answer in zip(calls, answers, strict=True):
                if answer == b"second":
                    assert await exchange(call, b"?") == [b"second"]
                else:
                    assert await call.code() is Code.UNAVAILABLE
            for _ in range(3):
                assert await exchange(start(channel), b"?") == [b"second"]

    asyncio.run(scenario())


def test_calls_that_belong_together_go_to_one_replica(tmp_path: Path, pki: Pki) -> None:
    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki) as relay,
            teaching(relay, named(b"one"), folder="one"),
            teaching(relay, named(b"two"), folder="two"),
            relay.channel(pki.site("site-a")) as channel,
        ):
            answers = []
            for _ in range(4):
                method = channel.stream_stream("/moma.v1.TeacherService/Embed")
                call = method(
                    metadata=(("moma-teacher", "teacher-a"), ("moma-thread", "aa"))
                )
                answers += await exchange(call, b"?")

            assert len(set(answers)) == 1

    asyncio.run(scenario())


def test_an_old_link_is_replaced_while_its_calls_go_on(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        limits = LinkLimits(age_seconds=1.0, grace_seconds=WAIT_SECONDS)
        async with (
            relaying(tmp_path, pki) as relay,
            teaching(relay, echo, limits=limits) as end,
            relay.channel(pki.site("site-a")) as channel,
        ):
            call = start(channel)
            assert await exchange(call, b"a") == [b"a"]
            await until(lambda: end.links >= 3)

            assert await exchange(call, b"b") == [b"b"]
            assert await exchange(start(channel), b"c") == [b"c"]
            await call.done_writing()
            assert await call.code() is Code.OK

    asyncio.run(scenario())


def test_a_silent_teacher_counts_as_gone(tmp_path: Path, pki: Pki) -> None:
    async def scenario() -> None:
        silence = promised(1.5)
        bounds = RelayBounds(keep_alive_seconds=0.2, silence_seconds=silence)
        settings = RelaySettings(bounds=bounds)
        async with relaying(tmp_path, pki, settings) as relay:
            async with teaching(relay, echo, bounds=bounds):
                await asyncio.sleep(2 * silence)
                assert relay.links == {"teacher-a": 1}  # says that it is there
            async with relay.channel(pki.issue("teacher", "teacher-a")) as channel:
                mute = channel.stream_stream("/moma.v1.RelayService/Link")()
                await mute.read()
                await until(lambda: relay.links == {"teacher-a": 1})
                await until(lambda: relay.links == {})

    asyncio.run(scenario())


def test_a_teacher_waits_longer_and_longer_for_a_relay_that_is_away(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        own = pki.issue("teacher", "teacher-a")
        limits = LinkLimits(first_pause_seconds=0.02, longest_pause_seconds=0.1)
        with cuttable(1) as nobody:
            async with linked_agent(
                tmp_path, own, pki, nobody.entrance, tmp_path / "none", limits=limits
            ):
                await until(lambda: len(caplog.records) >= 5)

    asyncio.run(scenario())
    pauses = [
        record.args[0]
        for record in caplog.records
        if isinstance(record.args, tuple) and isinstance(record.args[0], float)
    ]
    assert all(pause <= 0.1 for pause in pauses)
    assert pauses[3] > pauses[0]


def test_a_teacher_whose_own_server_is_away_is_not_linked(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        own, nobody = pki.issue("teacher", "teacher-a"), tmp_path / "none"
        async with (
            relaying(tmp_path, pki) as relay,
            linked_agent(tmp_path / "own", own, pki, relay.port, nobody) as agent,
        ):
            await until(lambda: "own server does not answer" in caplog.text)
            assert agent.links == 0
            await until(lambda: relay.links == {})

    asyncio.run(scenario())
