"""Certificates and when they end, for both programs, by the rules of the alerts."""

from datetime import datetime

from moma_core.dashboard.view import Alert, Cell, Column, Panel, Table, length, moment
from moma_core.metrics_http.registry import Samples

_DAY = 86_400
SOON_SECONDS = 14 * _DAY
"""As `MomaCertificateEndsSoon` of `deploy/prometheus` has it."""

VERY_SOON_SECONDS = 5 * _DAY
"""As `MomaCertificateNotRenewed` has it."""

LATE_SECONDS = 6 * 3600
"""A certificate that renews itself is no news until its renewal is so late."""

_EXPIRY = "moma_certificate_expiry_timestamp_seconds"
_RENEWAL = "moma_certificate_renewal_timestamp_seconds"


def certificate_panel(samples: Samples, now: datetime) -> Panel:
    """Returns all certificates that the metrics know, those that end first on top."""
    rows = []
    for labels, end in sorted(samples.rows(_EXPIRY), key=lambda row: row[1]):
        subject, left = labels["subject"], end - now.timestamp()
        renewal = samples.value(_RENEWAL, subject=subject)
        is_near = _severity(samples, subject, end, now) is not None
        rows.append(
            (
                Cell(subject),
                Cell(moment(end)),
                Cell(length(left) if left > 0 else "ended", "bad" if is_near else ""),
                Cell("nobody renews it" if renewal is None else moment(renewal)),
            )
        )
    columns = (Column("Whose"), Column("Ends"), Column("Left"), Column("Renewal due"))
    table = Table(
        "certificate-table",
        "Certificates, by when they end",
        columns,
        rows,
        "No certificate is watched.",
    )
    return Panel("certificates", "Certificates", tables=(table,))


def certificate_alerts(samples: Samples, now: datetime, *, prefix: str) -> list[Alert]:
    """Returns an alert for each certificate near its end.

    Args:
        samples: Of the program's metrics.
        now: The present.
        prefix: How the program's alerts begin, `Moma` or `MomaSite`.
    """
    alerts = []
    for labels, end in samples.rows(_EXPIRY):
        name = _severity(samples, labels["subject"], end, now)
        left = end - now.timestamp()
        if name is None:
            continue
        said = f"ends in {length(left)}" if left > 0 else "has ended or cannot be read"
        alerts.append(
            Alert(
                f"{prefix}{name}",
                "critical" if name == "CertificateNotRenewed" else "warning",
                f"The certificate of {labels['subject']} {said}.",
            )
        )
    return alerts


def _severity(samples: Samples, subject: str, end: float, now: datetime) -> str | None:
    left = end - now.timestamp()
    renewal = samples.value(_RENEWAL, subject=subject)
    if renewal is not None and renewal > now.timestamp() - LATE_SECONDS:
        return None
    if left < VERY_SOON_SECONDS:
        return "CertificateNotRenewed"
    return "CertificateEndsSoon" if left < SOON_SECONDS else None
