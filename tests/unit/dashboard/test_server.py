"""Who sees a dashboard, who does not, and what a name can do to its page."""

import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from moma_core.dashboard.config import DashboardSection
from moma_core.dashboard.guard import TRIES_PER_MINUTE
from moma_core.dashboard.server import KEPT_SECONDS, DashboardServer
from moma_core.dashboard.view import Cell, Column, Fact, Panel, Spark, Table, View
from moma_core.errors import ConfigError
from tests.support.federation.pki import Pki
from tests.support.machine.dashboards import TOKEN, basic, request, view, with_token
from tests.support.machine.metrics_page import asked

_PATHS = ["/", "/fragment", "/static/dashboard.css", "/static/dashboard.js"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def open_port() -> Iterator[int]:
    with DashboardServer(DashboardSection(port=0), view) as server:
        yield server.port


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def port(tmp_path: Path, clock: Clock) -> Iterator[int]:
    with DashboardServer(with_token(tmp_path), view, clock=clock) as server:
        yield server.port


@pytest.mark.parametrize("path", _PATHS)
def test_each_page_has_the_headers_that_keep_it_to_itself(
    open_port: int, path: str
) -> None:
    answer = asked(open_port, request(path))

    assert answer.status == 200
    policy = dict(
        rule.split(" ", 1)
        for rule in answer.headers["content-security-policy"].split("; ")
    )
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "deny"
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers


def test_the_page_holds_nothing_of_others_and_nothing_inline(open_port: int) -> None:
    page = asked(open_port, request()).body.decode()

    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"<style|style=|\son[a-z]+=|javascript:", page)
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == [""]
    assert '<noscript><meta http-equiv="refresh" content="10"></noscript>' in page


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "X"])
def test_it_takes_no_other_method(open_port: int, method: str) -> None:
    answer = asked(open_port, request(method=method))

    assert (answer.status, answer.headers["allow"], answer.body) == (405, "get", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../view.py",
        "/static/%2e%2e/view.py",
        "/static/..%2fview.py",
        "//etc/passwd",
        "/static/",
        "/static/dashboard.css/",
        "/templates/page.html",
        "/-/healthy",
        "/%00",
    ],
)
def test_no_path_reaches_the_disk(open_port: int, path: str) -> None:
    answer = asked(open_port, request(path))

    assert (answer.status, answer.body) == (404, b"")


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "x@evil.example", "[::1"]
)
def test_a_name_that_is_not_ours_is_shown_nothing(open_port: int, host: str) -> None:
    answer = asked(open_port, request(host=host))

    assert (answer.status, answer.body) == (421, b"")


def test_a_name_of_the_config_is_ours(tmp_path: Path) -> None:
    section = with_token(tmp_path).model_copy(update={"names": ("Duty.example",)})
    with DashboardServer(section, view) as server:
        named = request(host="duty.example:9467", authorization=basic(TOKEN))
        other = request(host="other.example", authorization=basic(TOKEN))

        assert asked(server.port, named).status == 200
        assert asked(server.port, other).status == 421  # a token does not help


def test_an_oversized_head_is_refused(open_port: int) -> None:
    assert asked(open_port, request(x="a" * 8192)).status in (400, 431)


@pytest.mark.parametrize("path", [*_PATHS, "/no/such/page"])
def test_without_a_token_nothing_is_shown(port: int, path: str) -> None:
    for given in ({}, {"authorization": basic(b"0" * 32)}):
        answer = asked(port, request(path, **given))

        assert (answer.status, answer.body) == (401, b"")
        # what the page's script fetches makes no browser open a window again and again
        wanted = "bearer" if path == "/fragment" else "basic realm="
        assert answer.headers["www-authenticate"].startswith(wanted)


@pytest.mark.parametrize("user", [b"", b"duty", b"a:b"[:1]])
def test_a_browser_sends_the_token_as_a_password(port: int, user: bytes) -> None:
    answer = asked(port, request(authorization=basic(TOKEN, user)))

    assert answer.status == 200
    bearer = f"Bearer {TOKEN.decode()}"
    assert asked(port, request(authorization=bearer)).status == 200


