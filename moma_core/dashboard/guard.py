"""Who may see a dashboard: each request is held against these, before it is read.

In order: method, host, tries, token. Client certificates are asked for before, in the
handshake. What refuses says no more than its status.
"""

import binascii
import time
from base64 import b64decode
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from moma_core.dashboard.config import DashboardSection
from moma_core.metrics_http.auth import BearerToken
from moma_core.metrics_http.server import is_ours
from moma_core.network.address import network_of
from moma_core.policy.token_bucket import TokenBucket

FRAGMENT = "/fragment"
"""Where an open page's script fetches what has changed."""

TRIES_PER_MINUTE = 10
"""Wrong tokens of one address, after which it is not even listened to."""

_ALL_OVER_ONE = 10
_MOST_ADDRESSES = 4096
_CHALLENGE = 'Basic realm="MoMA dashboard, any user name", charset="UTF-8"'
_CHALLENGE_OF_SCRIPT = "Bearer"
"""For what the page's script fetches: a browser opens no window for it each time."""

Clock = Callable[[], float]


class Guard:
    """Refuses what may not see the dashboard.

    Args:
        section: What it takes to look.
        clock: Monotonic, in seconds.

    Raises:
        ConfigError: The token's file is missing, others may read it, or it holds none.
    """

    def __init__(
        self, section: DashboardSection, clock: Clock = time.monotonic
    ) -> None:
        self._names = {section.host, *section.names}
        self._token = None
        if section.token_file is not None:
            self._token = BearerToken(section.token_file)
        self._tries = _Tries(clock)

    def refusal(self, request: Request) -> Response | None:
        """Returns why a request is not answered; None: it is."""
        if request.method != "GET":
            return Response(status_code=405, headers={"allow": "GET"})
        if not is_ours(request.headers.get("host", ""), self._names):
            return Response(status_code=421)
        if self._token is None:
            return None
        given = request.headers.get("authorization", "")
        if not given:  # a browser asks so first, to learn what is wanted
            return _unknown(request)
        address = network_of(request.client.host if request.client else "") or ""
        wait = self._tries.wait(address)
        if wait == 0 and self._token.fits(_as_bearer(given)):
            return None
        if wait == 0:
            wait = self._tries.failed(address)
        if wait > 0:
            retry = {"retry-after": str(int(wait) + 1)}
            return Response(status_code=429, headers=retry)
        return _unknown(request)


def _unknown(request: Request) -> Response:
    is_script = request.scope["path"] == FRAGMENT
    challenge = _CHALLENGE_OF_SCRIPT if is_script else _CHALLENGE
    return Response(status_code=401, headers={"www-authenticate": challenge})


class _Tries:
    """Wrong tokens: so many a minute of an address, and ten times as many of all.

    Who has used up its own is not listened to until it has one again, so that a right
    token does not show among a thousand wrong ones.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of_one = TokenBucket(TRIES_PER_MINUTE, clock, _MOST_ADDRESSES)
        self._of_all = TokenBucket(TRIES_PER_MINUTE * _ALL_OVER_ONE, clock)
        self._closed: dict[str, float] = {}  # until when, by address

    def wait(self, address: str) -> float:
        """Returns for how many seconds an address is not listened to."""
        return max(0.0, self._closed.get(address, 0.0) - self._clock())

    def failed(self, address: str) -> float:
        """Counts a wrong token, and returns as `wait`."""
        wait = self._of_one.take(address) or self._of_all.take("")
        if wait:
            now = self._clock()
            self._closed = {a: t for a, t in self._closed.items() if t > now}
            self._closed[address] = now + wait
        return wait


def _as_bearer(given: str) -> bytes:
    """Returns the password of basic authentication as a bearer token; RFC 7617.

    A browser knows no other way to ask a person for a token.
    """
    scheme, _, rest = given.partition(" ")
    if scheme.lower() != "basic":
        return given.encode("latin-1")
    try:
        return b"Bearer " + b64decode(rest, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
