"""SuperLink's Control API behind one class: nodes and runs."""

import hashlib
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import httpx
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors.http.runtime_version import (
    RuntimeVersionHttpInterceptor,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from moma_core.errors import FederationError
from moma_core.pki.key_files import load_public_node_key
from moma_proto.bundle import bundle_bytes
from moma_server.federation.engine.socket import (
    ENGINE_URL,
    EngineAddress,
    EngineTransport,
)

_logger = logging.getLogger(__name__)


class FlowerNode(NamedTuple):
    """A registered node, as SuperLink sees it.

    Args:
        node_id: Its number.
        online: Whether it is connected.
        connected_at: When it connected last, in seconds since 1970; 0: never.
    """

    node_id: int
    online: bool
    connected_at: float = 0.0


class Control:
    """Speaks to the SuperLink of this machine.

    Args:
        address: Where SuperLink listens.
        start_seconds: A run that no process has taken up in this time is over.
    """

    def __init__(self, address: EngineAddress, *, start_seconds: float = 300.0) -> None:
        self._start_seconds = start_seconds
        self._started_at: dict[int, float] = {}  # on the monotonic clock
        self._client = ControlHttpClient(
            ENGINE_URL,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )
        self._client.close()
        # Flower's own client knows no sockets
        self._client._client = httpx.Client(
            transport=EngineTransport(address), timeout=30
        )

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def nodes(self) -> dict[bytes, FlowerNode]:
        """Returns the registered nodes by public key, see `key_bytes`."""
        with _calls("list the nodes"):
            infos = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {
            info.public_key: FlowerNode(
                info.node_id, info.status == "online", _seconds(info.last_activated_at)
            )
            for info in infos
            if info.status != "unregistered"
        }

    def register(self, public_key: bytes) -> FlowerNode:
        """Registers a node's key, see `key_bytes`.

        Registering a key again changes nothing and returns the same node.

        Raises:
            FederationError: The key was removed before; SuperLink never takes one
                back, so the site needs a new key.
        """
        known = self.nodes().get(public_key)
        if known is not None:
            return known
        try:
            with _calls("register a node"):
                request = RegisterNodeRequest(public_key=public_key)
                return FlowerNode(
                    self._client.RegisterNode(request).node_id, online=False
                )
        except FederationError as error:
            if _code(error.__cause__) != ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE:
                raise
            raise FederationError(
                "its node key was removed before; the site needs a new one"
            ) from error

    def unregister(self, node_id: int) -> None:
        """Removes a node for ever."""
        with _calls("unregister a node"):
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start_run(self, order: Path, *, bundle: bytes | None = None) -> int:
        """Starts a run with an order file and returns its id.

        Args:
            order: The order's file, see `RunOrder`.
            bundle: Content of another bundle than the installed one; sites refuse it.

        Raises:
            FederationError: SuperLink did not start it.
        """
        content = bundle_bytes() if bundle is None else bundle
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab),
            override_config=user_config_to_proto({"plan": str(order.resolve())}),
        )
        with _calls("start a run"):
            run_id = int(self._client.StartRun(request).run_id)
        if run_id == 0:
            raise FederationError("SuperLink did not start the run")
        self._started_at = {run_id: time.monotonic()}
        return run_id

    def run_is_over(self, run_id: int) -> bool:
        """Whether the run has ended, well or not."""
        with _calls("look at a run"):
            runs = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        if run_id not in runs or runs[run_id].status.status == "finished":
            return True
        waited = time.monotonic() - self._started_at.get(run_id, math.inf)
        if runs[run_id].status.status == "running" or waited < self._start_seconds:
            return False
        _logger.error(
            "no process took up the run in %.0f s, so it is stopped",
            self._start_seconds,
        )
        with _calls("stop a run"):
            self._client.StopRun(StopRunRequest(run_id=run_id))
        return True

    def stop_runs(self) -> None:
        """Ends every run that has not ended.

        A run whose process was killed is alive to SuperLink for half a minute, and a
        site would wait as long for what that process did not get to send.
        """
        with _calls("stop a run"):
            runs = self._client.ListRuns(ListRunsRequest()).run_dict
            for run_id, run in runs.items():
                if run.status.status != "finished":
                    self._client.StopRun(StopRunRequest(run_id=run_id))


def key_bytes(openssh: bytes) -> bytes:
    """Returns a site's public key in the form by which SuperLink knows it.

    Raises:
        CertificateError: It is not an EC P-384 key in OpenSSH form.
    """
    return public_key_to_bytes(load_public_node_key(openssh))


def _code(error: BaseException | None) -> int | None:
    """Returns Flower's number for what went wrong."""
    if not isinstance(error, httpx.HTTPStatusError):
        return None
    flower_error = FlowerError.from_json(error.response.text)
    return None if flower_error is None else flower_error.code


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp() if moment else 0.0


@contextmanager
def _calls(what: str) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, ValueError) as error:
        raise FederationError(f"SuperLink did not {what}") from error
