"""A site makes its keys, enrols with a token, and renews its certificate.

It has three private keys: one is for TLS, one for the node of the rounds, one signs
every query. They are made where they are used and never leave; keys that are there
already are used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moma_client.config.site import SiteConfig, SiteIdentity
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import ConfigError
from moma_core.pki.identity import EnrolmentToken, PeerName
from moma_core.pki.key_files import (
    create_node_key,
    ensure_key,
    open_key,
    public_node_key,
    read_passphrase,
    sealed_key,
)
from moma_core.pki.renewal import CertificateRenewer, IdentityFiles, Renew
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import write_private
from moma_proto.enrolment.client import EnrolmentLink, EnrolmentPort, take_place


def make_keys(site: SiteIdentity) -> list[Path]:
    """Makes the keys that are missing, and returns their files.

    Raises:
        CertificateError: A key that is there cannot be opened, or the passphrase file
            cannot be read.
    """
    identity = site.identity
    files = (identity.key, identity.node_key, identity.signing_key)
    missing = [path for path in files if not path.exists()]
    passphrase = read_passphrase(identity.passphrase_file)
    ensure_key(identity.key, identity.passphrase_file)
    if identity.node_key in missing:
        private = create_node_key().private
        write_private(identity.node_key, sealed_key(private, passphrase))
    if identity.signing_key in missing:
        write_private(identity.signing_key, SigningKey.create().to_pem(passphrase))
    return missing


def public_key_of_node(site: SiteIdentity) -> bytes:
    """Returns the node key's public half, OpenSSH form; raises as `open_key`."""
    identity = site.identity
    return public_node_key(open_key(identity.node_key, identity.passphrase_file))


def signing_fingerprint(site: SiteIdentity) -> VerifyingKey:
    """Returns what a teacher approves of this site; raises as `SigningKey.load`."""
    identity = site.identity
    return SigningKey.load(identity.signing_key, identity.passphrase_file).public


def enrol_site(site: SiteIdentity, token: str, address: str | None) -> Iterator[str]:
    """Enrols a site, and yields lines for its operator.

    Args:
        site: The site's names, and where its keys lie; missing ones are made.
        token: The enrolment token that the coordinator's operator made.
        address: `host:port` of the enrolment; None: that of the config.

    Raises:
        ConfigError: No address is named.
        MomaError: The coordinator refuses, see `take_place`.
    """
    where = address or site.coordinator.enrolment
    if where is None:
        raise ConfigError("say --coordinator host:port, or coordinator.enrolment")
    grant = EnrolmentToken.parse(token)
    own = PeerName(site.federation, "site", site.site)
    for path in make_keys(site):
        yield f"wrote {path}"
    port = EnrolmentPort(where, site.network.rule())
    take_place(port, grant, own, _files(site), node_key=public_key_of_node(site))
    yield f"enrolled {own}: {site.identity.certificate}"
    if site.coordinator.enrolment != where:
        yield f"for renewals, set coordinator.enrolment: {where}"
    yield f"this site's signing key: {signing_fingerprint(site)}"
    yield (
        "tell it to the teacher's operator by a way that is not the coordinator's; "
        f"there: moma-server site approve {site.site} --key ..."
    )


@contextmanager
def kept_certificate(config: SiteConfig) -> Iterator[None]:
    """Renews the site's certificate while the block runs."""
    own = PeerName(config.federation, "site", config.site)
    renewer = CertificateRenewer(
        own, _files(config), _renewal(config, own), clock=utc_now
    )
    renewer.start()
    try:
        yield
    finally:
        renewer.stop()


def _renewal(config: SiteConfig, own: PeerName) -> Renew | None:
    address = config.coordinator.enrolment
    if address is None:
        return None

    def renew(certificate: bytes, key: bytes) -> bytes:
        authority = config.identity.authority.read_bytes()
        proxy = config.network.rule()
        link = EnrolmentLink(address, authority, own, utc_now, proxy=proxy)
        return link.renew(certificate, key)

    return renew


def _files(site: SiteConfig | SiteIdentity) -> IdentityFiles:
    identity = site.identity
    return IdentityFiles(
        identity.certificate,
        identity.key,
        identity.authority,
        identity.passphrase_file,
    )
