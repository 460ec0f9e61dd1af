"""Serves a dashboard: the page, the part of it that changes, its own three files."""

import time
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from moma_core.dashboard.config import DashboardSection
from moma_core.dashboard.guard import FRAGMENT, Clock, Guard
from moma_core.dashboard.view import Look, View
from moma_core.metrics_http.bounded_server import BoundedServer
from moma_core.report_page.page import strict_environment

KEPT_SECONDS = 2.0
"""So long what was made for one request is shown to the others."""

_HERE = Path(__file__).parent

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_STATIC = {
    "/static/dashboard.css": "text/css; charset=utf-8",
    "/static/dashboard.js": "text/javascript; charset=utf-8",
    "/static/icon.svg": "image/svg+xml",
}


class DashboardServer(BoundedServer):
    """Shows a dashboard from a thread, until it is closed.

    Args:
        section: The address, and what it takes to look.
        look: Makes what is shown.
        clock: Monotonic, in seconds.

    Raises:
        ConfigError: The address cannot be listened at, or certificate, key, token or
            the clients' CA cannot be used.
    """

    def __init__(
        self,
        section: DashboardSection,
        look: Look,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._guard = Guard(section, clock)
        self._pages = _Pages(look, section.refresh_seconds, clock)
        self._files = {
            path: (_HERE.joinpath(path[1:]).read_bytes(), content_type)
            for path, content_type in _STATIC.items()
        }
        self._headers = dict(HEADERS)
        if section.certificate is not None:
            self._headers["strict-transport-security"] = "max-age=31536000"
        super().__init__(
            section,
            self._response,
            name="dashboard",
            client_authority=section.client_authority,
        )

    def _response(self, request: Request) -> Response:
        response = self._guard.refusal(request) or self._shown_at(request.scope["path"])
        response.headers.update(self._headers)
        return response

    def _shown_at(self, path: str) -> Response:
        """Returns one of five files; no path is ever looked for on the disk."""
        if path in self._files:
            content, content_type = self._files[path]
            return Response(content, headers={"content-type": content_type})
        if path in ("/", FRAGMENT):
            return Response(self._pages.made(path), media_type="text/html")
        return Response(status_code=404)


class _Pages:
    """Makes the pages, so seldom that asking for them costs the program little."""

    def __init__(self, look: Look, refresh_seconds: int, clock: Clock) -> None:
        self._look, self._clock = look, clock
        self._refresh_seconds = refresh_seconds
        environment = strict_environment(_HERE / "templates")
        self._templates = {
            "/": environment.get_template("page.html"),
            FRAGMENT: environment.get_template("fragment.html"),
        }
        self._view: View | None = None
        self._made_at = 0.0

    def made(self, path: str) -> str:
        now = self._clock()
        if self._view is None or now - self._made_at >= KEPT_SECONDS:
            self._view, self._made_at = self._look(), now
        return self._templates[path].render(
            view=self._view, refresh_seconds=self._refresh_seconds
        )
