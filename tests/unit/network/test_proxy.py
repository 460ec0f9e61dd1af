"""One rule says for every link whether a proxy is on the way, and what it refused."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread

import pytest
from pydantic import ValidationError

from moma_core.config import validated
from moma_core.errors import ConfigError, FederationError
from moma_core.network.proxy import DIRECT, NetworkSection, ProxyRule
from moma_core.runtime.files import write_private
from tests.support.machine.connect_proxy import connect_proxy

TEACHER = "teacher.example:8444"
_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def _echo() -> Iterator[str]:
    """Says hello to whoever connects, and yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_none_obeys_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")

    assert DIRECT.route(TEACHER) is None


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_the_environment_names_proxy_port_and_credentials(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://anna:p%40ss@proxy.example:8080/")

    route = ProxyRule("environment").route(TEACHER)

    assert route is not None
    assert (route.address, route.credentials) == ("proxy.example:8080", "anna:p@ss")
    assert "p@ss" not in str(route)


@pytest.mark.parametrize(
    ("no_proxy", "address", "is_used"),
    [
        ("", TEACHER, True),
        ("other.example", TEACHER, True),
        ("teacher.example", TEACHER, False),
        (".example", TEACHER, False),
        ("*", TEACHER, False),
        ("teacher.example:8444", TEACHER, False),
        ("teacher.example:8443", TEACHER, True),
        ("10.0.0.0/8", "10.1.2.3:8444", False),
        ("10.0.0.0/8", "11.1.2.3:8444", True),
        ("localhost, ::1", "[::1]:8444", False),
        ("2001:db8::/32", "[2001:db8::7]:8444", False),
    ],
)
def test_no_proxy_holds_for_names_networks_and_ports(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, address: str, *, is_used: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)

    assert (ProxyRule("environment").route(address) is not None) is is_used


def test_a_named_proxy_is_for_all_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")

    route = ProxyRule("http://[2001:db8::9]").route(TEACHER)

    assert route is not None
    assert route.address == "[2001:db8::9]:3128"


def test_credentials_are_read_from_a_file_at_each_link(tmp_path: Path) -> None:
    file = tmp_path / "proxy"
    rule = ProxyRule("http://proxy.example:3128", file)

    write_private(file, b"anna:first\n")
    first = rule.route(TEACHER)
    write_private(file, "anna:zw\u00f6lf:2\n".encode())
    second = rule.route(TEACHER)

    assert first is not None
    assert second is not None
    assert (first.credentials, second.credentials) == (
        "anna:first",
        "anna:zw\u00f6lf:2",
    )
    assert second.url == "http://anna:zw%C3%B6lf%3A2@proxy.example:3128"


def test_credentials_that_others_can_read_or_that_are_none_are_refused(
    tmp_path: Path,
) -> None:
    rule = ProxyRule("http://proxy.example:3128", tmp_path / "proxy")

    with pytest.raises(ConfigError, match="proxy_credentials_file"):
        rule.route(TEACHER)
    write_private(tmp_path / "proxy", b"only-a-word\n")
    with pytest.raises(ConfigError, match="no user:password"):
        rule.route(TEACHER)
    (tmp_path / "proxy").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        rule.route(TEACHER)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"proxy": "https://proxy.example:3128"}, "write http://host:port"),
        ({"proxy": "socks5://proxy.example"}, "write http://host:port"),
        ({"proxy": "http://proxy.example/path"}, "is no proxy"),
        ({"proxy": "http://anna:secret@proxy.example"}, "name it by proxy_credentials"),
        ({"proxy_credentials_file": "proxy"}, "named by its URL, and proxy is none"),
    ],
)
def test_a_config_that_cannot_work_is_one_sentence(
    values: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        validated(NetworkSection, values, Path("config.yaml"))

    assert "secret" not in str(error.value)
    with pytest.raises(ValidationError):
        NetworkSection.model_validate(values)


def test_a_tunnel_carries_bytes_both_ways() -> None:
    with connect_proxy() as proxy, _echo() as address:
        rule = ProxyRule(proxy.url)
        with closing(rule.connect(address, seconds=10)) as connection:
            connection.sendall(b"hello")

        assert proxy.asked == [address]


def test_a_link_without_a_proxy_sends_it_no_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with connect_proxy() as proxy, _echo() as address:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)

        DIRECT.connect(address, seconds=10).close()

        assert proxy.connections == 0


def test_a_failure_without_a_proxy_names_the_one_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(FederationError, match="HTTPS_PROXY is set and not used"):
            DIRECT.connect(address, seconds=10)


def test_a_proxy_that_wants_credentials_says_where_they_go(tmp_path: Path) -> None:
    write_private(tmp_path / "right", b"anna:secret")
    write_private(tmp_path / "wrong", b"anna:guessed")
    with connect_proxy(credentials="anna:secret") as proxy, _echo() as address:
        with pytest.raises(FederationError) as without:
            ProxyRule(proxy.url).connect(address, seconds=10)
        with pytest.raises(FederationError) as wrong:
            ProxyRule(proxy.url, tmp_path / "wrong").connect(address, seconds=10)
        ProxyRule(proxy.url, tmp_path / "right").connect(address, seconds=10).close()

    assert "wants credentials (407 Proxy Authentication Required)" in str(without.value)
    assert "network.proxy_credentials_file" in str(without.value)
    assert "does not accept the credentials (407" in str(wrong.value)
    assert "guessed" not in str(wrong.value)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ("502 Bad Gateway", "gets no further on the way to {} (502 Bad Gateway)"),
        ("403 Forbidden", "refuses on the way to {} (403 Forbidden)"),
        ("418 \x1b[31mred", "makes no tunnel on the way to {} (418  [31mred)"),
    ],
)
def test_a_proxy_that_refuses_is_one_sentence(refusal: str, said: str) -> None:
    with connect_proxy(refusal=refusal) as proxy:
        with pytest.raises(FederationError) as error:
            ProxyRule(proxy.url).connect(TEACHER, seconds=10)

        assert said.format(TEACHER) in str(error.value)
        assert str(error.value).startswith(f"the proxy 127.0.0.1:{proxy.port} (")
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("greeting", [b"SSH-2.0-x\r\n\r\n", b"\0" * 20_000, b""])
def test_what_is_no_proxy_is_told_as_such(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rule = ProxyRule(f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.settimeout(10)
        with _answering(listener, greeting), pytest.raises(FederationError) as error:
            rule.connect(TEACHER, seconds=10)

    assert "does not answer as a proxy" in str(error.value)


def test_a_silent_proxy_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rule = ProxyRule(f"http://127.0.0.1:{listener.getsockname()[1]}")
        begun = time.monotonic()

        with pytest.raises(FederationError, match="says nothing"):
            rule.connect(TEACHER, seconds=0.3)

    assert time.monotonic() - begun < 5


@contextmanager
def _answering(listener: socket.socket, greeting: bytes) -> Iterator[None]:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(greeting)

    thread = Thread(target=answer)
    thread.start()
    yield
    thread.join()
