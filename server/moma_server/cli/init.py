"""Makes a server's folder: the federation's CA, keys, config files.

The CA is made once, by the coordinator. A teacher at another institution makes its key
where it lives and takes its setup with a token, `moma-server enrol`; where there is no
way to the coordinator, `teacher.csr` is carried to it by hand.
"""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from moma_core.config import Section, fault_of_key
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import CertificateError, ConfigError
from moma_core.federation.schedule import steps_a_round
from moma_core.network.address import Address, yaml_address
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
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import make_folder, write_private
from moma_core.runtime.prompt import Prompt, prompted
from moma_server.config.server import RelaySection, Role, ServerConfig
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
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - members come from other machines
_Port = Annotated[int, Field(ge=1, le=65535)]


class ServerSetup(Section):
    """What a new server is.

    Args:
        roles: What the server is: coordinator, teacher, or both.
        federation: Name of the federation; the CA is made for it.
        name: Name of the teacher.
        hosts: Host names and addresses under which sites reach the server.
        enrolment: `host:port` of the coordinator's enrolment, if it is elsewhere.
        rounds: Number of rounds of a coordinator's first run.
        quorum: Number of sites that a round needs.
        listen_host: Address on which all ports listen.
        rounds_port: Port of a coordinator's rounds.
        enrolment_port: Port of a coordinator's enrolment.
        relay_port: Port of a coordinator's relay; None: it has none, the config says
            how to.
        teacher_port: Port of a teacher.
        metrics_port: Port of the metrics page; 0: none.
        passphrase_file: Holds what all keys are encrypted with; None: they are not.
    """

    roles: tuple[Role, ...] = Field(default=("coordinator", "teacher"), min_length=1)
    federation: str = Field(default="moma", pattern=FEDERATION_PATTERN)
    name: str = Field(default="teacher-a", pattern=NAME_PATTERN)
    hosts: tuple[_Host, ...] = Field(default=("localhost", "127.0.0.1"), min_length=1)
    enrolment: Address = "coordinator.example:8445"
    rounds: int = Field(default=10, ge=1)
    quorum: int = Field(default=2, ge=1)
    listen_host: str = Field(default=_EVERYWHERE, pattern=r"^[A-Za-z0-9.:_-]+$")
    rounds_port: _Port = 8443
    enrolment_port: _Port = 8445
    relay_port: _Port | None = None
    teacher_port: _Port = 8444
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    passphrase_file: Path | None = None


_PROMPTS = (
    Prompt("roles", "what it is", "coordinator,teacher", is_list=True),
    Prompt("federation", "name of the federation", "moma"),
    Prompt(
        "hosts",
        "hosts and addresses as others reach it",
        "localhost,127.0.0.1",
        is_list=True,
    ),
    Prompt("listen_host", "address on which it listens", _EVERYWHERE),
)
_PROMPTS_OF: dict[Role, tuple[Prompt, ...]] = {
    "coordinator": (
        Prompt("rounds_port", "port of the rounds", "8443"),
        Prompt("enrolment_port", "port of the enrolment", "8445"),
        Prompt("relay_port", "port of the relay, empty: no relay", ""),
        Prompt("rounds", "rounds of the first run", "10"),
        Prompt("quorum", "sites that a round needs", "2"),
    ),
    "teacher": (
        Prompt("name", "name of the teacher", "teacher-a"),
        Prompt("teacher_port", "port of the teacher", "8444"),
    ),
}
_ELSEWHERE_PROMPT = Prompt(
    "enrolment", "coordinator's enrolment", "coordinator.example:8445", 8445
)


def prompted_setup() -> dict[str, Any]:
    """Returns the values of a setup as a person types them.

    Raises:
        StoppedError: The person ended the input.
    """

    def fault_of(values: dict[str, Any], key: str) -> str | None:
        return fault_of_key(ServerSetup, values, key)

    values = prompted({}, _PROMPTS, fault_of)
    wanted = [each for role in values["roles"] for each in _PROMPTS_OF[role]]
    if "coordinator" not in values["roles"]:
        wanted.append(_ELSEWHERE_PROMPT)
    default = "9464" if "coordinator" in values["roles"] else "9466"
    text = "port of the metrics page, 0: none"
    wanted.append(Prompt("metrics_port", text, default))
    return prompted(values, wanted, fault_of)


