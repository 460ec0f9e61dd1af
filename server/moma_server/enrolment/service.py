"""Enrolment and renewal: what a caller may have, decided from its message alone.

A new member shows a token, a member its certificate and a request of the same key. In
either case the name that is granted is the one that the coordinator has on file, and a
request for another is refused. Everything is written down, refusals above all.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from moma_core.errors import CertificateError, MomaError, TeacherBusyError
from moma_core.pki.certificates import check_issued
from moma_core.pki.identity import PeerKind, PeerName, read_peer
from moma_core.pki.revocations import read_revocations, sign_list
from moma_core.runtime.files import Stamp, append_json, make_folder, stat_fingerprint
from moma_proto.v1 import enrolment_pb2 as pb
from moma_proto.v1.enrolment_pb2_grpc import EnrolmentServiceServicer
from moma_server.config.server import ServerConfig
from moma_server.enrolment.interceptor import RateLimiter, address_of
from moma_server.membership.members import (
    admit_member,
    own_files,
    signing_authority,
    token_store,
)
from moma_server.membership.renewal import renew_member
from moma_server.rpc.limits import Context

_logger = logging.getLogger(__name__)

Event = Literal[
    "token-created", "token-revoked", "enrolled", "renewed", "refused", "revoked"
]

REFUSALS = "enrolment-refusals.jsonl"

_LONGEST_FIELD = 300

_LONGEST_BYTES = 16 << 20


_MEMBERS: tuple[PeerKind, ...] = ("site", "teacher")

# So long one signature serves all who ask. Parties count a list's age from it, and may
# bear only a young one.
_LIST_AGE = timedelta(seconds=10)

_RETRY_SECONDS = 60.0


class EnrolmentJournal:
    """The record of enrolments; several processes may add to it.

    Args:
        path: The journal's file; its folder exists.
        clock: Returns the present, with a time zone.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self._path, self._clock = path, clock

    def note(self, event: Event, **facts: str) -> None:
        """Writes one event down, in the journal and in the server's log.

        Args:
            event: What happened.
            facts: For example who, from where, why; long ones are cut.
        """
        shown = {name: value[:_LONGEST_FIELD] for name, value in facts.items()}
        line = {"time": self._clock().isoformat(), "event": event, **shown}
        path = self._path
        if event == "refused":
            path = path.with_name(REFUSALS)
        append_json(path, line, largest_bytes=_LONGEST_BYTES)
        level = logging.WARNING if event == "refused" else logging.INFO
        said = ", ".join(f"{name} {value!r}" for name, value in shown.items())
        _logger.log(level, "enrolment: %s, %s", event, said)


class _SignedList(NamedTuple):
    """A list that was given out, when it was made, and of which file."""

    der: bytes
    made_at: datetime
    stamp: Stamp | None


class EnrolmentService:
    """Serves one coordinator's federation; safe to use from several threads.

    Args:
        config: Config of the coordinator's server.
        clock: Returns the present, with a time zone.
    """

    def __init__(self, config: ServerConfig, clock: Callable[[], datetime]) -> None:
        self._config, self._clock = config, clock
        self._tokens = token_store(config)
        self._journal = enrolment_journal(config, clock)
        self._list: _SignedList | None = None
        self._signing = threading.Lock()
        signing_authority(config)  # fail now, not at the first call

    def authority(self) -> bytes:
        """Returns the federation's CA certificate, PEM."""
        return self._config.authority.certificate.read_bytes()

    def enrol(
        self,
        identifier: str,
        secret: bytes,
        *,
        request: bytes,
        node_key: bytes,
        caller: str,
    ) -> bytes:
        """Returns a certificate, PEM, for a token and spends it.

        Args:
            identifier: Identifier of the token.
            secret: Secret of the token.
            request: The CSR, PEM.
            node_key: A site's public node key; empty for a teacher.
            caller: The caller's address, for the journal.

        Raises:
            NotAuthorizedError: The token is not good.
            CertificateError: The request claims what the token does not grant.
            ConfigError: The coordinator's own files are not in order.
        """
        facts = {**self._named(identifier), "caller": caller}
        spending = self._tokens.spending(identifier, secret, now=self._clock())
        with self._noted(facts), spending as (record, spend):

            def granted() -> None:
                # first, so that a disk that is full by then costs no token
                self._journal.note("enrolled", token=record.identifier, **facts)
                spend()

            return admit_member(
                self._config,
                PeerName(self._config.federation, record.kind, record.name),
                request=request,
                node_key=node_key or None,
                hosts=record.hosts,
                on_filed=granted,
            )

    def renew(self, certificate: bytes, request: bytes, *, caller: str) -> bytes:
        """Returns the next certificate, PEM, of a member that shows its current one.

        Raises:
            NotAuthorizedError: It is expired, revoked, or none of ours.
            CertificateError: The request is of another key or name.
        """
        facts = {"kind": "", "name": "", "caller": caller}
        with self._noted(facts):
            if self.is_issued(certificate):  # else the name is anybody's to write
                peer = read_peer(certificate)
                facts |= {"kind": peer.kind, "name": peer.name}
            renewed = renew_member(self._config, certificate, request, kinds=_MEMBERS)
        self._journal.note("renewed", **facts)
        return renewed

    def is_issued(self, certificate: bytes) -> bool:
        """Whether our CA signed a certificate, be it expired or revoked."""
        try:
            check_issued(certificate, self.authority())
        except CertificateError:
            return False
        return True

    def revoked(self) -> bytes:
        """Returns the signed list of what was revoked, DER.

        It is signed anew once the file has changed, and when it is no longer young.

        Raises:
            ConfigError: The coordinator's own list is damaged.
        """
        path = self._config.authority.revoked
        with self._signing:  # one signs, and the others take what it signed
            now, stamp = self._clock(), None
            with suppress(OSError):  # reading it says what is wrong
                stamp = stat_fingerprint(path)
            if self._list is None or not _serves(self._list, stamp, now):
                with own_files():
                    entries = read_revocations(path)
                signed = sign_list(entries, signing_authority(self._config), now=now)
                self._list = _SignedList(signed, now, stamp)
            return self._list.der

    def _named(self, identifier: str) -> dict[str, str]:
        known = self._tokens.find(identifier)
        return {"kind": known.kind, "name": known.name} if known else {}

    @contextmanager
    def _noted(self, facts: dict[str, str]) -> Iterator[None]:
        try:
            yield
        except MomaError as error:
            self._journal.note("refused", **facts, reason=str(error))
            raise


