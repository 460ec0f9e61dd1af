"""Who belongs to the federation: admitted, listed, revoked by the coordinator.

The certificates that were signed lie in one folder. The registry, another folder, holds
the public node key of each site. `moma-server admit` and the enrolment port write both,
and the coordinator reads the registry again before every round.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from moma_core.errors import (
    CertificateError,
    ConfigError,
    MomaError,
    NotAuthorizedError,
)
from moma_core.pki import revocations
from moma_core.pki.certificates import Credential, sign_request
from moma_core.pki.identity import (
    NAME_PATTERN,
    Peer,
    PeerKind,
    PeerName,
    load_certificate,
    read_peer,
)
from moma_core.pki.key_files import load_public_node_key, open_key
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import locked, make_folder, write_private
from moma_server.config.server import ServerConfig
from moma_server.membership.tokens import TokenStore

_logger = logging.getLogger(__name__)

MemberState = Literal["admitted", "expired", "revoked"]

_REVOKED_KEYS = "taken-back"  # a folder of the registry, so named since its first day

_SERIAL = re.compile(r"\.([1-9a-f][0-9a-f]{0,39})\.pem")  # ends a certificate's file


@dataclass(frozen=True, slots=True)
class Member:
    """One certificate that the coordinator signed.

    Args:
        kind: What the member is.
        name: The member's name in the federation.
        state: What its newest certificate is worth now.
        expires: When that certificate ends.
    """

    kind: PeerKind
    name: str
    state: MemberState
    expires: datetime


def admit_member(
    config: ServerConfig,
    peer: PeerName,
    *,
    request: bytes,
    node_key: bytes | None,
    hosts: Sequence[str] = (),
    on_filed: Callable[[], None] = lambda: None,
) -> bytes:
    """Signs a member's request and returns its certificate, PEM.

    Args:
        config: Config of the coordinator's server.
        peer: The new member's name; the request must say the same.
        request: The CSR, PEM.
        node_key: A site's public node key, OpenSSH form; a teacher has none.
        hosts: Host names and addresses under which a teacher is reached.
        on_filed: Called when all is on the disk; where it raises, nobody is admitted.

    Raises:
        ConfigError: This server does not sign, or its own files are not in order.
        CertificateError: Request or key claim something else, or were revoked.
    """
    if (peer.kind == "site") != (node_key is not None):
        raise CertificateError("a site comes with its node key, a server with none")
    with locked(member_folder(config)):
        certificate = sign_request(
            request,
            signing_authority(config),
            expected_uri=str(peer),
            hosts=hosts,
            lifetime=issued_lifetime(config),
            now=utc_now(),
        )
        _check_key(config, certificate)
        if node_key is not None:
            register_site(node_registry(config), peer.name, node_key)
        with _filed(config, certificate):
            on_filed()
    return certificate


@contextmanager
def _filed(config: ServerConfig, certificate: bytes) -> Iterator[None]:
    """Keeps a certificate, unless the block raises."""
    filed = file_certificate(config, certificate)
    try:
        yield
    except MomaError:
        filed.unlink()
        raise


@contextmanager
def own_files() -> Iterator[None]:
    """Keeps apart what is wrong here and what is wrong with a caller's message.

    Raises:
        ConfigError: A file of ours is not in order; no caller is told of it.
    """
    try:
        yield
    except CertificateError as error:
        raise ConfigError(str(error)) from error


def signing_authority(config: ServerConfig) -> Credential:
    """Returns the federation's CA, its key unencrypted, for memory alone.

    Raises:
        ConfigError: This server does not sign, or the key is missing, open to others,
            or under another passphrase.
    """
    if config.authority.key is None or config.coordinator is None:
        raise ConfigError("authority.key is missing: this server signs nothing")
    try:
        certificate = config.authority.certificate.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the CA certificate: {error}") from None
    with own_files():
        key = open_key(config.authority.key, config.authority.passphrase_file)
    return Credential(certificate, key)


def members(config: ServerConfig) -> list[Member]:
    """Returns all that this coordinator signed, the newest certificate of each."""
    revoked = revoked_serials(config)
    with locked(member_folder(config)):  # files come and go
        kept = kept_certificates(config, "*.pem")
    newest: dict[tuple[PeerKind, str], Member] = {}
    for _, _, peer in kept:
        state: MemberState = "admitted"
        if peer.not_after <= utc_now():
            state = "expired"
        if peer.serial in revoked:
            state = "revoked"
        known = newest.get((peer.kind, peer.name))
        if known is None or known.expires < peer.not_after:
            member = Member(peer.kind, peer.name, state, peer.not_after)
            newest[peer.kind, peer.name] = member
    return [newest[key] for key in sorted(newest)]


def sites_in_force(config: ServerConfig) -> dict[str, datetime]:
    """Returns the sites with a certificate that is not revoked, and when it ends.

    Raises:
        ConfigError: The revocations are missing or damaged.
    """
    revoked = revoked_serials(config)
    with locked(member_folder(config)):  # files come and go
        kept = kept_certificates(config, "site.*.pem")
    ends: dict[str, datetime] = {}
    for _, _, peer in kept:
        if peer.serial not in revoked:
            ends[peer.name] = max(peer.not_after, ends.get(peer.name, peer.not_after))
    return ends


def revoke_member(config: ServerConfig, peer: PeerName) -> int:
    """Revokes all certificates and open tokens of a member, and a site's node key.

    Returns:
        How many certificates were revoked.

    Raises:
        CertificateError: There is no such member.
        ConfigError: The tokens are damaged; the certificates are revoked.
    """
    try:
        token_store(config).revoke_of(peer, now=utc_now())
    finally:
        count = _revoke_certificates(config, peer)
    return count


def _revoke_certificates(config: ServerConfig, peer: PeerName) -> int:
    pattern = f"{peer.kind}.{peer.name}.*.pem"
    with locked(member_folder(config)):  # or a renewal under way would be overlooked
        paths = list(member_folder(config).glob(pattern))
        if not paths:
            raise CertificateError(f"{peer} was never admitted here")
        # a file's name says its serial too, whatever became of what is in it
        found = {kept.peer.serial for kept in kept_certificates(config, pattern)}
        found |= set(map(_named_serial, paths))
        serials = sorted(s for s in found if 0 < s <= revocations.LARGEST_SERIAL)
        for serial in serials:
            revocations.revoke(
                config.authority.revoked, serial=serial, name=peer.name, now=utc_now()
            )
        if peer.kind == "site" and peer.name in read_sites(node_registry(config)):
            remove_site(node_registry(config), peer.name)
    return len(serials)


def _named_serial(path: Path) -> int:
    """Returns the serial that a certificate's file is named by; 0: none is."""
    found = _SERIAL.search(path.name)
    return int(found[1], 16) if found else 0


