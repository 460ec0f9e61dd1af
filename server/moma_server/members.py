"""Who belongs to the federation: admitted, listed, revoked by the coordinator."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from moma_core.errors import CertificateError, ConfigError
from moma_core.trust import revocations
from moma_core.trust.certificates import Credential, sign_request
from moma_core.trust.identity import read_peer
from moma_core.trust.names import PeerKind, PeerName
from moma_server.config import ServerConfig
from moma_server.federation.registry import read_sites, register_site, remove_site

MemberState = Literal["admitted", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class Member:
    """One certificate that the coordinator signed.

    Args:
        kind: Site or teacher.
        name: In the federation.
        state: Of the certificate, now.
        expires: When its certificate ends.
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
) -> bytes:
    """Signs a member's request and returns its certificate, PEM.

    A certificate that the member had before stays valid until it ends or is revoked.

    Args:
        config: The coordinator's.
        peer: Who asks, as the operator knows it: the request must say the same.
        request: The CSR, PEM.
        node_key: A site's public node key, OpenSSH form; a teacher has none.
        hosts: Under which a teacher is reached.

    Raises:
        ConfigError: This server does not sign.
        CertificateError: The request or the key claims something else.
    """
    authority = _authority(config)
    if (peer.kind == "site") != (node_key is not None):
        raise ConfigError("a site comes with its node key, a server with none")
    certificate = sign_request(
        request,
        authority,
        expected_uri=str(peer),
        hosts=hosts,
        now=datetime.now(UTC),
    )
    if node_key is not None:
        register_site(node_registry(config), peer.name, node_key)
    folder = _folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    serial = read_peer(certificate).serial
    (folder / f"{peer.kind}.{peer.name}.{serial:x}.pem").write_bytes(certificate)
    return certificate


def _authority(config: ServerConfig) -> Credential:
    if config.authority.key is None or config.coordinator is None:
        raise ConfigError("authority.key is missing: this server signs nothing")
    try:
        return Credential(
            config.authority.certificate.read_bytes(), config.authority.key.read_bytes()
        )
    except OSError as error:
        raise ConfigError(f"cannot read the authority: {error}") from None


def members(config: ServerConfig) -> list[Member]:
    """Returns all that this coordinator signed, the newest certificate of each."""
    taken_back = {
        entry.serial for entry in revocations.read_revocations(config.authority.revoked)
    }
    newest: dict[tuple[PeerKind, str], Member] = {}
    for path in sorted(_folder(config).glob("*.pem")):
        peer = read_peer(path.read_bytes())
        state: MemberState = "admitted"
        if peer.not_after <= datetime.now(UTC):
            state = "expired"
        if peer.serial in taken_back:
            state = "revoked"
        known = newest.get((peer.kind, peer.name))
        if known is None or known.expires < peer.not_after:
            member = Member(peer.kind, peer.name, state, peer.not_after)
            newest[peer.kind, peer.name] = member
    return [newest[key] for key in sorted(newest)]


def revoke_member(config: ServerConfig, peer: PeerName) -> int:
    """Takes back every certificate of a member, and a site's place in the rounds.

    Returns:
        How many certificates were taken back.

    Raises:
        CertificateError: There is no such member.
    """
    paths = list(_folder(config).glob(f"{peer.kind}.{peer.name}.*.pem"))
    if not paths:
        raise CertificateError(f"{peer} was never admitted here")
    for path in paths:
        revocations.revoke(
            config.authority.revoked,
            serial=read_peer(path.read_bytes()).serial,
            name=peer.name,
            now=datetime.now(UTC),
        )
    if peer.kind == "site" and peer.name in read_sites(node_registry(config)):
        remove_site(node_registry(config), peer.name)
    return len(paths)


def node_registry(config: ServerConfig) -> Path:
    """Returns the folder of the sites' node keys."""
    return config.state_dir / "nodes"


def _folder(config: ServerConfig) -> Path:
    return config.state_dir / "members"
