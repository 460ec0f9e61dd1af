"""How often somebody may do what costs: a bucket of tokens for each name."""

from collections import OrderedDict
from collections.abc import Callable


class TokenBucket:
    """Lets a name act so often in a minute, and as often at once after a rest.

    Args:
        per_minute: Tokens that come back in a minute, > 0.
        clock: Gives seconds, and never goes back.
        most_names: The least recent names are forgotten beyond it, so that their
            number costs no memory; None: all are kept.
    """

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float],
        most_names: int | None = None,
    ) -> None:
        if per_minute <= 0:
            raise ValueError(f"a rate must be > 0 a minute, got {per_minute}")
        self._per_minute, self._most = per_minute, max(1.0, per_minute)
        self._clock, self._most_names = clock, most_names
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Lets a name act, and returns 0; else returns in how many seconds it may."""
        now = self._clock()
        tokens, since = self._buckets.pop(name, (self._most, now))
        tokens = refilled(tokens, now - since, self._per_minute, self._most)
        wait = seconds_until(1, tokens, self._per_minute)
        self._buckets[name] = (tokens if wait else tokens - 1, now)
        if self._most_names and len(self._buckets) > self._most_names:
            self._buckets.popitem(last=False)
        return wait


def refilled(tokens: float, seconds: float, per_minute: float, most: float) -> float:
    """Returns what a bucket holds after a time; a clock that went back adds nothing."""
    return min(most, tokens + max(0.0, seconds) * per_minute / 60)


def seconds_until(wanted: float, tokens: float, per_minute: float) -> float:
    """Returns when a bucket holds what is wanted; 0: it does now."""
    return max(0.0, wanted - tokens) * 60 / per_minute
