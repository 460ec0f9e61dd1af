"""Who gets in at a teacher's door: the real server, and callers of every kind."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from moma_client.config.site import SiteIdentity
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import BudgetSpentError, MomaError
from moma_core.pki.certificates import (
    Credential,
    create_authority,
    create_key,
    create_request,
    sign_request,
)
from moma_core.pki.key_files import open_key
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.membership.members import signing_authority
from moma_server.membership.pinned_sites import approve_site
from tests.support.e2e.asking import sealed_stub
from tests.support.e2e.programs import LOOPBACK, Program, ended, until
from tests.support.e2e.world import TEACHER, World
from tests.support.federation.enrolment_port import open_desk
from tests.support.machine.waiting import promised

SIDE_PX = 32
REVOKED_SECONDS = 5.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[World]:
    sites = ("site-a", "site-b", "site-c")
    world = World(tmp_path_factory.mktemp("door"), teacher, sites=sites)
    try:
        with open_desk(world.coordinator_config()):  # of it, what a teacher follows
            world.serve("teacher").shows("moma_teacher_inflight_requests")
            yield world
    finally:
        world.close()


@pytest.fixture
def server(world: World) -> Program:
    return world.programs[0]


def _credential(world: World, folder: str = "site-a") -> Credential:
    place = world.folder / folder
    identity = SiteIdentity.from_yaml(place / "config.yaml").identity
    key = open_key(identity.key, identity.passphrase_file)
    return Credential(identity.certificate.read_bytes(), key)


def _signed(authority: Credential, site: str, now: datetime) -> Credential:
    uri, key = f"spiffe://moma/site/{site}", create_key()
    request = create_request(key, uri)
    certificate = sign_request(request, authority, expected_uri=uri, now=now)
    return Credential(certificate, key)


def _authority(world: World) -> Credential:
    return signing_authority(world.coordinator_config())


def _channel(world: World, credential: Credential | None) -> grpc.Channel:
    pair = (
        (credential.key_pem, credential.certificate_pem) if credential else (None, None)
    )
    authority = (world.folder / "site-a" / "ca.pem").read_bytes()
    return grpc.secure_channel(
        f"{LOOPBACK}:{world.ports['teach']}",
        grpc.ssl_channel_credentials(authority, *pair),
        options=[("grpc.enable_retries", 0)],
    )


def _request(patches: int = 2) -> pb.EmbedRequest:
    return pb.EmbedRequest(
        request_id=os.urandom(16),
        patches=patches,
        height_px=SIDE_PX,
        width_px=SIDE_PX,
        format=pb.PIXEL_FORMAT_RGB_UINT8,
        pixels=bytes(patches * SIDE_PX * SIDE_PX * 3),
    )


def _embed(
    world: World,
    credential: Credential | None,
    site: str = "site-a",
    key: SigningKey | None = None,
) -> list[pb.EmbedResponse]:
    with _channel(world, credential) as channel:
        stub = sealed_stub(world, channel, site, key)
        return list(stub.Embed(iter([_request()]), timeout=20))


def _refusal(
    world: World,
    credential: Credential | None,
    site: str = "site-a",
    key: SigningKey | None = None,
) -> Exception:
    with pytest.raises((grpc.RpcError, MomaError)) as refused:
        _embed(world, credential, site, key)
    return refused.value


def test_an_admitted_site_is_answered(world: World) -> None:
    (answer,) = _embed(world, _credential(world))

    assert answer.embedding


def test_no_certificate_gets_nothing(world: World, server: Program) -> None:
    refusal: Any = _refusal(world, None)

    assert refusal.code() == grpc.StatusCode.UNAVAILABLE  # no handshake
    assert _embed(world, _credential(world))


def test_a_certificate_of_another_authority_gets_nothing(world: World) -> None:
    now = datetime.now(UTC)
    forged = _signed(create_authority("moma", now=now), "site-a", now)

    refusal: Any = _refusal(world, forged)

    assert refusal.code() == grpc.StatusCode.UNAVAILABLE
    assert _embed(world, _credential(world))


def test_an_expired_certificate_gets_nothing(world: World) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=400)
    expired = _signed(_authority(world), "site-a", long_ago)

    refusal: Any = _refusal(world, expired)

    assert refusal.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNAUTHENTICATED,
    )
    assert _embed(world, _credential(world))


def test_a_site_without_a_grant_is_told_so_and_charged_nothing(
    world: World, server: Program
) -> None:
    stranger = _signed(_authority(world), "site-z", datetime.now(UTC))

    key = SigningKey.create()
    unknown: Any = _refusal(world, stranger, "site-z", key)
    approve_site(world.teacher_config(), "site-z", str(key.public))
    refusal: Any = _refusal(world, stranger, "site-z", key)

    labels = {"site": "site-z", "teacher": TEACHER}
    assert unknown.code() == grpc.StatusCode.UNAUTHENTICATED  # its key is nobody's
    assert type(refusal) is BudgetSpentError
    assert server.metric("moma_teacher_patches_total", **labels) == 0
    assert server.metric("moma_teacher_denied_total", reason="budget", **labels) == 1


def test_a_stream_of_a_revoked_site_is_cut_within_five_seconds(
    world: World, server: Program
) -> None:
    with _channel(world, _credential(world, "site-b")) as channel:
        stub = sealed_stub(world, channel, "site-b")
        held = _Held()
        answers = stub.Embed(held, timeout=60)
        assert next(answers).embedding
        config = world.folder / "coordinator" / "server.yaml"

        revoked = ended("moma-server", "revoke", "--config", config, "site-b")
        since = time.monotonic()
        with pytest.raises(grpc.RpcError) as cut:
            next(answers)
        took = time.monotonic() - since
        held.over = True

    error: Any = cut.value
    assert revoked.stdout == "revoked 1 certificate(s) of site site-b\n"
    assert took < promised(REVOKED_SECONDS)
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    again: Any = _refusal(world, _credential(world, "site-b"), "site-b")
    assert again.code() == grpc.StatusCode.UNAUTHENTICATED
    assert (
        server.metric(
            "moma_teacher_denied_total", site="", teacher=TEACHER, reason="revoked"
        )
        >= 2
    )
    assert _embed(world, _credential(world))


def test_a_revoked_client_ends_with_a_sentence_and_status_3(world: World) -> None:
    config = world.folder / "coordinator" / "server.yaml"
    revoked = ended("moma-server", "revoke", "--config", config, "site-c")
    assert revoked.returncode == 0, revoked.stderr
    until(
        lambda: _is_refused(world, "site-c"),
        seconds=promised(REVOKED_SECONDS),
        what="the teacher knows",
    )

    client = world.take_part("site-c")
    status = client.status(seconds=240)  # its start, on a busy machine

    assert status == 3
    assert "UNAUTHENTICATED" in client.said().strip().splitlines()[-1]
    assert "Traceback" not in client.said()


def _is_refused(world: World, site: str) -> bool:
    try:
        _embed(world, _credential(world, site), site)
    except grpc.RpcError:
        return True
    return False


class _Held:
    """One request, and then an open stream that sends nothing."""

    def __init__(self) -> None:
        self.over = False
        self._sent = False

    def __iter__(self) -> "_Held":
        return self

    def __next__(self) -> pb.EmbedRequest:
        if not self._sent:
            self._sent = True
            return _request()
        while not self.over:
            time.sleep(0.05)
        raise StopIteration
