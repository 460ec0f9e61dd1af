import shlex
from pathlib import Path

import pytest

from moma_core.errors import CertificateError, ConfigError
from moma_core.federation.schedule import FEWEST_STEPS
from moma_core.pki.certificates import create_key, create_request
from moma_core.pki.identity import PeerName, read_peer
from moma_core.pki.key_files import create_node_key
from moma_server.cli.init import ServerSetup, init_server
from moma_server.cli.main import main as server
from moma_server.config.recipe import TeacherRecipe
from moma_server.config.server import ServerConfig
from moma_server.membership.members import admit_member, members, revoke_member

SITE = PeerName("moma", "site", "site-a")


@pytest.fixture
def coordinator(tmp_path: Path) -> ServerConfig:
    init_server(tmp_path / "server", ServerSetup())
    return ServerConfig.from_yaml(tmp_path / "server" / "server.yaml")


def _request(name: str = str(SITE)) -> bytes:
    return create_request(create_key(), name)


def _admit(config: ServerConfig) -> bytes:
    return admit_member(
        config, SITE, request=_request(), node_key=create_node_key().public
    )


@pytest.mark.parametrize(
    "roles", [("coordinator",), ("teacher",), ("coordinator", "teacher")]
)
def test_the_files_that_init_writes_are_valid(
    tmp_path: Path, roles: tuple[str, ...]
) -> None:
    init_server(tmp_path, ServerSetup.model_validate({"roles": roles}))

    config = ServerConfig.from_yaml(tmp_path / "server.yaml")

    assert (config.coordinator is not None) == ("coordinator" in roles)
    assert (config.teacher is not None) == ("teacher" in roles)
    if "teacher" in roles:
        assert TeacherRecipe.from_yaml(tmp_path / "recipe.yaml").name == "teacher-a"


@pytest.mark.parametrize("rounds", [1, 3, 10])
def test_the_plan_that_init_writes_is_one_that_trains(
    tmp_path: Path, rounds: int
) -> None:
    init_server(tmp_path, ServerSetup(rounds=rounds))

    section = ServerConfig.from_yaml(tmp_path / "server.yaml").coordinator
    assert section is not None
    plan = section.plan
    assert plan.rounds * plan.local_steps >= 2 * FEWEST_STEPS


def test_private_keys_are_readable_by_nobody_else(tmp_path: Path) -> None:
    written = init_server(tmp_path, ServerSetup())

    keys = [path for path in written if path.suffix == ".key"]
    names = [path.name for path in keys]
    assert names == ["ca.key", "coordinator.key", "signing.key", "teacher.key"]
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_a_server_is_made_once(tmp_path: Path) -> None:
    init_server(tmp_path, ServerSetup())
    authority = (tmp_path / "ca.key").read_bytes()

    with pytest.raises(ConfigError, match="a server is made once"):
        init_server(tmp_path, ServerSetup())

    assert (tmp_path / "ca.key").read_bytes() == authority


def test_a_teacher_elsewhere_gets_no_authority(tmp_path: Path) -> None:
    init_server(tmp_path, ServerSetup(roles=("teacher",)))

    assert not (tmp_path / "ca.key").exists()
    assert not (tmp_path / "teacher.pem").exists()
    assert b"CERTIFICATE REQUEST" in (tmp_path / "teacher.csr").read_bytes()


def test_an_admitted_site_is_a_member_until_it_is_revoked(
    coordinator: ServerConfig,
) -> None:
    certificate = _admit(coordinator)
    admitted = [m for m in members(coordinator) if m.kind == "site"]

    count = revoke_member(coordinator, SITE)

    assert read_peer(certificate).name == "site-a"
    assert [(m.name, m.state) for m in admitted] == [("site-a", "admitted")]
    assert count == 1
    (site,) = [m for m in members(coordinator) if m.kind == "site"]
    assert site.state == "revoked"


