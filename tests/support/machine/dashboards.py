"""Dashboards without a program behind them, and requests to them."""

import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from moma_core.dashboard.config import DashboardSection
from moma_core.dashboard.view import Alert, Panel, View
from moma_core.runtime.files import write_private

TOKEN = b"0123456789abcdef0123456789abcdef"
_WORD = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z][A-Za-z0-9_.-]*|\d+\.\d+")
_BROKEN = re.compile(r"\d+\.\d+")
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


def unknown_words(shown: Iterable[str], known: str, own: Collection[str]) -> list[str]:
    """Returns the words and broken numbers that are shown and not known.

    Args:
        shown: Texts of a dashboard.
        known: What the program's metrics and status say.
        own: Words of the page's own sentences; no value of anybody.
    """
    words = {word.strip(".-") for word in _WORD.findall(known)} | set(own)
    numbers = [float(number) for number in _BROKEN.findall(known)]

    def is_known(word: str) -> bool:
        if _BROKEN.fullmatch(word):
            return any(abs(float(word) - number) < 6e-4 for number in numbers)
        return word.strip(".-") in words

    every = (word for text in shown for word in _WORD.findall(text))
    return sorted({word for word in every if not is_known(word)})


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
