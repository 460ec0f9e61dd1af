"""Who calls the edge: the holder of a key that the coordinator knows, and only once.

Flower's nodes sign the time and nothing else, and their engine takes a signature for
five minutes, with any call. Here each is good for one call.
"""

import binascii
import functools
import heapq
import re
import time
from base64 import b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.common.constant import (
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
)
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
)
from starlette.datastructures import Headers

from moma_server.federation.edge.refusal import EdgeRefusedError

_LONGEST_HEADER = 1024
_KEPT_TIMES = 20_000  # of one key: five minutes of 60 calls a second
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9](\.[0-9]{6})?\+00:00"
)


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A node that the coordinator has registered.

    Args:
        site: Name of the node's site.
        node_id: The engine's id of the node.
        public_key: The node key, PEM, as the engine and the node's calls have it.
    """

    site: str
    node_id: int
    public_key: bytes


class Callers:
    """Knows who makes a call; `know` may be called from any thread.

    Args:
        clock: Returns seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._nodes: dict[bytes, KnownNode] | None = None
        self._used: dict[bytes, _UsedTimes] = {}

    def know(self, nodes: Iterable[KnownNode]) -> None:
        """Takes over who belongs to the federation now, as the coordinator says."""
        self._nodes = {node.public_key: node for node in nodes}

    def knows(self, node: KnownNode) -> bool:
        """Whether a caller of before still belongs to the federation."""
        return (self._nodes or {}).get(node.public_key) == node

    def forget_others(self) -> set[int]:
        """Drops what was kept of nodes that are gone; returns the ids that remain."""
        nodes = dict(self._nodes or {})
        self._used = {key: used for key, used in self._used.items() if key in nodes}
        return {node.node_id for node in nodes.values()}

    def caller(self, headers: Headers) -> KnownNode:
        """Returns whose call it is.

        Raises:
            EdgeRefusedError: Its signature is missing, wrong, old or used, or nobody's.
        """
        key = _decoded(headers, FLEET_HTTP_PUBLIC_KEY_HEADER)
        signature = _decoded(headers, FLEET_HTTP_SIGNATURE_HEADER)
        timestamp = _single(headers, TIMESTAMP_HEADER)
        if self._nodes is None:
            raise EdgeRefusedError("early")
        node = self._nodes.get(key)
        if node is None:
            raise EdgeRefusedError("stranger")
        now = self._clock()
        signed_at = _seconds(timestamp)
        if not -SYSTEM_TIME_TOLERANCE < now - signed_at < _window():
            raise EdgeRefusedError("signature", node.site)
        _verify(node, timestamp, signature)
        used = self._used.setdefault(key, _UsedTimes())
        if not used.use(signed_at, now - _window()):
            raise EdgeRefusedError("replay", node.site)
        return node


class _UsedTimes:
    """The times that one key has signed, as far back as one could be replayed."""

    def __init__(self) -> None:
        self._times: set[float] = set()
        self._oldest: list[float] = []
        self._floor = 0.0  # what is not later may have been used and forgotten

    def use(self, signed_at: float, horizon: float) -> bool:
        """Uses a time up; False if it may have been used before."""
        if signed_at <= self._floor or signed_at in self._times:
            return False
        self._times.add(signed_at)
        heapq.heappush(self._oldest, signed_at)
        while len(self._oldest) > _KEPT_TIMES or self._oldest[0] < horizon:
            self._floor = heapq.heappop(self._oldest)
            self._times.discard(self._floor)
        return True


def _window() -> float:
    return float(TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)


def _single(headers: Headers, name: str) -> str:
    """Returns a header that stands once: of two, we might check one, SuperLink another.

    Raises:
        EdgeRefusedError: It is missing, doubled or too long.
    """
    values = headers.getlist(name)
    if len(values) != 1 or len(values[0]) > _LONGEST_HEADER:
        raise EdgeRefusedError("signature")
    return values[0]


def _decoded(headers: Headers, name: str) -> bytes:
    try:
        return b64decode(_single(headers, name), validate=True)
    except (binascii.Error, ValueError) as error:
        raise EdgeRefusedError("signature") from error


def _seconds(timestamp: str) -> float:
    if not _TIMESTAMP.fullmatch(timestamp):
        raise EdgeRefusedError("signature")
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError as error:
        raise EdgeRefusedError("signature") from error


def _verify(node: KnownNode, timestamp: str, signature: bytes) -> None:
    key = _loaded(node.public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EdgeRefusedError("signature", node.site)
    try:
        key.verify(signature, timestamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise EdgeRefusedError("signature", node.site) from error


@functools.lru_cache(maxsize=1024)
def _loaded(public_key: bytes) -> PublicKeyTypes:
    return load_pem_public_key(public_key)
