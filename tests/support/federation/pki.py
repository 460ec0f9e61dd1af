"""A federation's keys for tests: one authority, and whatever certificate is needed."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from moma_core.end_to_end.signatures import SigningKey
from moma_core.pki.certificates import (
    CERTIFICATE_LIFETIME,
    Credential,
    create_authority,
    create_key,
    create_request,
    sign_request,
)
from moma_core.pki.identity import PeerKind, PeerName, read_peer
from moma_core.runtime.files import write_private
from tests.support.teacher.sealed import key_of


class CredentialFiles(NamedTuple):
    """Where a credential and its authority's certificate were written."""

    ca: Path
    certificate: Path
    key: Path
    signing_key: Path


class Pki:
    """A federation's authority and what it signs; all in memory until written."""

    def __init__(self, federation: str = "test-federation") -> None:
        self.federation = federation
        self.authority = create_authority(federation, now=datetime.now(UTC))
        self.signing: dict[str, SigningKey] = {}

    @property
    def ca_pem(self) -> bytes:
        return self.authority.certificate_pem

    def server(
        self,
        name: str = "teacher-a",
        kind: PeerKind = "teacher",
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    ) -> Credential:
        return self.issue(kind, name, hosts=hosts)

    def site(
        self,
        name: str = "site-a",
        *,
        lifetime: timedelta = CERTIFICATE_LIFETIME,
        now: datetime | None = None,
    ) -> Credential:
        """Signs a site's certificate; `now` in the past makes an expired one."""
        return self.issue("site", name, lifetime=lifetime, now=now)

    def issue(
        self,
        kind: PeerKind,
        name: str,
        *,
        hosts: Sequence[str] = (),
        lifetime: timedelta = CERTIFICATE_LIFETIME,
        now: datetime | None = None,
        key_pem: bytes | None = None,
    ) -> Credential:
        key_pem = key_pem or create_key()
        uri = str(PeerName(self.federation, kind, name))
        certificate_pem = sign_request(
            create_request(key_pem, uri, hosts),
            self.authority,
            expected_uri=uri,
            hosts=hosts,
            lifetime=lifetime,
            now=now or datetime.now(UTC),
        )
        return Credential(certificate_pem, key_pem)

    def write(self, folder: Path, credential: Credential) -> CredentialFiles:
        """Writes certificates and keys, as `init` would.

        The signing key is the one of whom the certificate names, see `key_of`, unless
        `signing` has another one.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = CredentialFiles(
            folder / "ca.pem",
            folder / "certificate.pem",
            folder / "key.pem",
            folder / "signing.key",
        )
        files.ca.write_bytes(self.ca_pem)
        files.certificate.write_bytes(credential.certificate_pem)
        write_private(files.key, credential.key_pem)
        name = read_peer(credential.certificate_pem).name
        signing = self.signing.get(name, key_of(name))
        write_private(files.signing_key, signing.to_pem())
        return files
