"""Shows a program's dashboard while it runs, where its config has one."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from moma_core.dashboard.config import DashboardSection
from moma_core.dashboard.view import Look

_logger = logging.getLogger(__name__)


@contextmanager
def shown_dashboard(section: DashboardSection | None, look: Look) -> Iterator[None]:
    """Shows it while the block runs; no section and port 0 show none.

    Args:
        section: The address, and what it takes to look.
        look: Makes what is shown.

    Raises:
        ConfigError: The address cannot be listened at, or certificate, key, token or
            the clients' CA cannot be used.
    """
    if section is None or section.port == 0:
        yield
        return
    # only a program that shows one needs its HTTP server and its templates
    from moma_core.dashboard.server import DashboardServer

    with DashboardServer(section, look):
        _logger.info("dashboard at %s/", section.url)
        yield
