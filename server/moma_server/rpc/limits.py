"""How many connections a port serves, for how long, and with how many calls."""

import ipaddress
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBounds:
    """Bounds of one gRPC port, whoever connects.

    Args:
        count: Connections that are open at once; further ones are closed.
        age: Age at which a connection is replaced, and its handshake made anew.
        grace: Time in which calls on an old connection must end.
        idle: Time without a call after which a connection is closed.
    """

    count: int = 1024
    age: timedelta = timedelta(hours=1)
    grace: timedelta = timedelta(minutes=10)
    idle: timedelta = timedelta(minutes=10)

    def options(self, *, streams: int) -> list[tuple[str, int]]:
        """Returns gRPC's options.

        Args:
            streams: Calls open at once on one connection; later ones wait in the
                caller.
        """
        return [
            ("grpc.max_allowed_incoming_connections", self.count),
            ("grpc.max_concurrent_streams", streams),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.max_connection_age_ms", _milliseconds(self.age)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(self.grace)),
            ("grpc.max_connection_idle_ms", _milliseconds(self.idle)),
            ("grpc.server_handshake_timeout_ms", 10_000),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.so_reuseport", 0),
        ]


def _milliseconds(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)


def network_of(host: str) -> str | None:
    """Returns the network by which an address is counted, None where it is none.

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
