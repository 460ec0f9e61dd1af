"""Serves one page, a program's metrics, to those who may see it."""

from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from moma_core.metrics_http.auth import BearerToken
from moma_core.metrics_http.bounded_server import BoundedServer, PageBounds
from moma_core.metrics_http.config import PageSection


class Page(NamedTuple):
    """What is shown.

    Args:
        content_type: Value of the header of this name.
        body: At most a few MB.
    """

    content_type: str
    body: bytes


Render = Callable[[str], Page]
"""Makes the page as it is now, in the form that an `Accept` header asks for."""


class PageServer(BoundedServer):
    """Shows a page at `/metrics` from a thread, until it is closed.

    `/-/healthy` says that the program runs, to anybody.

    Args:
        section: The address, and what it takes to be authorized.
        render: Called in the server's thread.
        bounds: Limits on those who connect.

    Raises:
        ConfigError: The address cannot be listened at, or certificate, key or token
            cannot be used.
    """

    def __init__(
        self, section: PageSection, render: Render, bounds: PageBounds | None = None
    ) -> None:
        self._names, self._render = {section.host}, render
        self._token = None
        if section.token_file is not None:
            self._token = BearerToken(section.token_file)
        super().__init__(section, self._response, name="metrics", bounds=bounds)

    def _response(self, request: Request) -> Response:
        """Returns the response; a refusal says no more than its status.

        Source: RFC 6750, section 3, for the header of a 401.
        """
        headers = request.headers
        path = request.scope["path"] if request.method == "GET" else ""
        if path == "/-/healthy":
            return Response(b"ok\n", headers={"content-type": "text/plain"})
        if self._token is None and not is_ours(headers.get("host", ""), self._names):
            return Response(status_code=421)
        given = headers.get("authorization", "").encode("latin-1")
        if self._token is not None and not self._token.fits(given):
            return Response(status_code=401, headers={"www-authenticate": "Bearer"})
        if path != "/metrics":
            return Response(status_code=404)
        page = self._render(headers.get("accept", ""))
        return Response(page.body, headers={"content-type": page.content_type})


def is_ours(host: str, names: Collection[str]) -> bool:
    """Whether a `Host` header is an address, localhost, or one of our names.

    A page in a browser on this machine may ask under a name of its own that it has
    made point here (DNS rebinding), and read the response.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        known = {"localhost", *(each.lower() for each in names)}
        return name in known or bool(ip_address(name))
    except ValueError:  # neither a name of ours nor an address
        return False
