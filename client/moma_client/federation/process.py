"""The node's process: the connection to the coordinator, and how it ends.

Flower ends its own process on many errors and does not notice signals while it tries
again, so it lives in a child of the session (`federation.node`), which starts it again.
"""

import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
)
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from moma_client.federation.call_deadline import bound_calls
from moma_client.federation.inbox import TaskStore
from moma_client.federation.loop import FleetLink, NodeLoop
from moma_client.federation.node import IN_USE_STATUS, NodeSettings
from moma_client.federation.run_state import look_at_coordinator, note_run_state
from moma_core.errors import ConfigError, FederationError, MomaError, NotAuthorizedError
from moma_core.federation.bounds import MOST_RESPONSE_BYTES
from moma_core.pki.key_files import load_node_key, open_key
from moma_core.runtime.cli import SafeLines
from moma_core.runtime.files import make_folder, write_private

# its own __name__ is __main__, which says nothing in a log
_logger = logging.getLogger("moma_client.federation.process")

CALL_SECONDS: Final = 300.0
"""For one call of Flower's: the longest response at a quarter of a megabit a second."""

_OBJECT_PATH = "/pull-object"
_MOST_OTHER_BYTES = 1 << 20  # names of parts at most, and each may be two bytes long

_IDLE_SECONDS = 1.0
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def main(arguments: Sequence[str]) -> int:
    """Runs a node until its parent is gone or Flower gives up; returns the status."""
    settings = NodeSettings.from_json(arguments[0])
    _start_logging()
    _end_with_parent(settings.stop_seconds)
    try:
        return _serve(settings)
    except MomaError as error:  # a key, or a disk that is full
        raise SystemExit(str(error)) from None
    finally:
        _hear_no_more()  # it ends by itself


def _serve(settings: NodeSettings) -> int:
    make_folder(settings.folder)
    with (settings.folder / "node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one node for one key
        _set_proxy(settings)
        if _is_over(settings):
            _wait_for_parent()
        key = load_node_key(open_key(settings.node_key, settings.passphrase_file))
        # the connection takes no such setting, so the client that it makes is ours
        vars(fleet_http_connection)["FleetHttpClient"] = BoundedFleetClient
        _leave(settings, key)
        with http_request_response(
            settings.address,
            False,
            settings.ca_certificate.read_bytes(),
            (key, key.public_key()),
        ) as connection:
            link = FleetLink(*connection)
            write_private(_node_file(settings), str(link.node_id).encode())
            _logger.info("connected to %s", settings.address)
            store = TaskStore(settings.folder)
            NodeLoop(
                link, store, settings, on_idle=lambda: _request_again(settings)
            ).serve()
    return 1  # Flower has logged why the connection ended


class BoundedFleetClient(FleetHttpClient):
    """Flower's client, which reads no more of a response than one can hold.

    Flower's own reads what comes: of any length, as slowly as it comes, and unpacked,
    where a coordinator says that it is packed. It also goes where a response sends it,
    which from inside a hospital could be anywhere.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **settings)
        self._client.headers["accept-encoding"] = "identity"
        self._client.follow_redirects = False
        self._client.event_hooks = {"response": [_bound]}
        bound_calls(self._client, CALL_SECONDS)

    def ActivateNode(self, request: ActivateNodeRequest) -> ActivateNodeResponse:  # noqa: N802
        """Takes this site's place at the coordinator.

        Raises:
            SystemExit: Another program has it; Flower would say that nobody answers.
        """
        try:
            return super().ActivateNode(request)
        except httpx.HTTPStatusError as error:
            if _is_taken(error.response):
                raise SystemExit(IN_USE_STATUS) from None
            raise


def _is_taken(response: httpx.Response) -> bool:
    """Whether SuperLink says that a node of this key is connected.

    The edge refuses a node that is served no more by the same code and in other words.
    """
    code = ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED
    found = FlowerError.from_json(response.text)
    if found is None or found.code != code:
        return False
    return found.message == API_ERROR_MAP[code].public_message


def _bound(response: httpx.Response) -> None:
    """Has a response end at its bound, before any of its body was read."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx.RemoteProtocolError("a packed response is not taken")
    stream = response.stream
    if isinstance(stream, httpx.SyncByteStream):
        carries_object = response.request.url.path.endswith(_OBJECT_PATH)
        most = MOST_RESPONSE_BYTES if carries_object else _MOST_OTHER_BYTES
        response.stream = _BoundedStream(stream, most)


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, most_bytes: int) -> None:
        self._stream, self._most_bytes = stream, most_bytes

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._stream:
            size += len(part)
            if size > self._most_bytes:
                raise httpx.RemoteProtocolError(
                    f"a response of more than {self._most_bytes} bytes is not taken"
                )
            yield part

    def close(self) -> None:
        self._stream.close()


