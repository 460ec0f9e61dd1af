"""How many connections the relay takes, and for how long one may be still."""

import asyncio
from datetime import timedelta
from pathlib import Path

import grpc

from moma_server.relay.server import RelaySettings
from moma_server.rpc.limits import ConnectionBounds
from moma_server.teacher.settings import TeacherServerSettings
from tests.support.federation.pki import Pki
from tests.support.machine.waiting import until
from tests.support.relay.world import (
    echo,
    exchange,
    linked_agent,
    refused,
    relaying,
    start,
    teaching,
)
from tests.support.teacher.teacher_server import MeanColour, serving


def test_a_connection_too_many_is_hung_up_on_until_another_ends(tmp_path: Path) -> None:
    pki = Pki()
    bounds = ConnectionBounds(count=2)  # the teacher's, and one more

    async def scenario() -> None:
        settings = RelaySettings(connections=bounds)
        async with relaying(tmp_path, pki, settings) as relay, teaching(relay, echo):
            async with relay.channel(pki.site("site-b")) as channel:
                assert await exchange(start(channel), b"x") == [b"x"]

                error = await refused(relay, pki.site("site-a"), b"x")

                assert error.code() is grpc.StatusCode.UNAVAILABLE
            await until(lambda: relay.server.forwarder.open_calls == 0)
            async with relay.channel(pki.site("site-a")) as channel:
                for _ in range(600):  # until the other connection is gone
                    try:
                        assert await exchange(start(channel), b"y") == [b"y"]
                        return
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.1)
            raise AssertionError("the freed place is not given to another")

    asyncio.run(scenario())


def test_a_connection_without_a_call_is_closed_and_a_teachers_link_is_not(
    tmp_path: Path,
) -> None:
    pki = Pki()
    bounds = ConnectionBounds(idle=timedelta(seconds=1))

    async def scenario() -> None:
        settings = RelaySettings(connections=bounds)
        async with (
            relaying(tmp_path, pki, settings) as relay,
            teaching(relay, echo) as end,
            relay.channel(pki.site("site-a")) as channel,
        ):
            call = start(channel)
            await exchange(call, b"x")
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK

            async with asyncio.timeout(120):
                state = channel.get_state()
                while state is grpc.ChannelConnectivity.READY:
                    await channel.wait_for_state_change(state)
                    state = channel.get_state()

            assert end.links == 1
            assert await exchange(start(channel), b"y") == [b"y"]

    asyncio.run(scenario())


def test_a_link_outlives_the_bounds_of_its_teachers_own_connections(
    tmp_path: Path,
) -> None:
    pki, second = Pki(), timedelta(seconds=1)
    socket = tmp_path / "relayed.sock"
    settings = TeacherServerSettings(
        max_patches_per_request=16,
        connections=ConnectionBounds(age=second, grace=second, idle=second),
        relayed_socket=socket,
    )

    async def scenario() -> None:
        own = pki.issue("teacher", "teacher-a")
        async with (
            serving(tmp_path / "teacher", pki, MeanColour(), settings=settings),
            relaying(tmp_path, pki) as relay,
            linked_agent(tmp_path / "own", own, pki, relay.port, socket) as agent,
        ):
            await until(lambda: relay.links == {"teacher-a": 1})
            await asyncio.sleep(4)

            assert relay.links == {"teacher-a": 1}
            assert agent.links == 1

    asyncio.run(scenario())
