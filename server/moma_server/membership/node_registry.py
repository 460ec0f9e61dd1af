"""The sites that belong to a federation: a folder with one public node key a site.

`moma-server admit` writes it; the coordinator reads it again before every round.
"""

import hashlib
import re
from pathlib import Path

from moma_core.errors import CertificateError
from moma_core.federation.node_key import load_public_node_key
from moma_core.pki.names import NAME_PATTERN
from moma_core.runtime.files import write_private

_GRAVES = "taken-back"


def register_site(registry: Path, site: str, public_key: bytes) -> None:
    """Admits a site's node; doing it again with the same key changes nothing.

    Args:
        registry: The folder; made if missing.
        site: The name by which rounds and metrics call the site.
        public_key: EC P-384 in OpenSSH form, as `create_node_key` makes it.

    Raises:
        CertificateError: The name or the key is not acceptable, the site has another
            key, another site has this one, or it was revoked.
    """
    if not re.fullmatch(NAME_PATTERN, site):
        raise CertificateError(f"{site!r} is no name of a site")
    load_public_node_key(public_key)
    line = _significant(public_key)
    if _revoked(registry, line).exists():
        raise CertificateError(
            f"this node key of {site} was revoked; a new one is needed"
        )
    for other, key in read_sites(registry).items():
        if other == site and _significant(key) != line:
            raise CertificateError(f"{site} has another node key; remove it first")
        if other != site and _significant(key) == line:
            raise CertificateError(f"{other} has this node key already")
    registry.mkdir(parents=True, exist_ok=True)
    write_private(registry / f"{site}.pub", line + b"\n")


def remove_site(registry: Path, site: str) -> None:
    """Shuts a site's node out; the engine never takes its key again, nor do we.

    Raises:
        CertificateError: There is no such site.
    """
    if site not in read_sites(registry):
        raise CertificateError(f"{site!r} is not in the federation")
    path = registry / f"{site}.pub"
    grave = _revoked(registry, _significant(path.read_bytes()))
    grave.parent.mkdir(exist_ok=True)
    path.replace(grave)


def read_sites(registry: Path) -> dict[str, bytes]:
    """Returns site -> public node key, sorted by site."""
    return {
        path.stem: path.read_bytes()
        for path in sorted(registry.glob("*.pub"))
        if re.fullmatch(NAME_PATTERN, path.stem)
    }


def is_blank(registry: Path) -> bool:
    """Whether nobody was ever admitted here: the folder is empty, or not there."""
    return not read_sites(registry) and not (registry / _GRAVES).is_dir()


def _revoked(registry: Path, line: bytes) -> Path:
    return registry / _GRAVES / hashlib.sha256(line).hexdigest()


def _significant(public_key: bytes) -> bytes:
    """The key without its comment."""
    return b" ".join(public_key.split()[:2])
