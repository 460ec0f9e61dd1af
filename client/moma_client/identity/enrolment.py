"""A site enrols with a token, and renews its certificate."""

from collections.abc import Iterator
from contextlib import contextmanager

from moma_client.config.site import SiteConfig, SiteIdentity
from moma_client.identity.keys import (
    make_keys,
    public_key_of_node,
    signing_fingerprint,
)
from moma_core.errors import ConfigError
from moma_core.pki.identity import EnrolmentToken, PeerName
from moma_core.pki.renewal import CertificateRenewer, IdentityFiles, Renew
from moma_core.runtime.clock import utc_now
from moma_proto.enrolment.client import EnrolmentLink, EnrolmentPort, take_place


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
