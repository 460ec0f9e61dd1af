"""Coordinators that answer without an end: each call of a site is over in its time."""

import itertools
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from moma_client.federation import run_state
from moma_client.federation.call_deadline import bound_calls
from moma_client.federation.node import NodeSettings
from moma_client.federation.run_state import request_run_state
from moma_client.site.app import stop_on_signals
from moma_core.errors import FederationError
from moma_core.pki.key_files import create_node_key
from moma_core.runtime.files import write_private
from tests.support.federation.pki import Pki

CALL_SECONDS = 0.5
FAR_SECONDS = 20.0  # a call without a deadline would go on for much longer

PAUSE_SECONDS = 0.05  # each is far below httpx's own limit of a read
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


def _forever(part: bytes) -> Iterator[bytes]:
    return itertools.repeat(part)


ANSWERS: dict[str, Callable[[], Iterable[bytes]]] = {
    "says nothing": list,
    "a status, byte by byte": lambda: itertools.chain([b"HTTP/1.1 2"], _forever(b"0")),
    "headers without an end": lambda: itertools.chain([HEAD], _forever(b"a: b\r\n")),
    "continue without an end": lambda: _forever(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body, byte by byte": lambda: itertools.chain(
        [HEAD, b"content-length: 4000\r\n\r\n"], _forever(b"{")
    ),
    "chunks, byte by byte": lambda: itertools.chain(
        [CHUNKED], itertools.cycle([b"1\r\n", b"{", b"\r\n"])
    ),
    "trailers without an end": lambda: itertools.chain(
        [CHUNKED, b"0\r\n"], _forever(b"a: b\r\n")
    ),
}


@contextmanager
def coordinator(
    answer: Callable[[], Iterable[bytes]],
    tls: ssl.SSLContext | None = None,
    *,
    reads: bool = True,
) -> Iterator[int]:
    """Gives one caller parts with a pause before each; yields its port."""
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True)
            with connection:
                if reads:
                    connection.recv(1 << 16)
                for part in answer():
                    if over.wait(PAUSE_SECONDS):
                        return
                    connection.sendall(part)
                over.wait()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("how", ANSWERS)
def test_a_call_ends_in_its_time_however_it_is_answered(how: str) -> None:
    with (
        coordinator(ANSWERS[how]) as port,
        httpx.Client(timeout=FAR_SECONDS, trust_env=False) as client,
    ):
        bound_calls(client, CALL_SECONDS)
        since = time.monotonic()
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"http://127.0.0.1:{port}/")

    assert CALL_SECONDS <= time.monotonic() - since < FAR_SECONDS


def test_a_call_ends_in_its_time_where_nobody_reads_it() -> None:
    with (
        coordinator(list, reads=False) as port,
        httpx.Client(timeout=FAR_SECONDS, trust_env=False) as client,
    ):
        bound_calls(client, CALL_SECONDS)
        with pytest.raises(httpx.WriteTimeout):
            client.post(f"http://127.0.0.1:{port}/", content=bytes(64 << 20))


def test_a_call_after_one_that_was_too_long_has_its_own_time() -> None:
    with (
        coordinator(ANSWERS["says nothing"]) as port,
        coordinator(lambda: [HEAD + b"content-length: 2\r\n\r\nok"]) as other,
        httpx.Client(timeout=FAR_SECONDS, trust_env=False) as client,
    ):
        bound_calls(client, CALL_SECONDS)
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"http://127.0.0.1:{port}/")

        assert client.post(f"http://127.0.0.1:{other}/").content == b"ok"


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki("moma")


@pytest.fixture
def settings(tmp_path: Path, pki: Pki) -> NodeSettings:
    write_private(tmp_path / "node.key", create_node_key().private)
    (tmp_path / "ca.pem").write_bytes(pki.ca_pem)
    return NodeSettings(
        address="127.0.0.1:1",
        ca_certificate=tmp_path / "ca.pem",
        node_key=tmp_path / "node.key",
        folder=tmp_path,
    )


@pytest.fixture
def tls(tmp_path: Path, pki: Pki) -> ssl.SSLContext:
    own = pki.server("coordinator", "coordinator")
    files = pki.write(tmp_path / "coordinator", own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


@pytest.mark.parametrize(
    "how", ["continue without an end", "a body, byte by byte", "headers without an end"]
)
def test_a_site_that_asks_how_its_run_stands_is_not_held(
    settings: NodeSettings,
    tls: ssl.SSLContext,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_state, "_CALL_SECONDS", CALL_SECONDS)

    with coordinator(ANSWERS[how], tls) as port:
        here = replace(settings, address=f"127.0.0.1:{port}")
        with pytest.raises(FederationError, match=r"answer: .*(timed out|not over)"):
            request_run_state(here)


@pytest.fixture
def heard() -> Iterator[threading.Event]:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield stop_on_signals()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_that_comes_while_a_site_is_held_is_heeded(
    settings: NodeSettings,
    tls: ssl.SSLContext,
    heard: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The main thread, which heeds it, is the one that asks."""
    monkeypatch.setattr(run_state, "_CALL_SECONDS", CALL_SECONDS)
    drips = ANSWERS["continue without an end"]

    def killed() -> Iterator[bytes]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield from drips()

    with coordinator(killed, tls) as port:
        here = replace(settings, address=f"127.0.0.1:{port}")
        with pytest.raises(FederationError, match=r"answer: .*(timed out|not over)"):
            request_run_state(here)

    assert heard.wait(FAR_SECONDS)
