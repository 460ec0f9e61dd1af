"""Which sites a teacher's owner approves, by fingerprint, and the teacher's own."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from moma_core.end_to_end import pinned_sites
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import ConfigError
from moma_core.pki.identity import PeerName
from moma_server.config.server import ServerConfig
from moma_server.state import pinned_sites_file


def teacher_key(config: ServerConfig) -> VerifyingKey:
    """Returns what sites pin.

    Raises:
        ConfigError: This server has no teacher.
        CertificateError: Its signing key cannot be read.
    """
    if config.teacher is None:
        raise ConfigError("this server has no teacher")
    section = config.teacher
    passphrase_file = section.identity.passphrase_file
    return SigningKey.load(section.signing_key, passphrase_file).public


def approve_site(config: ServerConfig, site: str, fingerprint: str) -> None:
    """Serves a site for its own key from here on.

    Args:
        config: The teacher's.
        site: Its name.
        fingerprint: As the site's own operator told it, not the coordinator.

    Raises:
        ConfigError: It is approved with another key.
        CertificateError: Name or fingerprint are none.
    """
    name = PeerName(config.federation, "site", site).name
    key = VerifyingKey.parse(fingerprint)
    pinned_sites.approve(
        pinned_sites_file(config), site=name, key=key, now=datetime.now(UTC)
    )


def forget_site(config: ServerConfig, site: str) -> None:
    """Serves a site no longer.

    Raises:
        ConfigError: It was not approved.
    """
    pinned_sites.forget(pinned_sites_file(config), site)


def approval_rows(config: ServerConfig) -> list[dict[str, Any]]:
    """Returns who is approved, oldest first."""
    if not pinned_sites_file(config).exists():
        return []
    return [
        {
            "site": entry.site,
            "key": entry.key,
            "approved_at": entry.approved_at.isoformat(),
        }
        for entry in pinned_sites.read_pinned_sites(pinned_sites_file(config))
    ]


def approval_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the rows as a table."""
    if not rows:
        return ["no site is approved"]
    width = max(len(row["site"]) for row in rows)
    return [f"{row['site']:<{width}}  {row['key']}" for row in rows]
