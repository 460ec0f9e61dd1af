"""A site asks nobody whose certificate the authority has taken back."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from moma_client.config.site import SiteConfig
from moma_client.federation.node import NodeSettings
from moma_client.identity.revocations import kept_revocations, site_revocations
from moma_core.data.batch import Batch
from moma_core.errors import NotAuthorizedError, RevokedError
from moma_core.pki import revocations
from moma_core.pki.certificates import Credential, create_key
from moma_core.pki.identity import PeerName, read_peer
from moma_core.pki.revocations import sign_list
from moma_core.pki.tls_probe import shown_certificate
from moma_server.membership.members import revoke_member, signing_authority
from tests.support.federation.enrolment_port import (
    LOOPBACK,
    OpenDesk,
    link,
    make_coordinator,
    open_desk,
)
from tests.support.federation.pki import Pki
from tests.support.machine.tls_port import tls_port
from tests.support.site.remote_teacher import (
    ScriptedTeacher,
    Site,
    batches,
    follow_all,
    honest,
    running,
    scripted,
)
from tests.support.site.tiny_site import local_config
from tests.support.teacher.teacher_server import MeanColour

FEDERATION = "test-federation"
TEACHER = PeerName(FEDERATION, "teacher", "teacher-a")
NOBODY = f"{LOOPBACK}:1"
LONG_SECONDS = 200.0  # a bound for a machine that is busy, not what it takes


class DeskPki(Pki):
    """The keys of a federation whose teacher has enrolled at the desk."""

    def __init__(self, desk: OpenDesk) -> None:
        super().__init__(FEDERATION)
        self.authority = signing_authority(desk.config)
        token = desk.token("teacher-a", "teacher", hosts=(LOOPBACK, "localhost"))
        key = create_key()
        certificate = link(desk, "teacher-a", "teacher").enrol(token, key, None)
        self.teacher = Credential(certificate, key)

    def server(self, *_name: object, **_more: object) -> Credential:
        return self.teacher


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[OpenDesk]:
    folder = tmp_path / "coordinator"
    with open_desk(make_coordinator(folder, federation=FEDERATION)) as opened:
        yield opened


@pytest.fixture
def pki(desk: OpenDesk) -> DeskPki:
    return DeskPki(desk)


@pytest.fixture
def colours() -> MeanColour:
    return MeanColour()


@pytest.fixture
def site(tmp_path: Path, pki: DeskPki, colours: MeanColour) -> Iterator[Site]:
    with running(tmp_path / "teacher", pki, colours) as served:
        yield Site(tmp_path / "site", pki, served.port, host=LOOPBACK)


def site_config(site: Site, enrolment: str, **more: float) -> SiteConfig:
    """Has a site follow the list, as its config would; returns the config."""
    folder = site.address.authority.parent
    config = local_config(
        folder,
        federation=FEDERATION,
        coordinator={"enrolment": enrolment, "revocations_poll_seconds": 0.2, **more},
        identity={"authority": str(site.address.authority)},
    )
    followed = site_revocations(config)
    assert followed is not None
    site.address = replace(site.address, revocations=followed)
    return config


def revoke_serial(desk: OpenDesk, certificate: bytes) -> None:
    peer, now = read_peer(certificate), datetime.now(UTC)
    path = desk.config.authority.revoked
    revocations.revoke(path, serial=peer.serial, name=peer.name, now=now)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def is_refused(site: Site, serial: int) -> bool:
    assert site.address.revocations is not None
    return serial in site.address.revocations


def endless() -> Iterator[Batch]:
    return batches([1] * 10_000)


def test_a_revoked_teacher_is_refused_at_the_next_connection(
    desk: OpenDesk, site: Site, pki: DeskPki
) -> None:
    config = site_config(site, desk.address)
    serial = read_peer(pki.teacher.certificate_pem).serial
    with kept_revocations(config, site.stop):
        before = follow_all(site)

        revoke_member(desk.config, TEACHER)
        wait_until(lambda: is_refused(site, serial))

        with pytest.raises(RevokedError, match="of teacher teacher-a is revoked"):
            follow_all(site)

    assert before == [0, 1, 2, 3, 4]
    kept = [config.state_dir / name for name in ("revoked.json", "revoked.crl")]
    assert [path.stat().st_mode & 0o777 for path in kept] == [0o600, 0o600]


def test_an_open_stream_to_a_teacher_that_is_revoked_is_closed(
    desk: OpenDesk,
    site: Site,
    colours: MeanColour,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is idle meanwhile: nothing that the site asks makes it look."""
    config = site_config(site, desk.address)
    with kept_revocations(config, site.stop), site.teacher(in_flight=1) as teacher:
        followed = teacher.answer_batches(endless())
        next(followed)

        revoke_member(desk.config, TEACHER)
        closed = (
            "the channel is closed: the certificate of teacher teacher-a is revoked"
        )
        wait_until(lambda: closed in caplog.text)

        with pytest.raises(RevokedError, match="is revoked"):
            list(followed)

    assert colours.patches == 1


