"""Which sites a teacher's owner approves, by fingerprint, and the teacher's own."""

from collections.abc import Iterator

from moma_core.end_to_end import pinned_sites
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import ConfigError
from moma_core.pki.identity import PeerName
from moma_core.runtime.clock import utc_now
from moma_server.config.server import ServerConfig, TeacherSection
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


def misnamed_budgets(config: ServerConfig, section: TeacherSection) -> Iterator[str]:
    """Yields a sentence for each budget of a name that may mean an approved site.

    Names that differ in more than hyphens are not compared: site-a is not site-b.

    Raises:
        CertificateError: The approvals are damaged.
    """
    path = pinned_sites_file(config)
    found = pinned_sites.read_pinned_sites(path) if path.exists() else ()
    approved = {entry.site for entry in found}
    by_letters = {site.replace("-", ""): site for site in approved}
    for name in section.budget.sites:
        meant = by_letters.get(name.replace("-", ""))
        if name not in approved and meant is not None:
            yield (
                f"teacher.budget.sites names {name}, which is not approved; "
                f"did you mean {meant}?"
            )
