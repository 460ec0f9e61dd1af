"""Whether a link goes through the hospital's proxy, and the way through it.

One rule for every outgoing link: `none`, `environment` (HTTPS_PROXY, ALL_PROXY and
NO_PROXY, as other programs read them) or the URL of one proxy. TLS stays between the
two ends: the proxy is asked for a CONNECT tunnel and sees no byte in the clear.
"""

import base64
import re
import socket
import time
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import AfterValidator, Field, model_validator

from moma_core.config import ConfigPath, Section
from moma_core.errors import ConfigError, FederationError, printable_line
from moma_core.network.address import address_of, endpoint_of

NONE, ENVIRONMENT = "none", "environment"

_DEFAULT_PORT = 3128
_LONGEST_CREDENTIALS = 4096
_LONGEST_HEAD = 16_384
_LONGEST_REASON = 100
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})([^\r\n]*)\r?\n")
_WHY: Final[dict[int, str]] = {
    HTTPStatus.FORBIDDEN: "refuses",
    HTTPStatus.BAD_GATEWAY: "gets no further",
    HTTPStatus.SERVICE_UNAVAILABLE: "gets no further",
    HTTPStatus.GATEWAY_TIMEOUT: "gets no further",
}


@dataclass(frozen=True, slots=True)
class ProxyRoute:
    """A proxy on the way to one address.

    Args:
        host: Host of the proxy.
        port: Its port.
        origin: What named it: `network.proxy` or `HTTPS_PROXY`.
        credentials: `user:password`; None: it is told none.
    """

    host: str
    port: int
    origin: str
    credentials: str | None = None

    def __str__(self) -> str:
        return f"the proxy {self.address} ({self.origin})"

    @property
    def address(self) -> str:
        """`host:port` of the proxy."""
        return address_of(self.host, self.port)

    @property
    def headers(self) -> dict[str, str]:
        """What a CONNECT request carries beside the place."""
        if self.credentials is None:
            return {}
        encoded = base64.b64encode(self.credentials.encode()).decode("ascii")
        return {"Proxy-Authorization": f"Basic {encoded}"}

    @property
    def url(self) -> str:
        """The proxy as a URL with its credentials: for a library, never for a log."""
        if self.credentials is None:
            return f"http://{self.address}"
        user, _, password = self.credentials.partition(":")
        return (
            f"http://{quote(user, safe='')}:{quote(password, safe='')}@{self.address}"
        )


@dataclass(frozen=True, slots=True)
class ProxyRule:
    """Which links go through which proxy.

    Args:
        proxy: `none`, `environment`, or `http://host:port`.
        credentials_file: Holds `user:password` for a proxy that is named by its URL.
    """

    proxy: str = NONE
    credentials_file: Path | None = None

    def route(self, address: str) -> ProxyRoute | None:
        """Returns the proxy on the way to `host:port`; None: there is none.

        Environment and file are read each time: a new password needs no restart.

        Raises:
            ConfigError: The credentials cannot be read, or the environment's proxy is
                none that makes tunnels.
            FederationError: The address is none.
        """
        if self.proxy == NONE:
            return None
        if self.proxy == ENVIRONMENT:
            return _route_of_environment(address)
        credentials = None
        if self.credentials_file is not None:
            credentials = _read_credentials(self.credentials_file)
        return _parsed(self.proxy, "network.proxy", credentials)

    def connect(self, address: str, *, seconds: float) -> socket.socket:
        """Returns a connection to `host:port`, through the proxy where one is.

        Args:
            address: `host:port`.
            seconds: For the connection, and for each answer of the proxy.

        Raises:
            FederationError: The address cannot be reached, or the proxy refuses.
            ConfigError: As `route`.
        """
        route = self.route(address)
        if route is not None:
            return _tunnel(route, address, seconds)
        try:
            return socket.create_connection(endpoint_of(address), timeout=seconds)
        except (OSError, UnicodeError) as error:  # the latter for a host that is none
            message = f"cannot reach {address}: {error}{self._unused_proxy()}"
            raise FederationError(message) from error

    def _unused_proxy(self) -> str:
        """Names a proxy that might be meant, where the rule uses none."""
        name = "" if self.proxy != NONE else environment_proxy()
        if not name:
            return ""
        return f"; {name} is set and not used, network.proxy: environment uses it"


DIRECT = ProxyRule()
"""No link goes through a proxy."""


def _checked_proxy(value: str) -> str:
    if value in (NONE, ENVIRONMENT):
        return value
    try:
        route = _parsed(value, "network.proxy", None)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("network.proxy: ")) from None
    if route.credentials is not None:
        raise ValueError(
            "a proxy's password does not stand in its URL: put user:password into a "
            "file of mode 0600 and name it by proxy_credentials_file"
        )
    return value


