"""What a site's figures must pass before the coordinator sees them.

1. Only keys on the site's allow-list; a figure with another key stays here.
2. Only finite figures within the range of their kind.
3. Rounded to the decimals of the policy; a count of patches to tens.

What is blocked is counted and named in the site's own log.
"""

import logging
import math
from collections.abc import Mapping

from moma_client.config import EgressSection
from moma_client.metrics import ClientMetrics

_logger = logging.getLogger(__name__)

_COUNT_STEP = 10
_RANGES = {"kappa": (-1.0, 1.0)}  # everything else is a share
_SHARE = (0.0, 1.0)


class Egress:
    """The one way out for figures.

    Args:
        policy: The site's.
        metrics: Counts what is blocked.
    """

    def __init__(self, policy: EgressSection, metrics: ClientMetrics) -> None:
        self._policy = policy
        self._metrics = metrics
        self._allowed = frozenset(policy.metrics)

    def figures(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Returns those of `measured` that may leave, as they may leave."""
        return {
            key: round(value, self._policy.decimals)
            for key, value in measured.items()
            if self._may_leave(key, value)
        }

    def patches(self, count: int) -> int:
        """Returns a count of patches, rounded to tens, at least ten."""
        return max(_COUNT_STEP, round(count / _COUNT_STEP) * _COUNT_STEP)

    def _may_leave(self, key: str, value: float) -> bool:
        if key not in self._allowed:
            return self._blocked("metric", key)
        low, high = _RANGES.get(key.rsplit("_", 1)[-1], _SHARE)
        if not math.isfinite(value) or not low <= value <= high:
            return self._blocked("range", key)
        return True

    def _blocked(self, rule: str, key: str) -> bool:
        self._metrics.egress_blocked.labels(rule=rule).inc()
        _logger.debug("egress rule %s keeps %s here", rule, key)
        return False
