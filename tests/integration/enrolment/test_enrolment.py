"""Who gets a certificate at the enrolment port, and who is sent away."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moma_core.errors import CertificateError, MomaError, NotAuthorizedError
from moma_core.pki.certificates import authority_fingerprint, create_key
from moma_core.pki.identity import read_peer
from moma_core.pki.key_files import create_node_key
from moma_server.cli.init import ServerSetup, init_server
from moma_server.cli.membership import join
from moma_server.config.server import ServerConfig
from moma_server.enrolment.service import EnrolmentService
from moma_server.membership.members import members, revoke_member, token_store
from moma_server.membership.renewal import certificate_hosts
from tests.support.federation.enrolment_port import (
    LOOPBACK,
    OpenDesk,
    enrolled,
    link,
    make_coordinator,
    new_site,
    open_desk,
    refusals,
)


def test_a_site_with_a_token_is_a_member_and_its_keys_stay(
    tmp_path: Path, desk: OpenDesk
) -> None:
    site = new_site(tmp_path / "site")

    told = enrolled(site, desk, desk.token())

    peer = read_peer(site.identity.certificate.read_bytes())
    assert (peer.kind, peer.name) == ("site", "site-a")
    assert timedelta(days=29) < peer.not_after - datetime.now(UTC) < timedelta(days=31)
    assert [member.name for member in members(desk.config)][-1] == "site-a"
    assert (desk.config.state_dir / "nodes" / "site-a.pub").exists()
    assert any("ed25519:" in line for line in told)
    for key in (tmp_path / "site").glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert all(key.read_bytes() not in path.read_bytes() for path in files(desk))


def files(desk: OpenDesk) -> list[Path]:
    return [path for path in desk.config.state_dir.rglob("*") if path.is_file()]


def test_a_token_is_good_once_and_its_secret_is_kept_nowhere(
    tmp_path: Path, desk: OpenDesk
) -> None:
    site, token = new_site(tmp_path / "site"), desk.token()
    enrolled(site, desk, token)

    with pytest.raises(NotAuthorizedError, match="this token for site-a is used"):
        enrolled(site, desk, token)

    (refusal,) = refusals(desk)
    assert (refusal["name"], refusal["caller"]) == ("site-a", LOOPBACK)
    for path in files(desk):
        assert token.secret.hex() not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_that_many_use_at_once_gives_one_certificate(
    tmp_path: Path, desk: OpenDesk
) -> None:
    token, node = desk.token(), create_node_key().public

    def attempt(_: int) -> bool:
        try:
            return bool(link(desk).enrol(token, create_key(), node))
        except NotAuthorizedError:
            return False

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(attempt, range(8)))

    assert sum(answers) == 1
    assert len(list((desk.config.state_dir / "members").glob("site.*.pem"))) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"secret": bytes(32)}, "is not known here, or its secret"),
        ({"identifier": "00" * 8}, "is not known here, or its secret"),
    ],
    ids=["wrong-secret", "unknown"],
)
def test_a_token_that_was_not_given_out_is_refused_and_logged(
    desk: OpenDesk, change: dict[str, object], sentence: str
) -> None:
    forged = replace(desk.token(), **change)

    with pytest.raises(NotAuthorizedError, match=sentence):
        link(desk).enrol(forged, create_key(), create_node_key().public)

    assert len(refusals(desk)) == 1
    assert forged.secret.hex() not in desk.journal()


def test_an_expired_and_a_revoked_token_are_refused(desk: OpenDesk) -> None:
    old = desk.token(now=datetime.now(UTC) - timedelta(hours=2))
    taken_back = desk.token("site-b")
    with pytest.raises(CertificateError, match="never admitted"):
        revoke_member(desk.config, taken_back.peer)  # revoking SITE is enough

    for token, state in ((old, "expired"), (taken_back, "revoked")):
        with pytest.raises(NotAuthorizedError, match=f"is {state}"):
            link(desk, token.peer.name).enrol(
                token, create_key(), create_node_key().public
            )
    assert len(refusals(desk)) == 2


@pytest.mark.parametrize(
    ("name", "kind"), [("site-b", "site"), ("site-a", "teacher")], ids=str
)
def test_a_request_for_another_name_is_refused_and_spends_nothing(
    tmp_path: Path, desk: OpenDesk, name: str, kind: str
) -> None:
    token = desk.token("site-a")

    with pytest.raises(CertificateError, match="is not for spiffe://moma/site/site-a"):
        link(desk, name, kind).enrol(token, create_key(), create_node_key().public)

    assert "is not for" in refusals(desk)[0]["reason"]
    assert enrolled(new_site(tmp_path / "site"), desk, token)


def test_a_token_of_another_name_is_refused_before_anything_is_sent(
    tmp_path: Path, desk: OpenDesk
) -> None:
    with pytest.raises(CertificateError, match=r"the token is for .*site-b"):
        enrolled(new_site(tmp_path / "site"), desk, desk.token("site-b"))

    assert desk.journal() == ""


def test_a_server_of_another_authority_never_sees_the_secret(
    tmp_path: Path, desk: OpenDesk
) -> None:
    token = desk.token()
    with open_desk(make_coordinator(tmp_path / "impostor")) as impostor:
        with pytest.raises(
            NotAuthorizedError, match="another authority than the token"
        ):
            enrolled(new_site(tmp_path / "site"), impostor, token)

        assert impostor.journal() == ""


def test_an_impostor_that_shows_the_right_authority_is_not_believed(
    tmp_path: Path, desk: OpenDesk
) -> None:
    """The CA's certificate is public: who shows it has not shown that it signed."""
    token, own = desk.token(), make_coordinator(tmp_path / "impostor")
    shown = tmp_path / "shown.pem"
    shown.write_bytes(desk.config.authority.certificate.read_bytes())
    posing = own.model_copy(
        update={"authority": own.authority.model_copy(update={"certificate": shown})}
    )
    with open_desk(posing) as impostor:
        with pytest.raises(NotAuthorizedError, match="is not acceptable"):
            enrolled(new_site(tmp_path / "site"), impostor, token)

        assert impostor.journal() == ""