@pytest.mark.parametrize(
    "given",
    [
        basic(TOKEN[:-1]),
        basic(TOKEN + b"0"),
        basic(b""),
        "Basic !!!!",
        "Basic",
        "Basic " + "A" * 4000,
        "Bearer " + "0" * 32,
        "Digest x",
        "\xff",
    ],
)
def test_a_wrong_token_is_refused(port: int, given: str) -> None:
    answer = asked(port, request(authorization=given))

    assert (answer.status, answer.body) == (401, b"")


def test_who_guesses_is_not_listened_to_any_more(port: int, clock: Clock) -> None:
    for _ in range(TRIES_PER_MINUTE):
        assert asked(port, request(authorization=basic(b"0" * 32))).status == 401

    wrong = asked(port, request(authorization=basic(b"0" * 32)))
    right = asked(port, request(authorization=basic(TOKEN)))

    assert (wrong.status, right.status) == (429, 429)
    assert 1 <= int(wrong.headers["retry-after"]) <= 60
    clock.now += 60
    assert asked(port, request(authorization=basic(TOKEN))).status == 200


def test_who_asks_without_a_token_uses_up_no_try(port: int) -> None:
    for _ in range(2 * TRIES_PER_MINUTE):
        asked(port, request())

    assert asked(port, request(authorization=basic(TOKEN))).status == 200


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    section = with_token(tmp_path)
    assert section.token_file is not None
    section.token_file.chmod(0o640)

    with pytest.raises(ConfigError, match="others may read the token"):
        DashboardServer(section, view)


def test_many_requests_make_the_page_once(clock: Clock) -> None:
    made: list[View] = []

    def look() -> View:
        made.append(view())
        return made[-1]

    with DashboardServer(DashboardSection(port=0), look, clock=clock) as server:
        for path in ("/", "/fragment", "/"):
            asked(server.port, request(path))
        assert len(made) == 1

        clock.now += KEPT_SECONDS
        asked(server.port, request())
        assert len(made) == 2


def test_who_has_a_certificate_of_the_clients_ca_is_shown_the_page(
    tmp_path: Path, pki: Pki
) -> None:
    duty = Pki()
    served = pki.write(tmp_path / "served", pki.server())
    clients = duty.write(tmp_path / "duty", duty.site("duty"))
    strangers = pki.write(tmp_path / "site", pki.site("site-a"))
    section = DashboardSection(
        port=0,
        certificate=served.certificate,
        key=served.key,
        client_authority=clients.ca,
    )

    def context(certificate: Path | None, key: Path | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(served.ca))
        if certificate is not None:
            made.load_cert_chain(certificate, key)
        return made

    with DashboardServer(section, view) as server:
        known = asked(server.port, request(), context(clients.certificate, clients.key))
        assert (known.status, known.headers["strict-transport-security"]) == (
            200,
            "max-age=31536000",
        )
        for stranger in ((None, None), (strangers.certificate, strangers.key)):
            try:
                seen = asked(server.port, request(), context(*stranger)).body
            except ssl.SSLError:
                seen = b""
            assert seen == b""


_EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&{{7*7}}"


def test_a_name_is_text_wherever_it_stands() -> None:
    cells = (Cell(_EVIL), Cell(_EVIL), Cell("", spark=Spark([(1, 1)], _EVIL)))
    columns = (Column(_EVIL), Column("b"), Column("c"))
    table = Table("t", _EVIL, columns, [cells], "none")
    evil = Panel("p", _EVIL, (Fact(_EVIL, _EVIL),), (table,), _EVIL)

    with DashboardServer(
        DashboardSection(port=0), lambda: view(evil, title=_EVIL)
    ) as server:
        for path in ("/", "/fragment"):
            page = asked(server.port, request(path)).body.decode()

            assert "<script>alert" not in page
            assert "<img" not in page
            assert "'><" not in page
            assert "&{{7*7}}" not in page.replace("&amp;{{7*7}}", "")
            assert "&lt;script&gt;alert(1)" in page