def test_a_request_for_another_name_is_not_signed(coordinator: ServerConfig) -> None:
    with pytest.raises(CertificateError):
        admit_member(
            coordinator,
            SITE,
            request=_request("spiffe://moma/site/site-b"),
            node_key=create_node_key().public,
        )

    assert not [m for m in members(coordinator) if m.kind == "site"]


def test_a_site_without_its_node_key_is_not_admitted(
    coordinator: ServerConfig,
) -> None:
    with pytest.raises(CertificateError, match="a site comes with its node key"):
        admit_member(coordinator, SITE, request=_request(), node_key=None)


def test_a_stranger_cannot_be_revoked(coordinator: ServerConfig) -> None:
    with pytest.raises(CertificateError, match="was never admitted here"):
        revoke_member(coordinator, SITE)


def test_a_server_without_the_authoritys_key_signs_nothing(tmp_path: Path) -> None:
    init_server(tmp_path, ServerSetup(roles=("teacher",)))
    config = ServerConfig.from_yaml(tmp_path / "server.yaml")

    with pytest.raises(ConfigError, match="signs nothing"):
        _admit(config)


def test_every_port_is_taken_where_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "our hub"
    words = ["--listen-host", "127.0.0.1", "--rounds-port", "9443"]
    words += ["--enrolment-port", "9445", "--teacher-port", "9444"]
    words += ["--relay-port", "9446", "--metrics-port", "0"]

    assert server(["init", str(folder), *words]) == 0

    config = ServerConfig.from_yaml(folder / "server.yaml")
    assert config.coordinator is not None
    assert config.coordinator.relay is not None
    assert config.teacher is not None
    assert config.teacher.listen is not None
    served = (
        config.coordinator.listen,
        config.coordinator.enrolment.listen,
        config.coordinator.relay.listen,
        config.teacher.listen,
    )
    assert [each.port for each in served] == [9443, 9445, 9446, 9444]
    assert {each.host for each in served} == {"127.0.0.1"}
    assert config.metrics.port == 0


def test_a_port_that_is_none_is_a_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert server(["init", str(tmp_path / "hub"), "--rounds-port", "70000"]) == 1

    assert "rounds_port is 70000" in caplog.text
    assert not (tmp_path / "hub").exists()


def test_the_next_step_is_in_words_for_a_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "our teacher"

    assert server(["init", str(folder), "--roles", "teacher"]) == 0

    (line,) = [x for x in capsys.readouterr().out.splitlines() if " enrol " in x]
    words = shlex.split(line.partition("moma-server ")[2])
    assert words[:3] == ["enrol", "--config", str(folder / "server.yaml")]


def test_a_new_coordinator_is_told_how_it_starts_and_admits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(tmp_path / "our hub" / "server.yaml")

    assert server(["init", str(tmp_path / "our hub"), "--roles", "coordinator"]) == 0

    said = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line.partition("moma-server ")[2]) for line in said[-2:]]
    assert commands[0] == ["--config", config]
    assert commands[1] == ["token", "create", "site-a", "--config", config]
    assert server([*commands[0], "--check"]) == 0
    assert server(commands[1]) == 0


def test_no_token_yet_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init_server(tmp_path, ServerSetup())

    assert server(["token", "list", "--config", str(tmp_path / "server.yaml")]) == 0

    assert capsys.readouterr().out.startswith("no token yet")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_certificate_is_made_for_all_addresses_of_a_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    status = server(["init", str(tmp_path / "server"), "--host", host])

    assert status == 1
    assert f"{host} is every address of a machine" in caplog.text
    assert not (tmp_path / "server").exists()


def test_an_ipv6_address_is_taken_for_host_and_enrolment(tmp_path: Path) -> None:
    setup = ServerSetup(
        roles=("teacher",),
        hosts=("2001:db8::7",),
        enrolment="[2001:db8::9]:8445",
        listen_host="::1",
    )

    init_server(tmp_path / "teacher", setup)

    config = ServerConfig.from_yaml(tmp_path / "teacher" / "server.yaml")
    assert config.authority.enrolment == "[2001:db8::9]:8445"
    assert config.own_teacher().listen is not None
    assert config.own_teacher().listen.host == "::1"
