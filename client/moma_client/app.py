"""Runs a site: its metrics, its signals, its session."""

from importlib.metadata import version

from moma_client.config import SiteConfig
from moma_client.enrolling import kept_certificate
from moma_client.metrics import shown_metrics
from moma_client.progress import StopSignal
from moma_client.session import SiteSession


def run_site(config: SiteConfig) -> None:
    """Takes part until the run is over.

    Raises:
        StoppedError: The operator stopped it; the same call resumes.
        MomaError: It cannot go on.
    """
    stop = StopSignal()
    stop.listen()
    at = config.metrics
    with (
        shown_metrics(at.host, at.port, version=version("moma-service")) as metrics,
        kept_certificate(config, metrics),
    ):
        SiteSession(config, stop.event, metrics).run()
