"""The doctor's look at what a site shows others: keys, certificate, clock."""

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from moma_client.config.site import SiteConfig
from moma_core.errors import CertificateError, ConfigError
from moma_core.pki.certificates import check_issued, check_pair
from moma_core.pki.identity import PeerName, read_peer
from moma_core.pki.key_files import open_key
from moma_core.runtime.finding import Finding

_SOON = timedelta(days=10)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def look_at_keys(config: SiteConfig) -> Iterator[Finding]:
    """Yields a finding for each key file: whether it is there, and for whom."""
    identity = config.identity
    files: dict[str, Path | None] = {
        "identity.key": identity.key,
        "identity.node_key": identity.node_key,
        "identity.signing_key": identity.signing_key,
    }
    for place, each in enumerate(config.each_teacher):
        key = f"teachers.{place}" if config.teachers else "teacher"
        file = getattr(each.teacher, "cache_key_file", None)
        files[f"{key}.cache_key_file"] = file
    for name, path in files.items():
        if path is not None:
            yield _key_file(name, path)


def _key_file(name: str, path: Path) -> Finding:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        return Finding("keys", "problem", f"{name} cannot be read: {error}")
    if is_empty:
        return Finding("keys", "problem", f"{name}: {path} is empty")
    if mode & _OTHERS:
        text = f"{name} has mode {mode:04o}, others can read it: chmod 600 {path}"
        return Finding("keys", "problem", text)
    return Finding("keys", "ok", f"{name} is for its owner alone")


def look_at_certificate(config: SiteConfig, now: datetime) -> Iterator[Finding]:
    """Yields whether the certificate is this site's, the authority's, and in time.

    Raises:
        CertificateError: The authority did not sign it, or it is of another key.
        NotAuthorizedError: It names nobody.
    """
    identity = config.identity
    pem, authority = _read(identity.certificate), _read(identity.authority)
    peer = read_peer(pem)
    own = PeerName(config.federation, "site", config.site)
    if PeerName(peer.federation, peer.kind, peer.name) != own:
        found = PeerName(peer.federation, peer.kind, peer.name)
        text = (
            f"it is of {found}, the config of {own}: write its names into the config "
            f"(site, federation), or enrol under those of the config"
        )
        yield Finding("certificate", "problem", text)
    check_issued(pem, authority)
    check_pair(pem, open_key(identity.key, identity.passphrase_file))
    end = f"{peer.not_after:%Y-%m-%d %H:%M} UTC"
    if now >= peer.not_after:
        text = f"it expired at {end}: get a new one from the coordinator"
        yield Finding("certificate", "problem", text)
    elif now >= peer.not_after - _SOON:
        yield Finding("certificate", "warning", f"it ends at {end}: renew it")
    else:
        yield Finding("certificate", "ok", f"{peer} of {peer.federation}, until {end}")


def look_at_clock(config: SiteConfig, now: datetime) -> Iterator[Finding]:
    """Yields whether the clock agrees with the certificates that are here."""
    clock = f"{now.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    for name in ("certificate", "authority"):
        begin = _not_before(_read(getattr(config.identity, name)))
        if now < begin:
            text = (
                f"it says {clock}, before identity.{name} began at "
                f"{begin:%Y-%m-%d %H:%M} UTC: set the clock"
            )
            yield Finding("clock", "problem", text)
            return
    yield Finding("clock", "ok", clock)


def _not_before(pem: bytes) -> datetime:
    try:
        return x509.load_pem_x509_certificate(pem).not_valid_before_utc
    except ValueError:
        raise CertificateError("a certificate cannot be read") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; the coordinator gives it"
        ) from None
