"""Calls that a relay brings: no certificate of a site, so the signature alone counts.

They come by a Unix socket in a folder of the teacher's own user, and only to services
whose messages are sealed and signed.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import grpc

from moma_core.errors import ConfigError, NotAuthorizedError
from moma_server.rpc.authorization import AuthContext, AuthInterceptor

_NEVER_MS = 2**31 - 1
_ENDLESS = {
    "grpc.max_connection_age_ms": _NEVER_MS,
    "grpc.max_connection_idle_ms": _NEVER_MS,
    "grpc.keepalive_time_ms": _NEVER_MS,
}  # a connection ends with its link, which is watched and replaced by itself


@dataclass(frozen=True, slots=True)
class RelayedPolicy:
    """Lets a relay's calls in.

    Args:
        served: gRPC services whose messages are sealed.
    """

    served: Collection[str]

    def authorize(self, _auth: AuthContext, service: str) -> None:
        """Names nobody: who asks is known when a message is opened.

        Raises:
            NotAuthorizedError: The service is not served to a relay.
        """
        if service not in self.served:
            raise NotAuthorizedError(f"{service} is not served to a relay")


class RelayedPort:
    """A server of its own, beside the one that the network reaches.

    Args:
        path: The socket, in a folder that is its owner's alone, see
            `make_socket_path`.
        interceptor: Authorizes calls by `RelayedPolicy`.
        options: gRPC's options; age and idleness of a connection are not bounded.
        calls: How many calls gRPC hands on at once.
        add_services: Puts what is served into a server.
    """

    def __init__(
        self,
        path: Path,
        interceptor: AuthInterceptor,
        options: list[tuple[str, int]],
        *,
        calls: int,
        add_services: Callable[[grpc.aio.Server], None],
    ) -> None:
        self._path = path
        self._server = grpc.aio.server(
            interceptors=[interceptor],
            options=list({**dict(options), **_ENDLESS}.items()),
            maximum_concurrent_rpcs=calls,
        )
        add_services(self._server)

    async def start(self) -> None:
        """Begins to serve.

        Raises:
            ConfigError: The socket cannot be made.
        """
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise ConfigError(f"cannot listen at {self._path}: {error}") from None
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Stops; what is not answered by then is broken off."""
        await self._server.stop(grace_seconds)
