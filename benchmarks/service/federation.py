"""The keys of a small federation, made anew for each run of the benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from moma_core.end_to_end import pinned_sites
from moma_core.end_to_end.signatures import SigningKey
from moma_core.pki import revocations
from moma_core.pki.certificates import (
    create_authority,
    create_key,
    create_request,
    sign_request,
)
from moma_core.pki.identity import PeerKind, PeerName
from moma_core.pki.renewal import IdentityFiles
from moma_core.runtime.files import write_private

FEDERATION = "bench"
TEACHER = "teacher"
SITE = "site"
HOST = "localhost"

_SERVERS: dict[str, PeerKind] = {TEACHER: "teacher", "coordinator": "coordinator"}


@dataclass(frozen=True, slots=True)
class Federation:
    """Where each party's keys lie.

    Args:
        folder: Holds a folder for each party.
    """

    folder: Path

    @classmethod
    def create(cls, folder: Path, sites: Sequence[str] = (SITE,)) -> "Federation":
        """Makes all keys; the teacher's owner approves the sites."""
        federation = cls(folder)
        authority = create_authority(FEDERATION, now=now())
        parties = _SERVERS | dict.fromkeys(sites, "site")
        for name, kind in parties.items():
            home = folder / name
            home.mkdir(mode=0o700, parents=True)
            key, uri = create_key(), str(PeerName(FEDERATION, kind, name))
            hosts = () if kind == "site" else (HOST, "127.0.0.1")
            certificate = sign_request(
                create_request(key, uri, hosts),
                authority,
                expected_uri=uri,
                hosts=hosts,
                now=now(),
            )
            (home / "ca.pem").write_bytes(authority.certificate_pem)
            (home / "certificate.pem").write_bytes(certificate)
            write_private(home / "key.pem", key)
            write_private(home / "signing.key", SigningKey.create().to_pem())
            revocations.start(home / "revoked.json")
        for site in sites:
            pinned_sites.approve(
                federation.pinned_sites,
                site=site,
                key=federation.key(site).public,
                now=now(),
            )
        return federation

    @property
    def pinned_sites(self) -> Path:
        """The sites that the teacher answers."""
        return self.folder / TEACHER / "approved.json"

    def home(self, party: str) -> Path:
        """Returns the folder of a party."""
        return self.folder / party

    def files(self, party: str) -> IdentityFiles:
        """Returns what a party shows on a connection."""
        home = self.home(party)
        return IdentityFiles(
            home / "certificate.pem", home / "key.pem", home / "ca.pem"
        )

    def key(self, party: str) -> SigningKey:
        """Returns a party's signing key."""
        return SigningKey.load(self.home(party) / "signing.key")


def now() -> datetime:
    """Returns the present, with a time zone."""
    return datetime.now(UTC)