def token_store(config: ServerConfig) -> TokenStore:
    """Returns the enrolment tokens that this coordinator has given out."""
    make_folder(config.state_dir)
    return TokenStore(config.state_dir / "tokens.json")


def member_folder(config: ServerConfig) -> Path:
    """Returns the folder of the members' certificates; made if missing."""
    folder = config.state_dir / "members"
    make_folder(folder)
    return folder


def node_registry(config: ServerConfig) -> Path:
    """Returns the folder of the sites' node keys."""
    return config.state_dir / "nodes"


class KeptCertificate(NamedTuple):
    """A certificate that was signed here, and where it is kept."""

    path: Path
    pem: bytes
    peer: Peer


def kept_certificates(config: ServerConfig, pattern: str) -> list[KeptCertificate]:
    """Returns those that can be read, and logs the others; the folder is locked."""
    found = []
    for path in sorted(member_folder(config).glob(pattern)):
        try:
            pem = path.read_bytes()
            found.append(KeptCertificate(path, pem, read_peer(pem)))
        except (NotAuthorizedError, OSError) as error:
            _warn_once(f"{path} is damaged, so it is left out: {error}")
    return found


@lru_cache(maxsize=256)  # the rounds' port looks every second
def _warn_once(message: str) -> None:
    _logger.warning("%s", message)


