"""How often each site may do something that costs: a bucket of tokens for each."""

from collections.abc import Callable


class TokenBucket:
    """Lets a site act so often in a minute, and as often at once after a rest.

    Args:
        per_minute: > 0.
        clock: Gives seconds, and never goes back.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        if per_minute <= 0:
            raise ValueError(f"a rate must be > 0 a minute, got {per_minute}")
        self._most = max(1.0, per_minute)
        self._per_second = per_minute / 60
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, as of when

    def take(self, site: str) -> float:
        """Lets a site act, and returns 0; else returns in how many seconds it may."""
        now = self._clock()
        tokens, since = self._buckets.get(site, (self._most, now))
        tokens = min(self._most, tokens + (now - since) * self._per_second)
        allowed = tokens >= 1
        self._buckets[site] = (tokens - allowed, now)
        return 0.0 if allowed else (1 - tokens) / self._per_second
