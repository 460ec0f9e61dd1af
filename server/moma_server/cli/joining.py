"""A teacher at another institution takes its place, with keys of its own."""

from collections.abc import Iterator

from moma_core.errors import ConfigError
from moma_core.pki.enrolment_token import EnrolmentToken
from moma_core.pki.key_files import ensure_key
from moma_core.pki.names import PeerName
from moma_proto.enrolment.enrolment_joining import take_place
from moma_server.config.server import ServerConfig
from moma_server.membership.own_certificates import identity_files


def join(config: ServerConfig, token: str, address: str | None) -> Iterator[str]:
    """Enrols the teacher of a config, and yields what to tell the operator.

    Args:
        config: The teacher's.
        token: As the coordinator's operator made it.
        address: `host:port` of the enrolment service; None: as the config says.

    Raises:
        ConfigError: The config has no teacher, or signs for itself.
        MomaError: See `take_place`.
    """
    if config.teacher is None or config.authority.key is not None:
        raise ConfigError("enrol is for a teacher whose coordinator is elsewhere")
    where = address or config.authority.enrolment
    if where is None:
        raise ConfigError("say --coordinator host:port, or authority.enrolment")
    grant = EnrolmentToken.parse(token)
    own = PeerName(config.federation, "teacher", config.teacher.name)
    files = identity_files(config, config.teacher.identity)
    ensure_key(files.key, files.passphrase_file)
    take_place(where, grant, own, files)
    yield f"enrolled {own}: {files.certificate}"
    if config.authority.enrolment != where:
        yield f"for renewals and revocations, set authority.enrolment: {where}"
