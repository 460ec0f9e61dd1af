"""The federation's public port: TLS, and of SuperLink only what a site's node needs.

SuperLink hands any object to any node, takes a message for another node's, and lets
anybody use its Control API: all that ends here. `proxy` is one call, top to bottom:
`authentication` says who calls, `authorization` who is served now, `methods` what a
call may hold, `capabilities` what each node may touch.
"""

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from moma_core.errors import CertificateError, FederationError
from moma_core.federation.bounds import most_parts
from moma_core.federation.run_state import OwnState, RunState
from moma_core.network.address import address_of
from moma_core.pki.key_files import read_credential, read_passphrase
from moma_core.runtime.files import stat_fingerprint
from moma_server.federation.edge.authentication import Callers, KnownNode
from moma_server.federation.edge.http import EdgeLoop, EdgeProtocol, edge_protocol
from moma_server.federation.edge.methods import CallLimits
from moma_server.federation.edge.notice import RunNotice
from moma_server.federation.edge.proxy import FleetProxy, ProxySettings
from moma_server.federation.edge.upstream import EdgeUpstream
from moma_server.federation.engine.socket import EngineAddress
from moma_server.metrics.metrics import EdgeMetrics

_logger = logging.getLogger(__name__)

_START_SECONDS = 10.0
_TICKS = 20  # of uvicorn's tenths of a second, between two looks at the connections


def _authorize_all(_node: KnownNode) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """Where the edge listens and what it takes.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        certificate: Certificate file with its chain, PEM.
        key: Key file, PEM.
        passphrase_file: Holds what the key is encrypted with; None: it is not.
        max_body_bytes: Length of one request or response; Flower's objects are chunks
            of 5 MiB.
        max_objects: Objects of one message: with `max_body_bytes` it bounds what one
            reply can fill SuperLink's disk with.
        body_seconds: Time for the body of a request to arrive.
        request_seconds: Time for a request to begin, see `EdgeProtocol`.
        max_connections: Connections at the same time; more get a 503.
        max_per_address: Connections of one address; more are hung up on.
        max_calls: Calls of one node at the same time; more get a 503.
        authorizes: Says whether a node of the federation may be served now. It is
            called before anything of a call is read, and again for open connections
            every two seconds; it must be quick, and runs in the edge's thread.
    """

    host: str
    port: int
    certificate: Path
    key: Path
    passphrase_file: Path | None = None
    max_body_bytes: int = 6 << 20
    max_objects: int = most_parts(0)
    body_seconds: float = 60.0
    request_seconds: float = 15.0
    max_connections: int = 256
    max_per_address: int = 64
    max_calls: int = 16
    authorizes: Callable[[KnownNode], bool] = _authorize_all