def test_a_second_authority_is_not_carried_in_beside_the_first(
    tmp_path: Path, desk: OpenDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token's fingerprint is of one certificate; a chain may end in any given."""
    token, own = desk.token(), make_coordinator(tmp_path / "impostor")
    genuine = desk.config.authority.certificate.read_bytes()
    both = genuine + own.authority.certificate.read_bytes()
    site = new_site(tmp_path / "site")
    with open_desk(own) as impostor:
        monkeypatch.setattr(EnrolmentService, "authority", lambda _: both)
        with pytest.raises(NotAuthorizedError, match="one certificate, not 2"):
            enrolled(site, impostor, token)

        assert impostor.journal() == ""
    assert not site.identity.authority.exists()


def test_a_member_is_no_coordinator(tmp_path: Path, desk: OpenDesk) -> None:
    """A teacher's certificate is of the right authority, and for the right host."""
    coordinator = desk.config.coordinator
    assert coordinator is not None
    key, token = create_key(), desk.token("mallory", "teacher", hosts=(LOOPBACK,))
    certificate = link(desk, "mallory", "teacher").enrol(token, key, None)
    (tmp_path / "mallory.pem").write_bytes(certificate)
    (tmp_path / "mallory.key").touch(0o600)
    (tmp_path / "mallory.key").write_bytes(key)
    identity = coordinator.identity.model_copy(
        update={
            "certificate": tmp_path / "mallory.pem",
            "key": tmp_path / "mallory.key",
        }
    )
    posing = desk.config.model_copy(
        update={"coordinator": coordinator.model_copy(update={"identity": identity})}
    )

    with (
        open_desk(posing) as impostor,
        pytest.raises(
            NotAuthorizedError, match="the teacher mallory and no coordinator"
        ),
    ):
        enrolled(new_site(tmp_path / "site"), impostor, desk.token("site-a"))


def test_a_teacher_elsewhere_gets_the_hosts_that_its_token_grants(
    tmp_path: Path, desk: OpenDesk
) -> None:
    folder = tmp_path / "teacher"
    init_server(folder, ServerSetup(roles=("teacher",), enrolment=desk.address))
    config = ServerConfig.from_yaml(folder / "server.yaml")
    token = desk.token("teacher-a", "teacher", hosts=("localhost", LOOPBACK))

    told = list(join(config, str(token), None))

    certificate = (folder / "teacher.pem").read_bytes()
    assert certificate_hosts(certificate) == ("localhost", LOOPBACK)
    authority = (folder / "ca.pem").read_bytes()
    assert authority_fingerprint(authority) == token.authority
    assert len(told) == 1


def test_a_token_with_a_host_that_cannot_be_signed_for_is_not_spent(
    tmp_path: Path, desk: OpenDesk
) -> None:
    folder = tmp_path / "teacher"
    init_server(folder, ServerSetup(roles=("teacher",), enrolment=desk.address))
    token = desk.token("teacher-a", "teacher", hosts=("localhost",))
    kept = desk.config.state_dir / "tokens.json"  # as an earlier version took it
    rows = json.dumps(json.loads(kept.read_text())["rows"])
    kept.write_text(rows.replace('"localhost"', '"teacher.org:8444"'))

    with pytest.raises(CertificateError, match=r"'teacher.org:8444' is no host name"):
        list(join(ServerConfig.from_yaml(folder / "server.yaml"), str(token), None))

    (record,) = token_store(desk.config).records()
    assert record.used_at is None


def test_a_request_that_is_too_large_is_not_read(desk: OpenDesk) -> None:
    with pytest.raises(MomaError, match="larger than max"):
        link(desk).enrol(desk.token(), create_key(), bytes(100_000))

    assert desk.journal() == ""
