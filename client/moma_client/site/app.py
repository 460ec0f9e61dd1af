"""Runs a site: its metrics, its signals, its session."""

import fcntl
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.identity.enrolment import kept_certificate
from moma_client.identity.revocations import kept_revocations
from moma_client.identity.state_owner import take_folder
from moma_client.metrics import ClientMetrics, shown_metrics
from moma_client.site.session import SiteSession
from moma_core.dashboard.serve import shown_dashboard
from moma_core.dashboard.view import View
from moma_core.errors import ConfigError
from moma_core.pki.identity import PeerName
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import make_folder, writing


def run_site(config: SiteConfig) -> None:
    """Takes part until the run is over.

    Raises:
        ConfigError: Another program takes part with this `state_dir`, or it is another
            site's.
        StoppedError: The operator stopped it; the same call resumes.
        MomaError: It cannot go on.
    """
    stop = stop_on_signals()
    if config.dashboard is not None:
        config.dashboard.check_client_authority(config.identity.authority)
    with (
        held_alone(config.state_dir, PeerName(config.federation, "site", config.site)),
        shown_metrics(
            config.metrics,
            version=version("moma-service"),
            certificates=_own_certificates(config),
            renewed=_renewed_certificates(config),
        ) as metrics,
        shown_dashboard(config.dashboard, partial(_look, config, metrics)),
        kept_certificate(config),
        kept_revocations(config, stop),
    ):
        SiteSession(RunContext(config, stop, metrics)).run()


def _look(config: SiteConfig, metrics: ClientMetrics) -> View:
    # a program that shows no dashboard loads nothing for it
    from moma_client.dashboard.view import site_view

    return site_view(config, metrics.registry, utc_now())


@contextmanager
def held_alone(state_dir: Path, own: PeerName) -> Iterator[None]:
    """Keeps other runs out of a folder: two would go on from each other's checkpoints.

    Args:
        state_dir: The folder.
        own: Whose it is from now on.

    Raises:
        ConfigError: Another program has it, or it is another site's.
        DiskError: The disk does not take the lock's file.
    """
    make_folder(state_dir)
    path = state_dir / "client.lock"
    with writing(path, "the lock of this site"):
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another moma-client takes part with state_dir {state_dir}: let it "
                f"run, or stop it first"
            ) from None
        take_folder(state_dir, own)
        yield


def _renewed_certificates(config: SiteConfig) -> set[str]:
    return set() if config.coordinator.enrolment is None else {_subject(config)}


def _own_certificates(config: SiteConfig) -> dict[str, Path]:
    own = {
        _subject(config): config.identity.certificate,
        "authority": config.identity.authority,
    }
    if config.metrics.certificate is not None:
        own["metrics"] = config.metrics.certificate
    if config.dashboard is not None and config.dashboard.certificate is not None:
        own["dashboard"] = config.dashboard.certificate
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
