"""Runs a site: its metrics, its signals, its session."""

import signal
import threading
from importlib.metadata import version
from pathlib import Path

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.identity.enrolment import kept_certificate
from moma_client.identity.revocations import kept_revocations
from moma_client.metrics import shown_metrics
from moma_client.site.session import SiteSession


def run_site(config: SiteConfig) -> None:
    """Takes part until the run is over.

    Raises:
        StoppedError: The operator stopped it; the same call resumes.
        MomaError: It cannot go on.
    """
    stop = stop_on_signals()
    with (
        shown_metrics(
            config.metrics,
            version=version("moma-service"),
            certificates=_own_certificates(config),
            renewed=_renewed_certificates(config),
        ) as metrics,
        kept_certificate(config),
        kept_revocations(config, stop),
    ):
        SiteSession(RunContext(config, stop, metrics)).run()


def _renewed_certificates(config: SiteConfig) -> set[str]:
    return set() if config.coordinator.enrolment is None else {_subject(config)}


def _own_certificates(config: SiteConfig) -> dict[str, Path]:
    own = {
        _subject(config): config.identity.certificate,
        "authority": config.identity.authority,
    }
    if config.metrics.certificate is not None:
        own["metrics"] = config.metrics.certificate
    return own


def _subject(config: SiteConfig) -> str:
    return f"site/{config.site}"


def stop_on_signals() -> threading.Event:
    """Returns what Ctrl-C and SIGTERM set; a second one changes nothing.

    It takes over both signals: call it in the main thread.
    """
    stop = threading.Event()

    def heard(_number: int, _frame: object) -> None:
        # The main thread may hold the event's own lock right now: another sets it.
        threading.Thread(target=stop.set, daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, heard)
    return stop
