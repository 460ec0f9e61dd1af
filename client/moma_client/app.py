"""Runs a site: its metrics, its signals, its session."""

import logging
from importlib.metadata import version

from prometheus_client import CollectorRegistry, start_http_server

from moma_client.config import MetricsSection, SiteConfig
from moma_client.metrics import ClientMetrics, register_build
from moma_client.progress import StopSignal
from moma_client.session import SiteSession
from moma_core.errors import ConfigError

_logger = logging.getLogger(__name__)


def run_site(config: SiteConfig) -> None:
    """Takes part until the run is over.

    Raises:
        StoppedError: The operator stopped it; the same call resumes.
        MomaError: It cannot go on.
    """
    stop = StopSignal()
    stop.listen()
    registry = CollectorRegistry()
    register_build(registry, version("moma-service"))
    metrics = ClientMetrics(registry)
    _show(config.metrics, registry)
    SiteSession(config, stop.event, metrics).run()


def _show(section: MetricsSection, registry: CollectorRegistry) -> None:
    """Opens the site's own metrics; the server's thread ends with the program."""
    if section.port == 0:
        return
    try:
        start_http_server(section.port, section.host, registry)
    except OSError as error:
        address = f"{section.host}:{section.port}"
        raise ConfigError(f"cannot show metrics at {address}: {error}") from error
    _logger.info("metrics at http://%s:%d/metrics", section.host, section.port)
