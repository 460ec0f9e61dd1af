"""`EnrolmentService` on the wire: bounds first, then the desk, then one sentence."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import grpc

from moma_core.errors import CertificateError, ConfigError, MomaError, RefusedError
from moma_proto.v1 import enrolment_pb2 as pb
from moma_proto.v1.enrolment_pb2_grpc import EnrolmentServiceServicer
from moma_server.enrolment.bounds import TryBounds, address_of
from moma_server.enrolment.desk import EnrolmentDesk

Context = grpc.aio.ServicerContext[Any, Any]
_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

_TLS_VERSION = b"TLSv1.3"
_TOLD_EVERY = 100  # refusals of a flood: one line in the log for so many


class EnrolmentServicer(EnrolmentServiceServicer):
    """Serves the desk; see enrolment.proto.

    Args:
        desk: Decides.
        tries: For what costs a signature and a line in the record.
        reads: For what is the same for everybody.
    """

    def __init__(self, desk: EnrolmentDesk, tries: TryBounds, reads: TryBounds) -> None:
        self._desk, self._tries, self._reads = desk, tries, reads
        self._refused = 0

    async def Authority(  # noqa: N802 - the name on the wire
        self, request: pb.AuthorityRequest, context: Context
    ) -> pb.AuthorityResponse:
        """Returns the CA certificate."""
        pem = await self._asked(context, self._reads, self._desk.authority)
        return pb.AuthorityResponse(certificate_pem=pem)

    async def Enrol(  # noqa: N802
        self, request: pb.EnrolRequest, context: Context
    ) -> pb.EnrolResponse:
        """Returns a certificate for a token."""
        pem = await self._asked(
            context,
            self._tries,
            lambda: self._desk.enrol(
                request.token_id,
                request.secret,
                request=request.csr_pem,
                node_key=request.node_key,
                caller=address_of(context.peer()),
            ),
            counts_for_all=True,
        )
        return pb.EnrolResponse(certificate_pem=pem)

    async def Renew(  # noqa: N802
        self, request: pb.RenewRequest, context: Context
    ) -> pb.RenewResponse:
        """Returns the next certificate of a member."""
        pem = await self._asked(
            context,
            self._tries,
            lambda: self._desk.renew(
                request.certificate_pem,
                request.csr_pem,
                caller=address_of(context.peer()),
            ),
        )
        return pb.RenewResponse(certificate_pem=pem)

    async def RevokedCertificates(  # noqa: N802
        self, request: pb.RevokedCertificatesRequest, context: Context
    ) -> pb.RevokedCertificatesResponse:
        """Returns the signed list of what was revoked."""
        der = await self._asked(context, self._reads, self._desk.revoked)
        return pb.RevokedCertificatesResponse(list_der=der)

    async def _asked(
        self,
        context: Context,
        bounds: TryBounds,
        answer: Callable[[], _T],
        *,
        counts_for_all: bool = False,
    ) -> _T:
        """Returns what the desk answers; the one boundary where errors are told."""
        if list(context.auth_context().get("ssl_tls_version", ())) != [_TLS_VERSION]:
            await _tell(
                context, grpc.StatusCode.UNAUTHENTICATED, "a call needs TLS 1.3"
            )
        address = address_of(context.peer())
        if not bounds.allows(address, counts_for_all=counts_for_all):
            self._count_refusal(address)
            text = "too many tries, come again in a minute"
            await _tell(context, grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        try:
            return await asyncio.to_thread(answer)
        except RefusedError as error:
            await _tell(context, grpc.StatusCode.PERMISSION_DENIED, str(error))
        except (CertificateError, ConfigError) as error:
            await _tell(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except (MomaError, OSError) as error:
            _logger.error("the enrolment desk failed", exc_info=error)
            await _tell(context, grpc.StatusCode.INTERNAL, "internal error")

    def _count_refusal(self, address: str) -> None:
        if self._refused % _TOLD_EVERY == 0:
            _logger.warning(
                "enrolment: too many tries, the last from %s; %d refused before",
                address,
                self._refused,
            )
        self._refused += 1


async def _tell(context: Context, code: grpc.StatusCode, details: str) -> NoReturn:
    await context.abort(code, details)
    raise RuntimeError("gRPC's abort returned")