def _check_key(config: ServerConfig, certificate: bytes) -> None:
    """Refuses a key of a certificate that was revoked: it may have been stolen."""
    key, revoked = key_of(certificate), revoked_serials(config)
    lost = set(member_folder(config).glob("*.pem"))
    for kept in kept_certificates(config, "*.pem"):
        lost.discard(kept.path)
        if kept.peer.serial in revoked and key_of(kept.pem) == key:
            raise CertificateError("this key was revoked; a new one is needed")
    for path in sorted(lost):
        if _named_serial(path) in revoked:
            raise ConfigError(
                f"{path} is damaged, and revoked: a new member might have its key; put "
                f"it back from a backup, or remove it and take that risk"
            )


def file_certificate(config: ServerConfig, certificate: bytes) -> Path:
    """Keeps a certificate and returns where; the member's that are over make way."""
    peer = read_peer(certificate)
    revoked, now = revoked_serials(config), utc_now()
    for old in kept_certificates(config, f"{peer.kind}.{peer.name}.*.pem"):
        if old.peer.not_after <= now and old.peer.serial not in revoked:
            old.path.unlink()
    filed = member_file(config, peer)
    write_private(filed, certificate, "the certificate")
    return filed


def member_file(config: ServerConfig, peer: Peer) -> Path:
    """Returns where a certificate of a member is kept."""
    return member_folder(config) / f"{peer.kind}.{peer.name}.{peer.serial:x}.pem"


def key_of(certificate: bytes) -> bytes:
    """Returns a certificate's public key, DER.

    Raises:
        CertificateError: It cannot be read.
    """
    key = load_certificate(certificate).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def revoked_serials(config: ServerConfig) -> frozenset[int]:
    """Returns the serials of all certificates that were revoked.

    Raises:
        ConfigError: The list is missing or damaged.
    """
    with own_files():
        entries = revocations.read_revocations(config.authority.revoked)
    return frozenset(entry.serial for entry in entries)


def issued_lifetime(config: ServerConfig) -> timedelta:
    """Returns how long a new certificate lives."""
    if config.coordinator is None:
        raise ConfigError("only a coordinator signs certificates")
    return timedelta(hours=config.coordinator.certificate_hours)


def register_site(registry: Path, site: str, public_key: bytes) -> None:
    """Admits a site's node; doing it again with the same key changes nothing.

    Args:
        registry: Folder of the sites' node keys; made if missing.
        site: The name by which rounds and metrics call the site.
        public_key: The node key, EC P-384 in OpenSSH form.

    Raises:
        CertificateError: The name or the key is not acceptable, the site has another
            key, another site has this one, or it was revoked.
    """
    if not re.fullmatch(NAME_PATTERN, site):
        raise CertificateError(f"{site!r} is no name of a site")
    load_public_node_key(public_key)
    line = _without_comment(public_key)
    if _revoked_key(registry, line).exists():
        raise CertificateError(
            f"this node key of {site} was revoked; a new one is needed"
        )
    for other, key in read_sites(registry).items():
        if other == site and _without_comment(key) != line:
            raise CertificateError(
                f"{site} has another node key; revoke the site first"
            )
        if other != site and _without_comment(key) == line:
            raise CertificateError(f"{other} has this node key already")
    make_folder(registry)
    write_private(registry / f"{site}.pub", line + b"\n")


def remove_site(registry: Path, site: str) -> None:
    """Revokes a site's node key; the engine never takes it again, nor do we.

    Raises:
        CertificateError: There is no such site.
    """
    if site not in read_sites(registry):
        raise CertificateError(f"{site!r} is not in the federation")
    path = registry / f"{site}.pub"
    revoked = _revoked_key(registry, _without_comment(path.read_bytes()))
    make_folder(revoked.parent)
    path.replace(revoked)


def read_sites(registry: Path) -> dict[str, bytes]:
    """Returns site -> public node key, sorted by site."""
    return {
        path.stem: path.read_bytes()
        for path in sorted(registry.glob("*.pub"))
        if re.fullmatch(NAME_PATTERN, path.stem)
    }


def is_blank(registry: Path) -> bool:
    """Whether no site was ever admitted here: the folder is empty, or not there."""
    return not read_sites(registry) and not (registry / _REVOKED_KEYS).is_dir()


def _revoked_key(registry: Path, line: bytes) -> Path:
    return registry / _REVOKED_KEYS / hashlib.sha256(line).hexdigest()


def _without_comment(public_key: bytes) -> bytes:
    return b" ".join(public_key.split()[:2])
