import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core.errors import TeacherBusyError, TeacherUnavailableError
from moma_proto.v1 import relay_pb2 as pb
from moma_server.relay.flow_control import Incoming, Outgoing
from moma_server.relay.limits import CHUNK_COST_BYTES, HeldBytes, RelayBounds

BOUNDS = RelayBounds(chunk_bytes=1000, window_bytes=5000, message_bytes=20_000)


def nothing() -> None:
    """Wakes nobody."""


async def passed(
    messages: list[bytes], sender: HeldBytes, receiver: HeldBytes
) -> list[bytes]:
    """Sends messages from one end to the other and returns what arrived."""
    outgoing = Outgoing(BOUNDS, sender, nothing)
    incoming = Incoming(BOUNDS, receiver, nothing)

    async def send() -> None:
        for message in messages:
            await outgoing.send(message)

    async def receive() -> list[bytes]:
        return [message async for message in taken(incoming)]

    sending = asyncio.create_task(send())
    receiving = asyncio.create_task(receive())
    while not sending.done():
        await asyncio.sleep(0)
        if (part := outgoing.next_chunk()) is not None:
            incoming.push(part)
        if credit := incoming.credit_due():
            outgoing.give_room(credit)
    incoming.close()
    return await receiving


async def taken(incoming: Incoming) -> AsyncIterator[bytes]:
    while (message := await incoming.receive()) is not None:
        yield message


@given(st.lists(st.integers(0, 20_000), max_size=8))
def test_messages_of_any_length_arrive_as_they_left_and_within_the_window(
    sizes: list[int],
) -> None:
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]
    sender, receiver = HeldBytes(10**6), HeldBytes(10**6)

    assert asyncio.run(passed(messages, sender, receiver)) == messages
    assert (sender.now, receiver.now) == (0, 0)


def test_a_sender_without_credit_waits_after_a_window() -> None:
    async def scenario() -> None:
        outgoing = Outgoing(BOUNDS, HeldBytes(10**6), nothing)
        sending = asyncio.create_task(outgoing.send(b"x" * 20_000))
        await asyncio.sleep(0)

        left = []
        while (part := outgoing.next_chunk()) is not None:
            left.append(len(part.content) + CHUNK_COST_BYTES)
        assert sum(left) <= 5000
        assert not sending.done()

        outgoing.stop(TeacherUnavailableError("lost"))
        with pytest.raises(TeacherUnavailableError, match="lost"):
            await sending

    asyncio.run(scenario())


def test_what_is_dropped_is_given_back() -> None:
    async def scenario() -> None:
        shared = HeldBytes(10_000)
        account = HeldBytes(10_000, shared)
        incoming = Incoming(BOUNDS, account, nothing)
        incoming.push(pb.RelayChunk(content=b"x" * 1000, is_last=True))
        incoming.push(pb.RelayChunk(content=b"y" * 500))
        assert await incoming.receive() == b"x" * 1000
        assert (account.now, shared.now) == (1500, 1500)

        incoming.stop(TeacherUnavailableError("lost"))

        assert (account.now, shared.now) == (0, 0)
        with pytest.raises(TeacherUnavailableError, match="lost"):
            await incoming.receive()

    asyncio.run(scenario())


def test_an_account_refuses_before_its_ceiling_and_notes_nothing() -> None:
    shared = HeldBytes(100)
    one, other = HeldBytes(80, shared), HeldBytes(80, shared)
    one.take(70)

    with pytest.raises(TeacherBusyError):
        other.take(40)
    with pytest.raises(TeacherBusyError):
        one.take(11)

    assert (one.now, other.now, shared.now) == (70, 0, 70)
    one.give(70)
    assert (one.now, shared.now, shared.most) == (0, 0, 70)
