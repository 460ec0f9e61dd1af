"""Builds and runs the enrolment port: server TLS 1.3, and small bounded calls."""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import grpc

from moma_core.errors import ConfigError
from moma_core.network.address import address_of
from moma_proto.v1.enrolment_pb2_grpc import add_EnrolmentServiceServicer_to_server
from moma_server.config.server import CoordinatorSection, EnrolmentSection, ServerConfig
from moma_server.enrolment.interceptor import (
    OPEN_OF_ALL,
    EnrolmentInterceptor,
    RateLimiter,
)
from moma_server.enrolment.service import EnrolmentService, EnrolmentServicer
from moma_server.membership.renewal import identity_files
from moma_server.rpc.limits import MOST_BYTES, ConnectionBounds
from moma_server.rpc.tls import TlsCredentials

_logger = logging.getLogger(__name__)

_READS_OVER_TRIES = 20
_CALLS_OVER_OPEN = 4  # gRPC counts calls that are about to be refused, too
_STOP_SECONDS = 1.0
_CONNECTIONS = ConnectionBounds(
    age=timedelta(seconds=20), grace=timedelta(seconds=5), idle=timedelta(seconds=10)
)
_OPTIONS = (
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.max_send_message_length", 9 << 20),  # a long list of revoked certificates
    *_CONNECTIONS.options(streams=4),
)


class EnrolmentServer:
    """The coordinator's port for those who have no certificate yet.

    Construct it inside a running event loop.

    Args:
        config: Config of the coordinator's server.
        coordinator: The coordinator's section of it.
        section: Where to listen, and how many tries are taken.
        clock: Returns the present, with a time zone.

    Raises:
        MomaError: This server does not sign, or its credential cannot be read.
    """

    def __init__(
        self,
        config: ServerConfig,
        coordinator: CoordinatorSection,
        section: EnrolmentSection,
        clock: Callable[[], datetime],
    ) -> None:
        self._listen = section.listen
        files = identity_files(coordinator.identity, config.authority)
        self._credentials = TlsCredentials(files)
        rate = section.tries_per_minute
        tries = RateLimiter(rate, time.monotonic)
        reads = RateLimiter(_READS_OVER_TRIES * rate, time.monotonic)
        servicer = EnrolmentServicer(EnrolmentService(config, clock), tries)
        self._server = grpc.aio.server(
            interceptors=[EnrolmentInterceptor(tries, reads)],
            options=_OPTIONS,
            maximum_concurrent_rpcs=_CALLS_OVER_OPEN * OPEN_OF_ALL,
        )
        add_EnrolmentServiceServicer_to_server(servicer, self._server)

    async def start(self) -> int:
        """Begins to serve.

        Returns:
            The port.

        Raises:
            ConfigError: The address cannot be listened at.
        """
        address = address_of(self._listen.host, self._listen.port)
        credentials = self._credentials.for_server(clients_show=False)
        try:
            port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen at {address}: {error}") from None
        await self._server.start()
        _logger.info("members enrol at %s", address_of(self._listen.host, port))
        return port

    async def stop(self) -> None:
        """Ends within a second."""
        await self._server.stop(_STOP_SECONDS)