class Edge:
    """Serves the edge from a thread.

    Args:
        upstream: Where SuperLink listens.
        settings: What to listen on and to take.
        metrics: Metrics of bytes and refusals.
    """

    def __init__(
        self, upstream: EngineAddress, settings: EdgeSettings, metrics: EdgeMetrics
    ) -> None:
        self._callers = Callers()
        self._notice = RunNotice()
        proxy = FleetProxy(
            EdgeUpstream(upstream, max_response_bytes=settings.max_body_bytes),
            self._callers,
            metrics,
            self._notice,
            ProxySettings(
                limits=CallLimits(settings.max_body_bytes, settings.max_objects),
                body_seconds=settings.body_seconds,
                max_calls=settings.max_calls,
                authorizes=settings.authorizes,
            ),
        )
        certificate = EdgeCertificate(
            settings.certificate, settings.key, settings.passphrase_file
        )
        config = _server_config(proxy, settings, certificate.passphrase)
        self._server = _Server(config, proxy, certificate)
        self._thread = threading.Thread(target=self._serve, name="edge", daemon=True)
        self._stopped = threading.Event()

    @property
    def port(self) -> int:
        """The port that it listens on; known after `start`."""
        for server in self._server.servers:
            for listening in server.sockets:
                port: int = listening.getsockname()[1]
                return port
        raise FederationError("the edge does not listen")

    def know(self, nodes: Iterable[KnownNode]) -> None:
        """Serves these nodes from now on, and no others.

        Until it is called for the first time, nodes get a 503.
        """
        self._callers.know(nodes)

    def report(
        self, state: RunState, owed: Collection[str], own: Mapping[str, OwnState]
    ) -> None:
        """Says to each site that asks how the run stands.

        Args:
            state: For all sites.
            owed: Sites for which a run that is over still has its last task.
            own: What each site alone is told of its round under way.
        """
        self._notice.report(state, owed, own)

    def start(self) -> None:
        """Returns when the edge listens.

        Raises:
            FederationError: It could not listen on its address.
        """
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(_START_SECONDS / 0.05)):
            if self._server.started or self._stopped.is_set():
                break
            waited.wait(0.05)
        if not self._server.started or self._stopped.is_set():
            raise FederationError(
                f"cannot listen on "
                f"{address_of(self._server.config.host, self._server.config.port)}"
            )

    def stop(self) -> None:
        """Stops listening and hangs up."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=EdgeLoop) as runner:
                runner.run(self._server.serve())
        except SystemExit:
            _logger.error("the edge could not listen on its address")
        finally:
            self._stopped.set()


class EdgeCertificate:
    """Puts a renewed certificate into a TLS context that is in use.

    Args:
        certificate: Certificate file with its chain, PEM.
        key: Key file, PEM.
        passphrase_file: Holds what the key is encrypted with; None: it is not.

    Raises:
        CertificateError: They cannot be read, or do not belong together.
    """

    def __init__(
        self, certificate: Path, key: Path, passphrase_file: Path | None
    ) -> None:
        self._certificate, self._key = certificate, key
        self._passphrase_file = passphrase_file
        read_credential(certificate, key, passphrase_file)  # fail now
        self._fingerprint = stat_fingerprint(certificate, key)

    @property
    def passphrase(self) -> str | None:
        """What opens the key."""
        passphrase = read_passphrase(self._passphrase_file)
        return None if passphrase is None else passphrase.decode()

    def reload_if_changed(self, context: ssl.SSLContext) -> None:
        """Loads the files again if they have changed; new handshakes see it."""
        try:
            fingerprint = stat_fingerprint(self._certificate, self._key)
            if fingerprint == self._fingerprint:
                return
            read_credential(self._certificate, self._key, self._passphrase_file)
            context.load_cert_chain(self._certificate, self._key, self.passphrase)
        except (CertificateError, OSError) as error:
            _logger.warning("the edge's old certificate stays in use: %s", error)
            return
        self._fingerprint = fingerprint
        _logger.info("the edge's certificate was renewed")


class _Server(uvicorn.Server):
    """Hangs up when it stops: an idle TLS peer never answers a good-bye.

    What is lost with a call is done again, by the node or by the next run. It also
    hangs up on a node that is served no more, whatever that node is doing.
    """

    def __init__(
        self, config: uvicorn.Config, proxy: FleetProxy, certificate: EdgeCertificate
    ) -> None:
        super().__init__(config)
        self._proxy, self._certificate = proxy, certificate

    async def on_tick(self, counter: int) -> bool:
        """Looks after the open connections; see uvicorn."""
        if counter % _TICKS == 0:
            if self.config.ssl is not None:
                self._certificate.reload_if_changed(self.config.ssl)
            self._proxy.forget()
            for connection in list(self.server_state.connections):
                caller = isinstance(connection, EdgeProtocol) and connection.caller
                if caller and not self._proxy.still_serves(caller):
                    connection.transport.abort()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await super().shutdown(sockets)


def _server_config(
    proxy: FleetProxy, settings: EdgeSettings, passphrase: str | None
) -> uvicorn.Config:
    config = uvicorn.Config(
        proxy.app(),
        host=settings.host,
        port=settings.port,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        ssl_keyfile_password=passphrase,
        http=edge_protocol(
            request_seconds=settings.request_seconds,
            max_per_address=settings.max_per_address,
        ),
        ws="none",
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=75,  # longer than a quiet node's heartbeat
        timeout_graceful_shutdown=1,
        access_log=False,
        server_header=False,
        log_config=None,
    )
    config.load()
    if config.ssl is None:
        raise ValueError("the edge has no certificate")
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return config
