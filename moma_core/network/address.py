"""Addresses as config files write them: `host:port`, an IPv6 host in brackets."""

import re
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator, Field

from moma_core.errors import FederationError, printable_line, quoted

_LONGEST_ADDRESS = 300  # letters; a name has 253
_IPV6 = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
_HOST = re.compile(rf"[A-Za-z0-9._-]+|{_IPV6.pattern}")


def _checked(address: str) -> str:
    try:
        endpoint_of(address)
    except FederationError as error:
        raise ValueError(str(error)) from None
    return address


Address = Annotated[
    str, AfterValidator(_checked), Field(json_schema_extra={"pattern": "host:port"})
]
"""`host:port` in a config: coordinator.example:8443, or [2001:db8::7]:8443."""


def endpoint_of(address: str) -> tuple[str, int]:
    """Returns host, without brackets, and port of `host:port`.

    Raises:
        FederationError: It is none.
    """
    if len(address) > _LONGEST_ADDRESS:
        raise FederationError(f"{quoted(address)} is too long for an address")
    host, _, port = address.rpartition(":")
    is_port = port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535
    bare, hint = bare_host(host), ""
    if bare == host and _IPV6.fullmatch(host):
        hint = f"; an IPv6 address stands in brackets, [{host}]:{port}"
    elif "://" in address:
        hint = f"; leave out {address.partition('://')[0]}://"
    elif "/" in port:
        hint = "; leave out what follows the port"
    elif not host and is_port:
        hint = f"; put the host before it, host:{port}"
    elif not host and _HOST.fullmatch(address) and not address.isdecimal():
        hint = f"; add its port, {address}:..."
    if hint or not is_port or not _HOST.fullmatch(bare):
        hint = printable_line(hint)  # it repeats a part
        message = f"{quoted(address)} is no address of the form host:port{hint}"
        raise FederationError(message)
    return bare, int(port)


def bare_host(host: str) -> str:
    """Returns a host without the brackets of an IPv6 address."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def address_of(host: str, port: int) -> str:
    """Returns `host:port`, with brackets where the host is an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def yaml_address(address: str) -> str:
    """Returns a host or an address as a YAML file takes it: IPv6 in quotes."""
    return f'"{address}"' if address.count(":") > 1 else address


def is_wildcard(host: str) -> bool:
    """Whether it is all addresses of a machine: one listens there, none calls it."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def network_of(host: str) -> str | None:
    """Returns what is counted of an address, None where it is none.

    Of IPv6 it is the network of 64 bits: a single customer has as many addresses.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped
        if inner is not None:
            return str(inner)
        return str(ip_network((address, 64), strict=False))
    return str(address)