def test_a_stream_that_is_busy_ends_when_its_teacher_is_revoked(
    desk: OpenDesk, site: Site, colours: MeanColour
) -> None:
    config = site_config(site, desk.address)
    with kept_revocations(config, site.stop), site.teacher() as teacher:
        followed = teacher.answer_batches(endless())
        next(followed)
        revoke_member(desk.config, TEACHER)

        with pytest.raises(RevokedError):
            list(followed)

    assert colours.patches < 10_000


def test_another_process_of_the_site_knows_it_too(desk: OpenDesk, site: Site) -> None:
    config = site_config(site, desk.address)
    of_a_child = site_revocations(config)
    assert of_a_child is not None
    serial = read_peer(shown_certificate(desk.address, None, seconds=10)).serial
    before = serial in of_a_child

    revoke_serial(desk, shown_certificate(desk.address, None, seconds=10))
    with kept_revocations(config, site.stop):
        after = serial in of_a_child

    assert (before, after) == (False, True)


def test_a_revoked_coordinators_relay_is_asked_nothing(
    tmp_path: Path, desk: OpenDesk, pki: DeskPki
) -> None:
    relay = pki.issue("coordinator", "coordinator", hosts=(LOOPBACK,))
    teacher = ScriptedTeacher(honest)
    revoke_serial(desk, relay.certificate_pem)
    with scripted(pki, teacher, relay) as port:
        site = Site(tmp_path / "site", pki, port, host=LOOPBACK)
        site.address = replace(site.address, is_relayed=True)
        config = site_config(site, desk.address)

        with (
            kept_revocations(config, site.stop),
            pytest.raises(RevokedError, match="of coordinator coordinator is revoked"),
        ):
            follow_all(site)

    assert teacher.calls == 0


def test_a_revoked_coordinators_list_is_not_asked_for(
    desk: OpenDesk, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    config = site_config(site, desk.address)
    revoke_serial(desk, shown_certificate(desk.address, None, seconds=10))
    assert site.address.revocations is not None
    site.address.revocations.look()
    first = (config.state_dir / "revoked.crl").read_bytes()

    site.address.revocations.look()

    assert "of coordinator coordinator is revoked" in caplog.text
    assert (config.state_dir / "revoked.crl").read_bytes() == first


def test_a_revoked_coordinators_rounds_are_not_entered(
    tmp_path: Path, desk: OpenDesk
) -> None:
    revoke_serial(desk, shown_certificate(desk.address, None, seconds=10))
    coordinator = desk.config.coordinator
    assert coordinator is not None
    identity = coordinator.identity
    settings = NodeSettings(
        address="",
        ca_certificate=desk.config.authority.certificate,
        node_key=tmp_path / "not-read",
        folder=tmp_path / "node",
        revoked=desk.config.authority.revoked,
    )
    command = [sys.executable, "-m", "moma_client.federation.process"]

    with tls_port(identity.certificate, identity.key) as port:
        here = replace(settings, address=f"{LOOPBACK}:{port}")
        with subprocess.Popen(
            [*command, here.to_json()],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as node:
            assert node.stderr is not None
            said = node.stderr.read()

    assert "the certificate of coordinator coordinator is revoked" in said
    assert node.returncode == 1


def test_without_a_list_a_site_warns_and_goes_on(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    config = site_config(site, NOBODY)

    with kept_revocations(config, site.stop):
        steps = follow_all(site)

    assert steps == [0, 1, 2, 3, 4]
    assert "who was revoked is not known here" in caplog.text
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_without_a_list_a_site_asks_nobody_where_its_config_says_so(
    site: Site, colours: MeanColour
) -> None:
    config = site_config(site, NOBODY, revocations_max_age_hours=1)

    with (
        kept_revocations(config, site.stop),
        pytest.raises(NotAuthorizedError, match="no revocation list since ever"),
    ):
        follow_all(site)

    assert colours.patches == 0


def test_the_operators_stop_ends_the_wait_for_the_first_list(site: Site) -> None:
    config = site_config(site, NOBODY)
    stop = threading.Event()
    stop.set()

    with kept_revocations(config, stop):
        pass

    assert site.address.revocations is not None


def test_a_list_of_another_authority_is_refused(
    desk: OpenDesk, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    config = site_config(site, desk.address)
    kept = config.state_dir / "revoked.crl"
    kept.write_bytes(sign_list((), Pki(FEDERATION).authority, now=datetime.now(UTC)))

    with caplog.at_level(logging.WARNING), kept_revocations(config, site.stop):
        steps = follow_all(site)

    assert "not signed by our authority" in caplog.text
    assert steps == [0, 1, 2, 3, 4]
