"""`EnrolmentService` on the wire: what came through the door is asked of the desk."""

import asyncio

from moma_core.errors import TeacherBusyError
from moma_proto.v1 import enrolment_pb2 as pb
from moma_proto.v1.enrolment_pb2_grpc import EnrolmentServiceServicer
from moma_server.enrolment.interceptor import RateLimiter, address_of
from moma_server.enrolment.service import EnrolmentService
from moma_server.rpc.limits import Context

_RETRY_SECONDS = 60.0


class EnrolmentServicer(EnrolmentServiceServicer):
    """Serves the desk; see enrolment.proto. What it raises, the door tells.

    Args:
        desk: Decides.
        tries: Those of strangers take from the common bucket.
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
            text = "too many tries of all, come again in a minute"
            raise TeacherBusyError(text, _RETRY_SECONDS)