def init_server(folder: Path, setup: ServerSetup) -> list[Path]:
    """Returns the files that it wrote; nothing that exists is touched.

    Raises:
        ConfigError: The folder holds a server already.
        CertificateError: A name or host is not acceptable.
    """
    config = folder / "server.yaml"
    if config.exists():
        raise ConfigError(
            f"{config} exists; a server is made once; name another folder"
        )
    passphrase = read_passphrase(setup.passphrase_file)  # before anything is made
    make_folder(folder)
    before = set(folder.iterdir())
    if "coordinator" in setup.roles:
        authority = create_authority(setup.federation, now=utc_now())
        (folder / "ca.pem").write_bytes(authority.certificate_pem)
        write_private(folder / "ca.key", sealed_key(authority.key_pem, passphrase))
    revocations.start(folder / "revoked.json")
    config.write_text(render(["server", *setup.roles], setup), "utf-8")
    for role in setup.roles:
        _identify(folder, role, setup)
    if "teacher" in setup.roles:
        write_private(folder / "signing.key", SigningKey.create().to_pem(passphrase))
        (folder / "recipe.yaml").write_text(render(["recipe"], setup), "utf-8")
    made = set(folder.iterdir()) - before
    return sorted(path for path in made if not path.name.startswith("."))


def render(parts: Sequence[str], setup: ServerSetup) -> str:
    """Returns the text of a new config file."""
    templates = files("moma_server").joinpath("templates")
    text = "".join(
        templates.joinpath(f"{part}.yaml").read_text("utf-8") for part in parts
    )
    signs, elsewhere = "coordinator" in setup.roles, setup.enrolment.rpartition(":")[0]
    key = "  key: ca.key                     # signs the members' certificates\n"
    passphrase = ""
    if setup.passphrase_file is not None:
        quoted = json.dumps(str(setup.passphrase_file.absolute()))
        passphrase = f"    passphrase_file: {quoted}\n"
        key += f"  passphrase_file: {quoted}\n"
    return Template(text).substitute(
        federation=setup.federation,
        name=setup.name,
        authority_key=key if signs else "",
        metrics_port=_metrics_port(setup),
        listen_host=yaml_address(setup.listen_host),
        rounds_port=setup.rounds_port,
        enrolment_port=setup.enrolment_port,
        relay_served=_relay_line(setup),
        teacher_port=setup.teacher_port,
        relay=yaml_address(f"{elsewhere}:{RelaySection().listen.port}"),
        enrolment="" if signs else _ELSEWHERE.format(yaml_address(setup.enrolment)),
        passphrase=passphrase,
        rounds=setup.rounds,
        local_steps=steps_a_round(setup.rounds),
        quorum=setup.quorum,
    )


def _metrics_port(setup: ServerSetup) -> int:
    if setup.metrics_port is not None:
        return setup.metrics_port
    signs = "coordinator" in setup.roles
    return 9464 if signs else 9466  # so that both run on one machine


def _relay_line(setup: ServerSetup) -> str:
    port = setup.relay_port or RelaySection().listen.port
    host = yaml_address(setup.listen_host)
    line = f"relay: {{listen: {{host: {host}, port: {port}}}}}"
    mark = "# " if setup.relay_port is None else ""
    return f"  {mark}{line}     # for teachers that open no port"


def _identify(folder: Path, role: Role, setup: ServerSetup) -> None:
    """Makes a role's key and request, and its certificate where the CA is here."""
    own = setup.name if role == "teacher" else "coordinator"
    peer = PeerName(setup.federation, role, own)
    ensure_key(folder / f"{role}.key", setup.passphrase_file)
    key = open_key(folder / f"{role}.key", setup.passphrase_file)
    request = create_request(key, str(peer), setup.hosts)
    (folder / f"{role}.csr").write_bytes(request)
    if "coordinator" in setup.roles:
        config = ServerConfig.from_yaml(folder / "server.yaml")
        certificate = admit_member(
            config, peer, request=request, node_key=None, hosts=setup.hosts
        )
        (folder / f"{role}.pem").write_bytes(certificate)
