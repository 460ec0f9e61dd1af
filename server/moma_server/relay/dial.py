"""A teacher's way to the coordinator's relay: mutual TLS with the one that was meant.

Python's gRPC shows a server's certificate to nobody, so a look at who answers goes
ahead; the channel then trusts that one certificate. Each dial does so again and reads
the teacher's own files again, so renewals on either side need no restart.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc

from moma_core.errors import (
    CertificateError,
    NotAuthorizedError,
    TeacherUnavailableError,
    printable_line,
)
from moma_core.network.proxy import DIRECT, ProxyRule
from moma_core.pki.identity import PeerKind, authorize, read_peer
from moma_core.pki.key_files import open_key
from moma_core.pki.renewal import IdentityFiles
from moma_core.pki.tls_probe import LOOK_SECONDS, shown_certificate
from moma_proto.channel import channel_target
from moma_proto.v1 import relay_pb2 as pb
from moma_proto.v1.relay_pb2_grpc import RelayServiceStub
from moma_server.relay.limits import RelayBounds

_COORDINATORS: tuple[PeerKind, ...] = ("coordinator",)
_ENVELOPE_BYTES = 64 * 1024
_LONGEST_DETAILS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAddress:
    """Where the relay is, and what the teacher shows it.

    Args:
        address: `host:port`; the host is checked against the certificate there.
        files: Certificate and key of the teacher, and the federation's CA.
        revoked: Serials of the revoked certificates.
        clock: Gives the present, with a time zone.
        seconds: Time for the first handshake.
        proxy: Whether the way leads through a proxy.
    """

    address: str
    files: IdentityFiles
    revoked: Container[int]
    clock: Callable[[], datetime]
    seconds: float = LOOK_SECONDS
    proxy: ProxyRule = DIRECT


class RelayFrames:
    """The stream at the teacher.

    Args:
        call: `RelayService.Link`, under way.
    """

    def __init__(self, call: Any) -> None:  # noqa: ANN401 a stub's call
        self._call = call
        self._turn = asyncio.Lock()

    async def read(self) -> bytes | None:
        """Returns the content of the coordinator's next frame, None at the end.

        Raises:
            NotAuthorizedError: The coordinator turned this teacher away.
            TeacherUnavailableError: The stream was lost.
        """
        with _own_errors():
            frame = await self._call.read()
        return frame.content if isinstance(frame, pb.RelayFrame) else None

    async def write(self, content: bytes, /) -> None:
        """Returns when a frame is under way; raises as `read` does."""
        await self._write(pb.TeacherFrame(content=content))

    async def leave(self) -> None:
        """Asks the coordinator for no new calls; raises as `read` does."""
        await self._write(pb.TeacherFrame(is_leaving=True))

    async def _write(self, frame: pb.TeacherFrame) -> None:
        with _own_errors():
            async with self._turn:
                await self._call.write(frame)


@asynccontextmanager
async def dial(at: RelayAddress, bounds: RelayBounds) -> AsyncIterator[RelayFrames]:
    """Opens a link for as long as the block runs.

    Raises:
        FederationError: Nobody answers there.
        ConfigError: Another port of the coordinator answers.
        NotAuthorizedError: Who answers is no coordinator of this federation.
        CertificateError: The teacher's own files are not acceptable.
    """
    credentials = await asyncio.to_thread(_credentials, at)
    target, options = channel_target(
        at.address,
        at.proxy,
        [("grpc.max_receive_message_length", bounds.frame_bytes + _ENVELOPE_BYTES)],
    )
    async with grpc.aio.secure_channel(target, credentials, options) as channel:
        link: Any = RelayServiceStub(channel).Link
        call = link()
        try:
            yield RelayFrames(call)
        finally:
            call.cancel()


def _credentials(at: RelayAddress) -> grpc.ChannelCredentials:
    try:
        certificate = at.files.certificate.read_bytes()
        key = open_key(at.files.key, at.files.passphrase_file)
        authority = at.files.authority.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read the teacher's own {error}") from None
    own = read_peer(certificate)
    shown = shown_certificate(
        at.address, authority, seconds=at.seconds, proxy=at.proxy, service="relay"
    )
    authorize(
        shown,
        now=at.clock(),
        revoked=at.revoked,
        federation=own.federation,
        kinds=_COORDINATORS,
    )
    return grpc.ssl_channel_credentials(shown, key, certificate)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raises the project's errors in place of gRPC's."""
    try:
        yield
    except asyncio.InvalidStateError:
        raise TeacherUnavailableError("the relay has ended the link") from None
    except grpc.aio.AioRpcError as error:
        reason = error.details() or "no reason given"
        shown = printable_line(reason, _LONGEST_DETAILS)
        message = f"the relay answered {error.code().name}: {shown}"
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise NotAuthorizedError(message) from None
        raise TeacherUnavailableError(message) from None
