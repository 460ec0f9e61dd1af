"""What every part of a site's run needs to know."""

import threading
from typing import NamedTuple

from moma_client.config.site import SiteConfig
from moma_client.metrics import ClientMetrics


class RunContext(NamedTuple):
    """One run of this process.

    Args:
        config: Settings of this site.
        stop: Set when the operator stops the program.
        metrics: Where this process counts.
    """

    config: SiteConfig
    stop: threading.Event
    metrics: ClientMetrics
