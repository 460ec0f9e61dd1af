"""Dashboards without a program behind them, and requests to them."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from moma_core.dashboard.config import DashboardSection
from moma_core.dashboard.view import Alert, Panel, View
from moma_core.runtime.files import write_private

TOKEN = b"0123456789abcdef0123456789abcdef"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def view(*panels: Panel, title: str = "Site x", alerts: Sequence[Alert] = ()) -> View:
    return View(title, "a test", alerts, panels, NOW)


def all_texts(view: View) -> Iterator[str]:
    """Yields every value that is shown, without headings and captions."""
    for panel in view.panels:
        yield from (fact.value for fact in panel.facts)
        for table in panel.tables:
            for row in table.rows:
                yield from (cell.text for cell in row)


def with_token(folder: Path) -> DashboardSection:
    path = folder / "token"
    write_private(path, TOKEN + b"\n")
    return DashboardSection(port=0, token_file=path)


def basic(token: bytes, user: bytes = b"duty") -> str:
    """Returns what a browser sends for a name and a password."""
    return "Basic " + b64encode(user + b":" + token).decode()


def request(
    path: str = "/", *, method: str = "GET", host: str = "localhost", **headers: str
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
