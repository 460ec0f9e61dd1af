"""Who may use the relay, and as whom: each attempt that must fail."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from moma_core.pki.certificates import Credential
from moma_proto.v1 import relay_pb2 as pb
from moma_server.relay.server import RelaySettings
from tests.support.federation.pki import Pki
from tests.support.machine.waiting import until
from tests.support.relay.world import (
    SERVICE,
    WAIT_SECONDS,
    echo,
    exchange,
    linked_agent,
    now,
    refused,
    relaying,
    start,
    teaching,
)

Code = grpc.StatusCode
LINK = "/moma.v1.RelayService/Link"


@pytest.mark.parametrize("method", [SERVICE + "Embed", LINK])
@pytest.mark.parametrize("credential", [None, Pki().site("site-a")])
def test_without_a_certificate_of_the_federation_nothing_is_served(
    tmp_path: Path, pki: Pki, method: str, credential: Credential | None
) -> None:
    async def scenario() -> None:
        async with relaying(tmp_path, pki) as relay, teaching(relay, echo):
            error = await refused(relay, credential, b"x", method=method)
            assert error.code() is Code.UNAVAILABLE  # the handshake fails
            assert relay.links == {"teacher-a": 1}

    asyncio.run(scenario())


def test_a_site_may_not_link_whatever_its_name(tmp_path: Path, pki: Pki) -> None:
    async def scenario() -> None:
        async with relaying(tmp_path, pki) as relay:
            error = await refused(relay, pki.site("teacher-a"), method=LINK)

            assert error.code() is Code.UNAUTHENTICATED
            assert relay.links == {}

    asyncio.run(scenario())


def test_a_teacher_may_not_ask(tmp_path: Path, pki: Pki) -> None:
    async def scenario() -> None:
        async with relaying(tmp_path, pki) as relay, teaching(relay, echo):
            error = await refused(relay, pki.issue("teacher", "site-a"), b"x")

            assert error.code() is Code.UNAUTHENTICATED

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "method",
    ["/moma.v1.EnrolmentService/Enrol", "/moma.v1.TeacherService/../x", "/a.B/C"],
)
def test_a_method_that_is_not_on_the_list_is_not_relayed(
    tmp_path: Path, pki: Pki, method: str
) -> None:
    async def scenario() -> None:
        async with relaying(tmp_path, pki) as relay, teaching(relay, echo):
            error = await refused(relay, pki.site("site-a"), b"x", method=method)

            assert error.code() is Code.UNIMPLEMENTED

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ((), Code.INVALID_ARGUMENT),
        ((("moma-teacher", "../../x"),), Code.INVALID_ARGUMENT),
        ((("moma-teacher", "teacher-a"), ("moma-thread", "?")), Code.INVALID_ARGUMENT),
        ((("moma-teacher", "teacher-x"),), Code.PERMISSION_DENIED),
    ],
)
def test_a_call_for_nobody_is_refused_and_not_as_a_lost_session(
    tmp_path: Path, pki: Pki, metadata: tuple[tuple[str, str], ...], code: Code
) -> None:
    async def scenario() -> None:
        async with relaying(tmp_path, pki) as relay, teaching(relay, echo):
            error = await refused(relay, pki.site("site-a"), b"x", metadata=metadata)

            assert error.code() is code

    asyncio.run(scenario())


def test_a_teacher_of_another_name_does_not_get_the_calls(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        asked: list[bytes] = []

        async def listen(requests: AsyncIterator[bytes], context: Any) -> None:
            async for message in requests:
                asked.append(message)

        async with (
            relaying(tmp_path, pki) as relay,
            teaching(relay, listen, name="teacher-b"),
        ):
            error = await refused(relay, pki.site("site-a"), b"for teacher-a alone")

            assert error.code() is Code.UNAVAILABLE
            assert "grpc-retry-pushback-ms" in dict(error.trailing_metadata())
            assert asked == []

    asyncio.run(scenario())


@pytest.mark.parametrize("who", ["site-a", "teacher-a"])
def test_a_revoked_party_is_cut_off_in_the_middle_and_at_its_next_call(
    tmp_path: Path, pki: Pki, who: str
) -> None:
    async def scenario() -> None:
        site, teacher = pki.site("site-a"), pki.issue("teacher", "teacher-a")
        async with (
            relaying(tmp_path, pki) as relay,
            teaching(relay, echo, credential=teacher),
            relay.channel(site) as channel,
        ):
            call = start(channel)
            await exchange(call, b"x")

            relay.revoke(site if who == "site-a" else teacher)

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with asyncio.timeout(5):
                    await call.read()
            later = await refused(relay, site, b"x")
            is_site = who == "site-a"
            code = Code.UNAUTHENTICATED if is_site else Code.UNAVAILABLE
            assert caught.value.code() is code
            assert later.code() is code
            assert relay.links == ({"teacher-a": 1} if is_site else {})

    asyncio.run(scenario())


def test_certificates_that_expire_end_call_and_link(tmp_path: Path, pki: Pki) -> None:
    async def scenario() -> None:
        late = timedelta(0)
        site = pki.site("site-a", lifetime=timedelta(days=2))
        async with (
            relaying(tmp_path, pki, clock=lambda: now() + late) as relay,
            teaching(relay, echo),
            relay.channel(site) as channel,
        ):
            call = start(channel)
            await exchange(call, b"x")

            late = timedelta(days=3)

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with asyncio.timeout(5):
                    await call.read()
            assert caught.value.code() is Code.UNAUTHENTICATED
            assert "expired" in (caught.value.details() or "")
            assert relay.links == {"teacher-a": 1}
            late = timedelta(days=31)
            await until(lambda: relay.links == {})

    asyncio.run(scenario())


def test_a_flood_of_calls_ends_at_the_sites_share(tmp_path: Path, pki: Pki) -> None:
    async def scenario() -> None:
        settings = RelaySettings(calls_per_peer=4, sweep_seconds=0.2)
        async with (
            relaying(tmp_path, pki, settings) as relay,
            teaching(relay, echo),
            relay.channel(pki.site("site-a")) as one,
            relay.channel(pki.site("site-b")) as other,
        ):
            calls = [start(one) for _ in range(4)]
            for call in calls:
                await exchange(call, b"x")

            error = await refused(relay, pki.site("site-a"), b"x")

            assert error.code() is Code.RESOURCE_EXHAUSTED
            assert await exchange(start(other), b"y") == [b"y"]
            for call in calls:
                call.cancel()

    asyncio.run(scenario())


def http2(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns a frame of HTTP/2."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


SETTINGS = http2(4, 0, 0)
HEADERS = http2(1, 4, 1, b"\x88\x0f\x10\x10application/grpc")  # of the first call
MESSAGE = b"\0" + (2**20 - 5).to_bytes(4, "big") + b"x" * (2**20 - 5)
DATA = [http2(0, 0, 1, MESSAGE[at : at + 2**14]) for at in range(0, 2**20, 2**14)]


@pytest.mark.parametrize(
    "content",
    [b"this is not HTTP/2", b"x" * 2_000_000],
    ids=["no HTTP/2", "long frame"],
)
def test_a_teacher_that_breaks_the_rules_is_cut_off(
    tmp_path: Path, pki: Pki, content: bytes
) -> None:
    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki) as relay,
            relay.channel(pki.issue("teacher", "teacher-a")) as rogue,
            relay.channel(pki.site("site-a")) as channel,
        ):
            link, call = await called(rogue, channel)

            async with asyncio.timeout(WAIT_SECONDS):
                await link.write(pb.TeacherFrame(content=content))
                await until(lambda: relay.links == {})
                with suppress(grpc.aio.AioRpcError):
                    while await call.read():
                        pass
                assert await call.code() is Code.UNAVAILABLE
            assert relay.server.forwarder.quota.most < 2**25 + 2**23
            assert relay.server.forwarder.quota.now == 0

    asyncio.run(scenario())


def test_what_a_teacher_sends_beyond_the_window_is_not_held(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki) as relay,
            relay.channel(pki.issue("teacher", "teacher-a")) as rogue,
            relay.channel(pki.site("site-a")) as channel,
        ):
            link, call = await called(rogue, channel)
            await link.write(pb.TeacherFrame(content=HEADERS))
            before = resident_bytes()

            for content in DATA * 64:
                await link.write(pb.TeacherFrame(content=content))

            assert resident_bytes() - before < 2**25  # of 2**26 that were sent
            assert relay.server.forwarder.quota.most < 2**25 + 2**23
            call.cancel()
            await until(lambda: relay.server.forwarder.quota.now == 0)

    asyncio.run(scenario())


def test_a_teacher_whose_frame_is_not_readable_is_told_and_not_linked_any_more(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with (
            relaying(tmp_path, pki) as relay,
            relay.channel(pki.issue("teacher", "teacher-a")) as rogue,
        ):
            link = rogue.stream_stream(LINK)()
            await link.read()
            assert relay.links == {"teacher-a": 1}

            await link.write(b"\x0a\xff")

            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await read_to_the_end(link)
            assert raised.value.code() is Code.INVALID_ARGUMENT
            await until(lambda: relay.links == {})

    asyncio.run(scenario())
    assert "unexpected" not in caplog.text


async def read_to_the_end(call: Any) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while await call.read() is not grpc.aio.EOF:
            pass


def resident_bytes() -> int:
    """Returns how much memory this process has, in which all parties are."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def called(rogue: Any, channel: Any) -> tuple[Any, Any]:
    """Links a teacher that has no server, and has a site call it."""
    link = rogue.stream_stream(
        LINK,
        request_serializer=pb.TeacherFrame.SerializeToString,
        response_deserializer=pb.RelayFrame.FromString,
    )()
    await link.read()
    await link.write(pb.TeacherFrame(content=SETTINGS))
    call = start(channel)
    await call.write(b"x")
    async with asyncio.timeout(WAIT_SECONDS):
        while b"Embed" not in (await link.read()).content:
            pass
    return link, call


@pytest.mark.parametrize(
    "credential",
    [
        lambda pki: pki.server("coordinator", "teacher"),
        lambda pki: pki.server("site-a", "site"),
        lambda pki: pki.issue("coordinator", "coordinator", hosts=("example.org",)),
        lambda pki: Pki().issue("coordinator", "coordinator", hosts=("localhost",)),
    ],
    ids=["a teacher", "a site", "other host", "other authority"],
)
def test_a_teacher_links_to_no_one_but_its_coordinator(
    tmp_path: Path, pki: Pki, credential: Any
) -> None:
    async def scenario() -> None:
        heard: list[str] = []

        class Impostor(grpc.GenericRpcHandler):
            def service(self, handler_call_details: Any) -> Any:
                heard.append(handler_call_details.method)

        shown = credential(pki)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Impostor(),))
        credentials = grpc.ssl_server_credentials([(shown.key_pem, shown[0])])
        port = server.add_secure_port("localhost:0", credentials)
        await server.start()
        own = pki.issue("teacher", "teacher-a")
        async with linked_agent(tmp_path, own, pki, port, tmp_path / "none") as end:
            await asyncio.sleep(1)
            assert (end.links, heard) == (0, [])
        await server.stop(0)

    asyncio.run(scenario())
