"""The one way to a gRPC channel: to a certificate that was looked at, or by a proxy.

gRPC's own proxy rules are off: which link goes through which proxy is decided once for
all links, by `moma_core.network.proxy`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from moma_core.network.address import endpoint_of
from moma_core.network.proxy import ProxyRule

ChannelOption = tuple[str, int | str]


class ChannelTarget(NamedTuple):
    """What `grpc.secure_channel` takes beside the credentials."""

    target: str
    options: list[ChannelOption]


def channel_target(
    address: str, proxy: ProxyRule, options: Sequence[ChannelOption] = ()
) -> ChannelTarget:
    """Returns the target and the options of a channel to `host:port`.

    Each channel is a new connection, and nothing is repeated by gRPC itself.

    Args:
        address: `host:port`; its host is checked against the certificate in any case.
        proxy: Whether it goes through a proxy, now.
        options: Further options of the channel.

    Raises:
        ConfigError: The proxy's credentials cannot be read.
        FederationError: The address is none.
    """
    own: list[ChannelOption] = [
        *options,
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    route = proxy.route(address)
    if route is None:
        return ChannelTarget(address, own)
    # gRPC keeps a blank behind the colon, and puts one there itself
    headers = "\n".join(f"{name}:{value}" for name, value in route.headers.items())
    own += [
        ("grpc.http_connect_server", address),
        ("grpc.default_authority", address),
        ("grpc.ssl_target_name_override", endpoint_of(address)[0]),
    ]
    if headers:
        own.append(("grpc.http_connect_headers", headers))
    return ChannelTarget(f"dns:///{route.address}", own)
