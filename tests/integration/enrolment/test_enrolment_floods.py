"""Strangers who flood the enrolment port, and the members who still get what is theirs.

Strangers come from 127.0.0.2, through a wire; members from 127.0.0.1.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from moma_client.config.site import SiteIdentity
from moma_core.errors import FederationError, MomaError, NotAuthorizedError
from moma_core.federation.node_key import create_node_key
from moma_core.pki.certificates import create_key
from moma_core.pki.key_files import open_key
from moma_core.pki.tls_probe import shown_certificate
from moma_proto.enrolment.client import EnrolmentLink
from moma_server.enrolment.interceptor import RateLimiter
from moma_server.enrolment.service import REFUSALS
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
from tests.support.federation.pki import Pki
from tests.support.machine.cuttable import cuttable

STRANGER = "127.0.0.2"
WAIT_SECONDS = 120.0
X400_ADDRESS = bytes.fromhex("3004a3020500")  # as a subject's alternative name


def renewed(desk: OpenDesk, site: SiteIdentity) -> bytes:
    certificate = site.identity.certificate.read_bytes()
    return link(desk).renew(certificate, open_key(site.identity.key))


def elsewhere(desk: OpenDesk, entrance: int) -> EnrolmentLink:
    return replace(link(desk), address=f"{LOOPBACK}:{entrance}")


def self_signed(name: x509.GeneralName | bytes) -> bytes:
    """Returns a certificate that says of itself whose it is."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    names: x509.ExtensionType = (
        x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), name)
        if isinstance(name, bytes)
        else x509.SubjectAlternativeName([name])
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def test_a_flood_of_tries_is_cut_off_and_others_still_renew(tmp_path: Path) -> None:
    config = make_coordinator(tmp_path / "coordinator", tries=6)
    with open_desk(config) as desk, cuttable(desk.port, source=STRANGER) as wire:
        site = new_site(tmp_path / "site")
        enrolled(site, desk, desk.token())
        forged = replace(desk.token("site-b"), secret=bytes(32))
        refused: list[str] = []
        for _ in range(40):
            with pytest.raises(MomaError) as error:
                elsewhere(desk, wire.entrance).enrol(
                    forged, create_key(), create_node_key().public
                )
            refused.append(str(error.value))

        assert renewed(desk, site) == site.identity.certificate.read_bytes()
        assert link(desk).revoked()

    assert sum("too many tries" in text for text in refused) >= 5
    assert {line["caller"] for line in refusals(desk)} == {STRANGER}


def test_calls_that_say_nothing_are_few_and_short_and_members_are_served(
    tmp_path: Path,
) -> None:
    """28 connections with four calls each, whose request never comes."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(2 * WAIT_SECONDS)
        yield b""

    with (
        open_desk(make_coordinator(tmp_path / "coordinator")) as desk,
        cuttable(desk.port, source=STRANGER) as wire,
        ExitStack() as stack,
    ):
        site = new_site(tmp_path / "site")
        enrolled(site, desk, desk.token())
        shown = shown_certificate(desk.address, None, seconds=WAIT_SECONDS)
        credentials = grpc.ssl_channel_credentials(shown)
        stack.callback(over.set)
        calls: list[Any] = []
        for _ in range(28):
            channel = grpc.secure_channel(
                f"{LOOPBACK}:{wire.entrance}",
                credentials,
                [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)],
            )
            stack.enter_context(channel)
            for method in ("Authority", "Renew"):
                start = channel.stream_unary(f"/moma.v1.EnrolmentService/{method}")
                calls += [start.future(nothing(), timeout=WAIT_SECONDS) for _ in "ab"]

        assert renewed(desk, site)
        assert link(desk).revoked()
        codes = {call.exception(timeout=WAIT_SECONDS).code() for call in calls}

    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert desk.journal().count('"refused"') == 0


@pytest.mark.parametrize(
    "name",
    [
        x509.UniformResourceIdentifier("spiffe://moma/site/site-a"),
        X400_ADDRESS,
        bytes.fromhex("30048602fffe"),  # a name that is not ASCII
    ],
    ids=["a member's name", "x400", "not ascii"],
)
def test_who_signs_for_itself_is_refused_and_its_word_is_not_written_down(
    tmp_path: Path, desk: OpenDesk, name: x509.GeneralName | bytes
) -> None:
    enrolled(new_site(tmp_path / "site"), desk, desk.token())

    with pytest.raises(NotAuthorizedError, match="not signed by the federation"):
        link(desk).renew(self_signed(name), create_key())

    (line,) = refusals(desk)
    assert (line["kind"], line["name"]) == ("", "")


def test_what_goes_wrong_at_the_desk_is_not_told(desk: OpenDesk) -> None:
    asking = link(desk)
    desk.config.authority.certificate.unlink()

    with pytest.raises(FederationError, match="INTERNAL: internal error"):
        asking.renew(Pki("moma").site("site-a").certificate_pem, create_key())


def test_refusals_do_not_turn_over_the_record_of_what_was_granted(
    tmp_path: Path, desk: OpenDesk
) -> None:
    enrolled(new_site(tmp_path / "site"), desk, desk.token())
    granted = (desk.config.state_dir / "enrolments.jsonl").read_bytes()
    (desk.config.state_dir / REFUSALS).write_bytes(b" " * (16 << 20) + b"\n")

    for _ in range(2):
        with pytest.raises(NotAuthorizedError):
            link(desk).renew(Pki("moma").site("site-a").certificate_pem, create_key())

    assert (desk.config.state_dir / "enrolments.jsonl").read_bytes() == granted
    assert len(refusals(desk)) == 2


def test_strangers_who_renew_take_from_the_bucket_of_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RateLimiter, "allows_strangers", lambda _: False)
    with open_desk(make_coordinator(tmp_path / "coordinator")) as desk:
        stranger = Pki("moma").site("site-a")
        with pytest.raises(MomaError, match="too many tries of all"):
            link(desk).renew(stranger.certificate_pem, stranger.key_pem)

    assert refusals(desk) == []
