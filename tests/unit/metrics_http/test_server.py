import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from moma_core.errors import ConfigError
from moma_core.metrics_http.config import PageSection
from moma_core.metrics_http.server import Page, PageServer
from tests.support.machine.metrics_page import LOOPBACK, asked, connection, figures, get
from tests.support.machine.waiting import promised

_OPEN = PageSection(port=0)


@pytest.fixture
def port() -> Iterator[int]:
    with PageServer(_OPEN, figures) as server:
        yield server.port


def test_the_page_is_shown_in_the_form_that_is_asked_for() -> None:
    with PageServer(_OPEN, lambda accept: Page("text/x", accept.encode())) as server:
        answer = asked(
            server.port,
            b"GET /metrics?x=1 HTTP/1.1\r\nHost: localhost\r\nAccept: text/*\r\n\r\n",
        )

    assert answer.status == 200
    assert answer.headers["content-type"] == "text/x"
    assert answer.headers["connection"] == "close"
    assert answer.body == b"text/*"


@pytest.mark.parametrize("host", ["localhost:9464", "127.0.0.1", "[::1]:9464", "[::1]"])
def test_the_page_is_at_this_machine(port: int, host: str) -> None:
    request = get(token=None).replace(b"localhost", host.encode())

    assert asked(port, request).status == 200


@pytest.mark.parametrize(
    "host", ["rebind.example", "localhost.example:80", "", "[x", "*"]
)
def test_a_web_page_cannot_have_its_own_name_point_here(port: int, host: str) -> None:
    request = get(token=None).replace(b"localhost", host.encode())

    assert (asked(port, request).status, asked(port, request).body) == (421, b"")


def test_a_probe_hears_that_the_program_runs_and_no_more(port: int) -> None:
    assert asked(port, get("/-/healthy", token=None)).body == b"ok\n"


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/metrics/../", "/-/reload", "//metrics", "/favicon.ico"]
)
def test_there_is_no_other_page(port: int, path: str) -> None:
    answer = asked(port, get(path))

    assert (answer.status, answer.body) == (404, b"")


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"HEAD", b"OPTIONS", b"TRACE"])
def test_there_is_no_other_method(port: int, method: bytes) -> None:
    answer = asked(port, get().replace(b"GET", method))

    assert (answer.status, answer.body) == (404, b"")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01 what is this\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost : a\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_without_detail(
    port: int, request_bytes: bytes
) -> None:
    answer = asked(port, request_bytes)

    assert (answer.status, answer.body) == (400, b"")


def test_a_second_request_on_a_connection_is_not_read(port: int) -> None:
    answer = asked(port, get() + get())

    assert answer.body.count(b"moma_build_info") == 1


def test_a_body_is_not_waited_for(port: int) -> None:
    head = get()[:-2] + b"Content-Length: 1000000000\r\n\r\n"

    assert asked(port, head).status == 200


def test_a_taken_address_is_one_sentence(port: int) -> None:
    section = PageSection(port=port)

    with pytest.raises(ConfigError, match=f"cannot show metrics at {LOOPBACK}:{port}"):
        PageServer(section, figures)


def test_an_unreadable_certificate_is_one_sentence(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    section = PageSection(port=0, certificate=missing, key=missing)

    with pytest.raises(ConfigError, match="cannot read the certificate"):
        PageServer(section, figures)


def test_a_page_that_fails_does_not_end_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def render(accept: str) -> Page:
        if accept == "fail":
            raise ValueError(accept)
        return figures(accept)

    with PageServer(_OPEN, render) as server:
        broken = get()[:-2] + b"Accept: fail\r\n\r\n"

        assert asked(server.port, broken).status == 0
        assert asked(server.port, get()).status == 200
    assert "the metrics could not be shown" in caplog.text


def test_an_open_connection_does_not_delay_the_end(port: int) -> None:
    begun = time.monotonic()
    with PageServer(_OPEN, figures) as server:
        peer = connection(server.port)

    with peer, suppress(ConnectionResetError):  # where it was not accepted yet
        assert peer.recv(1) == b""
    assert time.monotonic() - begun < promised(8)  # a connection has 10 s