class NetworkSection(Section):
    """How this program reaches the others of the federation."""

    proxy: Annotated[str, AfterValidator(_checked_proxy)] = Field(
        default=NONE,
        description="none; environment: HTTPS_PROXY and NO_PROXY hold; or the proxy "
        "of all links, http://host:port.",
    )
    proxy_credentials_file: ConfigPath | None = Field(
        default=None,
        description="File with the proxy's user:password, mode 0600; null: none.",
    )

    @model_validator(mode="after")
    def _credentials_have_a_proxy(self) -> Self:
        is_url = self.proxy not in (NONE, ENVIRONMENT)
        if self.proxy_credentials_file is not None and not is_url:
            raise ValueError(
                f"proxy_credentials_file is for a proxy that is named by its URL, and "
                f"proxy is {self.proxy}"
            )
        return self

    def rule(self) -> ProxyRule:
        """Returns the rule for all links."""
        return ProxyRule(self.proxy, self.proxy_credentials_file)


def environment_proxy() -> str:
    """Returns the name of the environment's proxy for TLS links; empty: none is set."""
    proxies = urllib.request.getproxies_environment()
    names = {"https": "HTTPS_PROXY", "all": "ALL_PROXY"}
    return next((name for key, name in names.items() if proxies.get(key)), "")


def _route_of_environment(address: str) -> ProxyRoute | None:
    host, port = endpoint_of(address)
    proxies = urllib.request.getproxies_environment()
    url = proxies.get("https") or proxies.get("all")
    if not url or _is_excepted(host, port, proxies):
        return None
    return _parsed(url, environment_proxy(), None)


def _is_excepted(host: str, port: int, proxies: dict[str, str]) -> bool:
    """Whether NO_PROXY names the host, also by its network (10.0.0.0/8)."""
    if urllib.request.proxy_bypass(address_of(host, port)):
        return True
    entries = [entry.strip() for entry in proxies.get("no", "").split(",")]
    return any(_is_within(host, entry.strip("[]")) for entry in entries)


def _is_within(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False  # one of both is a name


def _parsed(url: str, origin: str, credentials: str | None) -> ProxyRoute:
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    shown = f"{origin}: {_without_password(whole)}"
    if not host or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f"{shown} is no proxy, write http://host:port")
    if parts.scheme != "http":
        raise ConfigError(
            f"{shown} is a proxy by {parts.scheme}, and only those by http, which make "
            f"CONNECT tunnels, can be used: ask for such a port, and write "
            f"http://host:port; the tunnel's content is TLS all the same"
        )
    if credentials is None and parts.username is not None:
        password = unquote(parts.password or "")
        credentials = f"{unquote(parts.username)}:{password}"
    return ProxyRoute(host, port or _DEFAULT_PORT, origin, credentials)


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return repr(f"{scheme}://{rest.rpartition('@')[2]}")


def _read_credentials(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST_CREDENTIALS).strip()
        is_open = path.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read network.proxy_credentials_file: {error}"
        raise ConfigError(message) from None
    if is_open:
        raise ConfigError(f"others can read {path}: chmod 600 {path}")
    if ":" not in text or not text.isprintable():
        raise ConfigError(f"{path} holds no user:password on one line")
    return text


def _tunnel(route: ProxyRoute, address: str, seconds: float) -> socket.socket:
    """Returns a connection through a proxy.

    Raises:
        FederationError: It cannot be reached, or makes no tunnel.
    """
    deadline = time.monotonic() + seconds
    try:
        connection = socket.create_connection((route.host, route.port), seconds)
    except (OSError, UnicodeError) as error:
        raise FederationError(f"{route} cannot be reached: {error}") from error
    try:
        connection.sendall(_request(route, address))
        _check_response(_read_head(connection, deadline), route, address)
        connection.settimeout(seconds)
    except OSError as error:
        connection.close()
        message = f"{route} says nothing on the way to {address}: {error}"
        raise FederationError(message) from error
    except FederationError:
        connection.close()
        raise
    return connection


def _request(route: ProxyRoute, address: str) -> bytes:
    place = address_of(*endpoint_of(address))
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    lines += [f"{name}: {value}" for name, value in route.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


def _read_head(connection: socket.socket, deadline: float) -> bytes:
    """Returns the head of an answer and not a byte more, for TLS begins behind it."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n") and len(head) < _LONGEST_HEAD:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        byte = connection.recv(1)
        if not byte:
            break
        head += byte
    return bytes(head)


def _check_response(head: bytes, route: ProxyRoute, address: str) -> None:
    found = _STATUS_LINE.match(head)
    if found is None:
        raise FederationError(
            f"{route} does not answer as a proxy: no HTTP answer to a CONNECT"
        )
    status = int(found[1])
    if 200 <= status < 300:
        return
    reason = found[2].decode("latin-1").strip()
    shown = printable_line(reason, _LONGEST_REASON)
    said = f"({status} {shown})".replace(" )", ")")
    if status != HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        why = _WHY.get(status, "makes no tunnel")
        raise FederationError(
            f"{route} {why} on the way to {address} {said}: ask whoever runs it to "
            f"allow CONNECT to {address}"
        )
    if route.credentials is None:
        wanted = "put user:password into the file network.proxy_credentials_file"
        raise FederationError(f"{route} wants credentials {said}: {wanted}")
    raise FederationError(f"{route} does not accept the credentials {said}")
