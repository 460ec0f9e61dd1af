"""A relay on loopback, teachers that dial in, and a server of bytes behind them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from moma_core.network.proxy import DIRECT
from moma_core.pki import revocations
from moma_core.pki.certificates import Credential
from moma_core.pki.identity import read_peer
from moma_core.pki.renewal import IdentityFiles
from moma_server.metrics.metrics import RelayMetrics
from moma_server.relay.agent import LinkLimits, RelayAgent
from moma_server.relay.dial import RelayAddress, dial
from moma_server.relay.limits import RelayBounds
from moma_server.relay.server import SERVED, RelayServer, RelaySettings
from moma_server.rpc.authorization import CertificateAuthorization
from moma_server.rpc.tls import TlsCredentials
from tests.support.federation.pki import CredentialFiles, Pki
from tests.support.machine.capture import recorded
from tests.support.machine.waiting import until

WAIT_SECONDS = 120.0
SERVICE = "/moma.v1.TeacherService/"
QUICK = LinkLimits(first_pause_seconds=0.05, longest_pause_seconds=0.3)

Behaviour = Callable[[AsyncIterator[bytes], Any], Awaitable[None]]
Clock = Callable[[], datetime]


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Relay:
    """A running relay and what a test needs of it."""

    server: RelayServer
    port: int
    pki: Pki
    folder: Path
    registry: CollectorRegistry
    links: dict[str, int] = field(default_factory=dict)

    def channel(self, credential: Credential | None, api: Any = grpc.aio) -> Any:
        key, chain = (
            (credential.key_pem, credential.certificate_pem)
            if credential
            else (None, None)
        )
        credentials = grpc.ssl_channel_credentials(self.pki.ca_pem, key, chain)
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        return api.secure_channel(f"localhost:{self.port}", credentials, options)

    def revoke(self, credential: Credential) -> None:
        peer = read_peer(credential.certificate_pem)
        revocations.revoke(
            self.folder / "revoked.json",
            serial=peer.serial,
            name=peer.name,
            now=now(),
        )

    def relayed_bytes(self, site: str, direction: str) -> float:
        labels = {"site": site, "teacher": "teacher-a", "direction": direction}
        value = self.registry.get_sample_value("moma_relay_bytes_total", labels)
        return value or 0.0


@asynccontextmanager
async def relaying(
    folder: Path,
    pki: Pki,
    settings: RelaySettings | None = None,
    *,
    clock: Clock = now,
    known: tuple[str, ...] = ("teacher-a", "teacher-b"),
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
) -> AsyncIterator[Relay]:
    """Runs the coordinator's relay."""
    files = pki.write(
        folder / "coordinator",
        pki.issue("coordinator", "coordinator", hosts=hosts),
    )
    revocations.start(folder / "revoked.json")
    registry = CollectorRegistry()
    links: dict[str, int] = {}

    def note(changed: dict[str, int]) -> None:
        links.clear()
        links.update(changed)

    server = RelayServer(
        settings or RelaySettings(sweep_seconds=0.2),
        RelayMetrics(registry),
        CertificateAuthorization(
            federation=pki.federation,
            revoked=revocations.Revocations(folder / "revoked.json"),
            served=SERVED,
            clock=clock,
        ),
        TlsCredentials(tls_files(files)),
        is_known=lambda name: name in known,
        on_change=note,
    )
    port = await server.start()
    try:
        yield Relay(server, port, pki, folder, registry, links)
    finally:
        await server.stop(grace_seconds=0.2)


def tls_files(files: CredentialFiles) -> IdentityFiles:
    return IdentityFiles(files.certificate, files.key, files.ca)


@asynccontextmanager
async def linked_agent(
    folder: Path,
    credential: Credential,
    pki: Pki,
    port: int,
    socket: Path,
    **options: Any,
) -> AsyncIterator[RelayAgent]:
    """Links a teacher's server on `socket` to the relay on `port`."""
    bounds = options.get("bounds", RelayBounds())
    address = RelayAddress(
        address=options.get("address", f"localhost:{port}"),
        files=tls_files(pki.write(folder, credential)),
        revoked=(),
        clock=now,
        seconds=5.0,
        proxy=options.get("proxy", DIRECT),
    )
    agent = RelayAgent(
        recorded(lambda: dial(address, bounds), options.get("frames", [])),
        socket,
        bounds,
        options.get("limits", QUICK),
        Random(0),
    )
    stop = asyncio.Event()
    running = asyncio.create_task(agent.run(stop, grace_seconds=1.0))
    try:
        yield agent
    finally:
        stop.set()
        await running


@asynccontextmanager
async def teaching(
    relay: Relay, behaviour: Behaviour, name: str = "teacher-a", **options: Any
) -> AsyncIterator[RelayAgent]:
    """Serves bytes behind the relay, under a teacher's name."""
    folder = relay.folder / options.pop("folder", name)
    folder.mkdir()
    socket = folder / "relayed.sock"
    credential = options.pop("credential", None) or relay.pki.issue("teacher", name)
    known = relay.links.get(name, 0)
    async with (
        bytes_server(socket, behaviour),
        linked_agent(
            folder, credential, relay.pki, relay.port, socket, **options
        ) as end,
    ):
        await until(lambda: relay.links.get(name, 0) > known)
        yield end
    # or the next one to come is counted while this one still is
    with suppress(TimeoutError):
        await until(lambda: relay.links.get(name, 0) <= known)


@asynccontextmanager
async def bytes_server(socket: Path, behaviour: Behaviour) -> AsyncIterator[None]:
    """Runs a server that takes every method as bytes, on a Unix-domain socket."""
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.http2.lookahead_bytes", 2**22),  # of a call that it does not read
    ]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((_Any(behaviour),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


class _Any(grpc.GenericRpcHandler):
    def __init__(self, behaviour: Any) -> None:
        self._behaviour = behaviour

    def service(self, handler_call_details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._behaviour)


async def echo(requests: AsyncIterator[bytes], context: Any) -> None:
    """Says what it is told."""
    async for message in requests:
        await context.write(message)


def start(channel: Any, method: str = "Embed", teacher: str = "teacher-a") -> Any:
    """Starts a call of bytes, as a site would."""
    call = channel.stream_stream(SERVICE + method)
    return call(metadata=(("moma-teacher", teacher),))


async def exchange(call: Any, *messages: bytes) -> list[bytes]:
    """Sends messages one after the other, and returns an answer to each."""
    answers = []
    async with asyncio.timeout(WAIT_SECONDS):
        for message in messages:
            await call.write(message)
            answers.append(await call.read())
    return answers


async def refused(
    relay: Relay,
    credential: Credential | None,
    *messages: bytes,
    method: str = SERVICE + "Embed",
    metadata: tuple[tuple[str, str], ...] = (("moma-teacher", "teacher-a"),),
) -> Any:
    """Makes a call that must fail, and returns how it did; see `refusal`."""

    def blocking() -> Any:
        with relay.channel(credential, grpc) as channel:
            call = channel.stream_stream(method)
            try:
                answers = list(
                    call(iter(messages), metadata=metadata, timeout=WAIT_SECONDS)
                )
            except grpc.RpcError as error:
                return error
        raise AssertionError(f"{len(answers)} answers, no refusal")

    return await asyncio.to_thread(blocking)