def _serves(signed: _SignedList, stamp: Stamp | None, now: datetime) -> bool:
    # not where the clock went back: a list of times to come is believed by nobody
    is_young = timedelta(0) <= now - signed.made_at <= _LIST_AGE
    return is_young and stamp is not None and stamp == signed.stamp


def enrolment_journal(
    config: ServerConfig, clock: Callable[[], datetime]
) -> EnrolmentJournal:
    """Returns the journal of a coordinator's enrolments."""
    make_folder(config.state_dir)
    return EnrolmentJournal(config.state_dir / "enrolments.jsonl", clock)


class EnrolmentServicer(EnrolmentServiceServicer):
    """`EnrolmentService` on the wire, see enrolment.proto.

    Its errors are mapped to gRPC's by `EnrolmentInterceptor`.

    Args:
        service: Decides what a caller may have.
        tries: The rate limit; a stranger's try takes from the bucket of all as well.
    """

    def __init__(self, service: EnrolmentService, tries: RateLimiter) -> None:
        self._service, self._tries = service, tries

    async def Authority(
        self, _request: pb.AuthorityRequest, _context: Context
    ) -> pb.AuthorityResponse:
        """Returns the CA certificate."""
        pem = await asyncio.to_thread(self._service.authority)
        return pb.AuthorityResponse(certificate_pem=pem)

    async def Enrol(
        self, request: pb.EnrolRequest, context: Context
    ) -> pb.EnrolResponse:
        """Returns a certificate for a token."""
        self._take_strangers_try()
        pem = await asyncio.to_thread(
            self._service.enrol,
            request.token_id,
            request.secret,
            request=request.csr_pem,
            node_key=request.node_key,
            caller=address_of(context.peer()),
        )
        return pb.EnrolResponse(certificate_pem=pem)

    async def Renew(
        self, request: pb.RenewRequest, context: Context
    ) -> pb.RenewResponse:
        """Returns the next certificate of a member."""
        if not await asyncio.to_thread(
            self._service.is_issued, request.certificate_pem
        ):
            self._take_strangers_try()
        pem = await asyncio.to_thread(
            self._service.renew,
            request.certificate_pem,
            request.csr_pem,
            caller=address_of(context.peer()),
        )
        return pb.RenewResponse(certificate_pem=pem)

    async def RevokedCertificates(
        self, _request: pb.RevokedCertificatesRequest, _context: Context
    ) -> pb.RevokedCertificatesResponse:
        """Returns the signed list of what was revoked."""
        der = await asyncio.to_thread(self._service.revoked)
        return pb.RevokedCertificatesResponse(list_der=der)

    def _take_strangers_try(self) -> None:
        if not self._tries.allows_strangers():
            text = "too many tries of all, try again in a minute"
            raise TeacherBusyError(text, _RETRY_SECONDS)
