"""Makes a server's folder: the federation's CA, keys, config files.

The CA is made once, by the coordinator. A teacher at another institution makes its key
where it lives and takes its place with a token, `moma-server enrol`; where there is no
way to the coordinator, `teacher.csr` is carried to it by hand.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated

from pydantic import AfterValidator, Field

from moma_core.config import Section
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import CertificateError, ConfigError
from moma_core.pki import revocations
from moma_core.pki.certificates import (
    create_authority,
    create_request,
)
from moma_core.pki.identity import (
    FEDERATION_PATTERN,
    NAME_PATTERN,
    PeerName,
    check_host,
)
from moma_core.pki.key_files import (
    ensure_key,
    open_key,
    read_passphrase,
    sealed_key,
)
from moma_core.runtime.files import write_private
from moma_server.config.server import ADDRESS, RelaySection, Role, ServerConfig
from moma_server.membership.members import admit_member

_ELSEWHERE = """\
  enrolment: {}
  revocations_poll_seconds: 5     # how often the coordinator's list is fetched
  # revocations_max_age_hours: 24 # without one for so long, nobody comes in
"""


def _checked_host(host: str) -> str:
    try:
        check_host(host)
    except CertificateError as error:
        raise ValueError(str(error)) from None
    return host


_Host = Annotated[str, AfterValidator(_checked_host)]


class ServerSetup(Section):
    """What a new server is.

    Args:
        roles: One or both.
        federation: The federation's name; the CA is made for it.
        name: The teacher's name.
        hosts: Host names and addresses under which sites reach it.
        enrolment: host:port of the coordinator's enrolment, where it is elsewhere.
        rounds: Of a coordinator's first run.
        quorum: Sites that a round needs.
        passphrase_file: With which the keys are encrypted, all; None: they are not.
    """

    roles: tuple[Role, ...] = Field(default=("coordinator", "teacher"), min_length=1)
    federation: str = Field(default="moma", pattern=FEDERATION_PATTERN)
    name: str = Field(default="teacher-a", pattern=NAME_PATTERN)
    hosts: tuple[_Host, ...] = Field(default=("localhost", "127.0.0.1"), min_length=1)
    enrolment: str = Field(default="coordinator.example:8445", pattern=ADDRESS)
    rounds: int = Field(default=10, ge=1)
    quorum: int = Field(default=2, ge=1)
    passphrase_file: Path | None = None


def init_server(folder: Path, place: ServerSetup) -> list[Path]:
    """Returns the files that it wrote; nothing that exists is touched.

    Raises:
        ConfigError: The folder holds a server already.
        CertificateError: A name or host is not acceptable.
    """
    config = folder / "server.yaml"
    if config.exists():
        raise ConfigError(f"{config} exists; a server is made once")
    passphrase = read_passphrase(place.passphrase_file)  # before anything is made
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    if "coordinator" in place.roles:
        authority = create_authority(place.federation, now=datetime.now(UTC))
        (folder / "ca.pem").write_bytes(authority.certificate_pem)
        write_private(folder / "ca.key", sealed_key(authority.key_pem, passphrase))
    revocations.start(folder / "revoked.json")
    config.write_text(render(["server", *place.roles], place), "utf-8")
    for role in place.roles:
        _identify(folder, role, place)
    if "teacher" in place.roles:
        write_private(folder / "signing.key", SigningKey.create().to_pem(passphrase))
        (folder / "recipe.yaml").write_text(render(["recipe"], place), "utf-8")
    made = set(folder.iterdir()) - before
    return sorted(path for path in made if not path.name.startswith("."))


def render(parts: Sequence[str], place: ServerSetup) -> str:
    """Returns the text of a new config file."""
    templates = files("moma_server").joinpath("templates")
    text = "".join(
        templates.joinpath(f"{part}.yaml").read_text("utf-8") for part in parts
    )
    signs = "coordinator" in place.roles
    key = "  key: ca.key                     # signs the members' certificates\n"
    passphrase = ""
    if place.passphrase_file is not None:
        quoted = json.dumps(str(place.passphrase_file.absolute()))
        passphrase = f"    passphrase_file: {quoted}\n"
        key += f"  passphrase_file: {quoted}\n"
    return Template(text).substitute(
        federation=place.federation,
        name=place.name,
        authority_key=key if signs else "",
        metrics_port=9464 if signs else 9466,  # so that both run on one machine
        relay=f"{place.enrolment.rpartition(':')[0]}:{RelaySection().listen.port}",
        enrolment="" if signs else _ELSEWHERE.format(place.enrolment),
        passphrase=passphrase,
        rounds=place.rounds,
        quorum=place.quorum,
    )


def _identify(folder: Path, role: Role, place: ServerSetup) -> None:
    """Makes a role's key and request, and its certificate where the CA is here."""
    own = place.name if role == "teacher" else "coordinator"
    peer = PeerName(place.federation, role, own)
    ensure_key(folder / f"{role}.key", place.passphrase_file)
    key = open_key(folder / f"{role}.key", place.passphrase_file)
    request = create_request(key, str(peer), place.hosts)
    (folder / f"{role}.csr").write_bytes(request)
    if "coordinator" in place.roles:
        config = ServerConfig.from_yaml(folder / "server.yaml")
        certificate = admit_member(
            config, peer, request=request, node_key=None, hosts=place.hosts
        )
        (folder / f"{role}.pem").write_bytes(certificate)
