"""How often an address may knock at the enrolment desk.

A secret of 32 bytes is not guessed, at any rate. The bound is for the desk itself: each
try costs a signature and a line in the record.
"""

from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import unquote

from moma_server.rpc.addresses import network_of

_MOST_ADDRESSES = 4096
_ALL = "all"
_ALL_OVER_ONE = 10


class TryBounds:
    """A bucket of tries for each address, and one for all of them.

    The least recent addresses are forgotten, so that their number costs no memory.

    Args:
        per_minute: Tries of one address, as many at once after a rest; of all together
            ten times that.
        clock: Gives seconds, and never goes back.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str) -> bool:
        """Takes one try of an address.

        Args:
            address: See `address_of`.
        """
        return self._take(address, self._per_minute)

    def allows_strangers(self) -> bool:
        """Takes one try from the bucket that all share who are no members.

        A member that renews takes none, so that a flood of strangers cannot shut it
        out.
        """
        return self._take(_ALL, _ALL_OVER_ONE * self._per_minute)

    def _take(self, name: str, per_minute: float) -> bool:
        now, most = self._clock(), max(1.0, per_minute)
        left, since = self._buckets.pop(name, (most, now))
        left = min(most, left + (now - since) * per_minute / 60)
        allowed = left >= 1
        self._buckets[name] = (left - allowed, now)
        if len(self._buckets) > _MOST_ADDRESSES:
            oldest = next(key for key in self._buckets if key != _ALL)
            del self._buckets[oldest]
        return allowed


def address_of(peer: str) -> str:
    """Returns the address behind gRPC's name of a peer, see `network_of`."""
    scheme, _, rest = unquote(peer).partition(":")
    return network_of(rest.rpartition(":")[0].strip("[]")) or scheme[:16]
