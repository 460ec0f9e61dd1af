"""The installed programs: a place for a token, renewals while they run, and an end."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moma_core.pki.certificates import life
from moma_core.pki.tls_probe import shown_certificate
from tests.support.e2e.programs import LOOPBACK, Program, ended, until
from tests.support.e2e.world import RUN_SECONDS, TEACHER, World

LIFE_SECONDS = 120  # of a certificate; a busy machine starts a program in one
_PATIENT = {"deadline_seconds": 900}  # a round waits while certificates end


@pytest.fixture
def world(tmp_path: Path, teacher: Path) -> Iterator[World]:
    world = World(tmp_path, teacher, plan=_PATIENT, sites=("site-a", "site-b"))
    world.configure(
        "coordinator", coordinator={"certificate_hours": LIFE_SECONDS / 3600}
    )
    yield world
    world.close()


def token(world: World, *who: str) -> str:
    config = world.folder / "coordinator" / "server.yaml"
    made = ended("moma-server", "token", "create", *who, "--config", config)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def enrol_site(world: World, site: str) -> str:
    done = ended(
        "moma-client", "enrol", world.folder / site, "--token", token(world, site)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def enrol_teacher(world: World) -> None:
    config = world.folder / "teacher" / "server.yaml"
    hosts = ("--host", LOOPBACK, "--host", "localhost")
    word = token(world, TEACHER, "--teacher", *hosts)
    done = ended("moma-server", "enrol", "--config", config, "--token", word)
    assert done.returncode == 0, done.stderr


def certificate(world: World, party: str) -> bytes:
    kind = "teacher" if party == "teacher" else "site"
    return (world.folder / party / f"{kind}.pem").read_bytes()


def shorten_own(world: World) -> None:
    """Gives the coordinator a certificate that ends soon, as by hand."""
    folder = world.folder / "coordinator"
    done = ended(
        *("moma-server", "admit", "--coordinator"),
        *("--host", LOOPBACK, "--host", "localhost"),
        *("--config", folder / "server.yaml"),
        *("--csr", folder / "coordinator.csr", "--out", folder / "coordinator.pem"),
    )
    assert done.returncode == 0, done.stderr


def refuses_tls12(port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((LOOPBACK, port)) as plain:
        try:
            context.wrap_socket(plain).close()
        except (ssl.SSLError, ConnectionError):
            return True
    return False


def test_a_token_is_one_word_and_what_is_wrong_is_one_sentence(world: World) -> None:
    config = world.folder / "coordinator" / "server.yaml"
    word = token(world, "site-a", "--lifetime", "0.5")

    listed = ended("moma-server", "token", "list", "--json", "--config", config)
    damaged = ended(
        "moma-client", "enrol", world.folder / "site-a", "--token", word[:-9]
    )
    other = ended("moma-client", "enrol", world.folder / "site-b", "--token", word)
    row = json.loads(listed.stdout)[-1]
    revoke = ("token", "revoke", row["id"], "--config", config)
    revoked, again = ended("moma-server", *revoke), ended("moma-server", *revoke)

    assert len(word.split()) == 1
    assert (row["name"], row["state"]) == ("site-a", "open")
    assert word not in listed.stdout
    for refused in (damaged, other, again):
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1
    assert revoked.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1500)  # three lives of a certificate, and then a run
def test_a_run_outlives_every_certificate_that_it_began_with(world: World) -> None:
    shorten_own(world)
    coordinator = world.serve("coordinator")
    coordinator.shows("moma_federation_sites{")
    enrol_teacher(world)
    began = {"teacher": certificate(world, "teacher")}
    teacher = world.serve("teacher")
    assert "ed25519:" in enrol_site(world, "site-a")
    began["site-a"] = certificate(world, "site-a")
    first_site = world.take_part("site-a")  # waits for the second at the edge
    teacher.shows("moma_teacher_inflight_requests")
    ports = (world.ports["edge"], world.ports["enrol"], world.ports["teach"])
    shown = [own_certificate(world, port) for port in ports[:2]]

    until(
        lambda: all(time.time() > life(pem)[1].timestamp() for pem in began.values()),
        seconds=3 * LIFE_SECONDS,
        what="the end of the first certificates",
    )
    enrol_site(world, "site-b")
    second_site = world.take_part("site-b")
    statuses = [site.status(seconds=RUN_SECONDS) for site in (first_site, second_site)]

    assert statuses == [0, 0], first_site.said()[-3000:]
    assert all(certificate(world, party) != pem for party, pem in began.items())
    assert all(own_certificate(world, port) not in shown for port in ports[:2])
    assert {record.outcome for record in world.rounds()} == {"completed"}
    assert expiry(coordinator, "coordinator/coordinator") > time.time()
    assert expiry(coordinator, "site/site-a") > time.time()
    assert expiry(teacher, f"teacher/{TEACHER}") > time.time()
    assert all(map(refuses_tls12, ports))


def own_certificate(world: World, port: int) -> bytes:
    authority = (world.folder / "coordinator" / "ca.pem").read_bytes()
    return shown_certificate(f"{LOOPBACK}:{port}", authority, seconds=10)


def expiry(program: Program, subject: str) -> float:
    return program.metric("moma_certificate_expiry_timestamp_seconds", subject=subject)


@pytest.mark.slow
@pytest.mark.timeout(900)  # two lives of a certificate, and three starts
def test_a_revoked_site_loses_its_place_in_the_rounds_and_cannot_renew(
    world: World,
) -> None:
    coordinator = world.serve("coordinator")
    world.serve("teacher").shows("moma_teacher_inflight_requests")
    coordinator.shows("moma_federation_sites{")
    enrol_site(world, "site-a")
    site = world.take_part("site-a")
    online = {"state": "online"}
    until(
        lambda: coordinator.metric("moma_federation_sites", **online) == 1,
        seconds=90,
        what="the site is online",
    )

    config = world.folder / "coordinator" / "server.yaml"
    ended("moma-server", "revoke", "--config", config, "site-a")

    until(
        lambda: "not connected" in site.said(),
        seconds=60,
        what="the site's node was hung up on",
    )
    until(
        lambda: "is revoked" in site.said(),
        seconds=2 * LIFE_SECONDS,
        what="its renewal was refused",
    )
    journal = world.folder / "coordinator" / "state" / "enrolment-refusals.jsonl"
    refused = [json.loads(line) for line in journal.read_text().splitlines()]
    assert {(line["kind"], line["name"]) for line in refused} == {("site", "site-a")}
    assert coordinator.metric("moma_federation_sites", **online) == 0
