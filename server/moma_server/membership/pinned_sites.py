"""Which sites a teacher's owner approves, by fingerprint, and the teacher's own."""

from moma_core.end_to_end import pinned_sites
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import ConfigError
from moma_core.pki.identity import PeerName
from moma_core.runtime.clock import utc_now
from moma_server.config.server import ServerConfig
from moma_server.state import pinned_sites_file


def teacher_key(config: ServerConfig) -> VerifyingKey:
    """Returns the teacher's signing key, whose fingerprint sites pin.

    Raises:
        ConfigError: This server has no teacher.
        CertificateError: Its signing key cannot be read.
    """
    if config.teacher is None:
        raise ConfigError("this server has no teacher; its config names none")
    section = config.teacher
    passphrase_file = section.identity.passphrase_file
    return SigningKey.load(section.signing_key, passphrase_file).public


def approve_site(config: ServerConfig, site: str, fingerprint: str) -> None:
    """Serves the queries that a site signs with its own key from here on.

    Args:
        config: Config of the teacher's server.
        site: Name of the site.
        fingerprint: The key's, from the site's own operator and not the coordinator.

    Raises:
        ConfigError: It is approved with another key.
        CertificateError: Name or fingerprint are none.
    """
    name = PeerName(config.federation, "site", site).name
    key = VerifyingKey.parse(fingerprint)
    pinned_sites.approve(pinned_sites_file(config), site=name, key=key, now=utc_now())
