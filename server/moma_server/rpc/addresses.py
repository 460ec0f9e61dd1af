"""Whose address it is: what counts as one caller where callers are counted."""

import ipaddress


def network_of(host: str) -> str | None:
    """Returns what is counted of an address, None where it is none.

    Of IPv6 it is the network of 64 bits: a single customer has as many addresses.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped
        if inner is not None:
            return str(inner)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
