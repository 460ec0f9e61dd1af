"""The dashboard of a server: the panels of its roles, and their alerts."""

from collections.abc import Iterator
from datetime import UTC, datetime

from moma_core.dashboard.certificates import certificate_alerts, certificate_panel
from moma_core.dashboard.view import Alert, Panel, View
from moma_core.errors import MomaError
from moma_core.metrics_http.registry import Registry, Samples
from moma_server.config.server import ServerConfig
from moma_server.dashboard import coordinator, teacher
from moma_server.status import audit_status, relay_links, run_status

_GRAVITY = ("critical", "warning", "info")


def server_view(config: ServerConfig, registry: Registry, now: datetime) -> View:
    """Returns what a server shows of itself, as it is now.

    Args:
        config: Of the server.
        registry: Its metrics, as its own page shows them.
        now: The present.
    """
    samples = Samples(registry)
    panels: list[Panel] = []
    alerts: list[Alert] = []
    for part in _parts(config, samples, now):
        panels += part[0]
        alerts += part[1]
    panels.append(certificate_panel(samples, now))
    alerts += certificate_alerts(samples, now, prefix="Moma")
    roles = ["coordinator"] if config.coordinator is not None else []
    if config.teacher is not None:
        roles.append(f"teacher {config.teacher.name}")
    return View(
        title=f"Federation {config.federation}",
        subtitle=f"moma-server: {' and '.join(roles)}",
        alerts=sorted(alerts, key=lambda alert: _GRAVITY.index(alert.severity)),
        panels=panels,
        made_at=now,
    )


Part = tuple[list[Panel], list[Alert]]


def _parts(config: ServerConfig, samples: Samples, now: datetime) -> Iterator[Part]:
    if config.coordinator is not None:
        try:
            run = run_status(config, config.coordinator, UTC)
            links = None
            if config.coordinator.relay is not None:
                links = relay_links(config)
            yield (
                coordinator.panels(run, links, samples, now),
                coordinator.alerts(run, samples, now),
            )
        except MomaError as error:
            yield _unreadable("run", "Run", error)
    if config.teacher is not None:
        try:
            audit = audit_status(config, config.teacher)
            yield (
                teacher.panels(audit, samples, now),
                teacher.alerts(samples, now),
            )
        except MomaError as error:
            yield _unreadable("audit", "Audit log", error)


def _unreadable(key: str, title: str, error: MomaError) -> Part:
    return [Panel(key, title, note=f"It cannot be read now: {error}.")], []