def _is_over(settings: NodeSettings) -> bool:
    """Whether the run is over for this site, so that there is nothing to connect for.

    Ends the process before it says a word to a coordinator that was revoked.
    """
    try:
        look_at_coordinator(settings)
    except (ConfigError, FederationError, NotAuthorizedError) as error:
        raise SystemExit(f"cannot tell who answers: {error}") from None
    try:
        state = note_run_state(settings)
    except MomaError as error:
        _logger.info("%s", error)
        return False
    return state is not None and state.phase == "over"


def _request_again(settings: NodeSettings) -> None:
    try:
        note_run_state(settings)
    except MomaError as error:
        _logger.debug("%s", error)


def _wait_for_parent() -> NoReturn:
    """Does nothing until the parent has read that the run is over."""
    while True:
        time.sleep(_IDLE_SECONDS)


def _set_proxy(settings: NodeSettings) -> None:
    """Takes the site's rule over for Flower's client, which asks the environment."""
    try:
        route = settings.proxy.route(settings.address)
    except MomaError as error:
        raise SystemExit(str(error)) from None
    for name in [name for name in os.environ if name.lower() in _PROXY_VARIABLES]:
        del os.environ[name]
    if route is None:
        os.environ["NO_PROXY"] = "*"
    else:
        os.environ["HTTPS_PROXY"] = route.url


def _start_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(SafeLines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every poll
    flower = logging.getLogger("flwr")
    flower.handlers.clear()  # its own would say everything again, in colours
    flower.setLevel(logging.INFO)


def _end_with_parent(grace_seconds: float) -> None:
    """Turns the end of the parent, a signal or a lost thread into an orderly end."""

    def end(_signal: int, _frame: object) -> NoReturn:
        _hear_no_more()
        raise SystemExit(1)  # passes through Flower, which says good-bye

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_seconds)
        os._exit(1)

    def lost(arguments: threading.ExceptHookArgs) -> None:
        # a heartbeat that died unseen would leave a site that only seems connected
        _logger.error("a thread ended: %s", arguments.exc_type.__name__)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)  # Flower sends it to itself
    threading.excepthook = lost
    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _hear_no_more() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(settings: NodeSettings, key: ec.EllipticCurvePrivateKey) -> None:
    """Says the good-bye that a killed process could not say.

    Without it SuperLink refuses the node for the minute in which it still takes the
    killed one for alive.
    """
    file = _node_file(settings)
    if not file.exists():
        return
    with BoundedFleetClient.from_server_address(
        settings.address,
        False,
        settings.ca_certificate.read_bytes(),
        interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
    ) as client:
        try:
            node_id = int(file.read_text("utf-8"))
            client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
        except httpx.TransportError:
            return  # not reached, so it is still to be said
        except (httpx.HTTPStatusError, ValueError):
            _logger.debug("the last connection had ended already")
    file.unlink()


def _node_file(settings: NodeSettings) -> Path:
    return settings.folder / "node.id"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
