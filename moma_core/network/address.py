"""Addresses as config files write them: `host:port`, an IPv6 host in brackets."""

import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator

from moma_core.errors import FederationError

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


def _checked(address: str) -> str:
    try:
        host, _ = endpoint_of(address)
    except FederationError as error:
        raise ValueError(str(error)) from None
    if not _HOST.fullmatch(host):
        raise ValueError(f"{address!r} is no address of the form host:port")
    return address


Address = Annotated[str, AfterValidator(_checked)]
"""`host:port` in a config: coordinator.example:8443, or [2001:db8::7]:8443."""


def endpoint_of(address: str) -> tuple[str, int]:
    """Returns host, without brackets, and port of `host:port`.

    Raises:
        FederationError: It is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise FederationError(f"{address!r} is no address of the form host:port")
    bare = bare_host(host)
    if bare == host and ":" in host:
        hint = f"an IPv6 address stands in brackets, [{host}]:{port}"
        raise FederationError(f"{address!r} is no address: {hint}")
    return bare, int(port)


def bare_host(host: str) -> str:
    """Returns a host without the brackets of an IPv6 address."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def address_of(host: str, port: int) -> str:
    """Returns `host:port`, with brackets where the host is an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_wildcard(host: str) -> bool:
    """Whether it is all addresses of a machine: one listens there, none calls it."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
