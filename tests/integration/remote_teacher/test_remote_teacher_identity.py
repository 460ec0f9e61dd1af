"""The client's teacher link, and who is at its two ends."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moma_core.errors import CertificateError, NotAuthorizedError
from moma_core.pki.certificates import Credential
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import (
    ScriptedTeacher,
    Site,
    detour,
    follow_all,
    honest,
    scripted,
)


@pytest.mark.parametrize(
    ("credential", "reason"),
    [
        (
            lambda pki: pki.server("teacher-b"),
            "is teacher teacher-b, teacher.name is teacher-a: write",
        ),
        (lambda pki: pki.server("teacher-a", "coordinator"), "another service"),
        (lambda pki: pki.server(hosts=("example.org",)), "Hostname mismatch"),
        (lambda pki: Pki().server(), "unable to get local issuer|signature failure"),
    ],
    ids=["other teacher", "coordinator", "other host", "other authority"],
)
def test_who_is_not_the_named_teacher_is_shown_nothing(
    tmp_path: Path, pki: Pki, credential: Callable[[Pki], Credential], reason: str
) -> None:
    teacher = ScriptedTeacher(honest)
    with scripted(pki, teacher, credential(pki)) as port:
        site = Site(tmp_path, pki, port)

        with pytest.raises(NotAuthorizedError, match=reason):
            follow_all(site)

    assert teacher.calls == 0
    assert site.metric("egress_bytes_total", channel="teacher") == 0


def test_who_steps_in_after_the_teacher_was_recognised_is_shown_nothing(
    tmp_path: Path, pki: Pki
) -> None:
    teacher, intruder = ScriptedTeacher(honest), ScriptedTeacher(honest)
    with (
        scripted(pki, teacher) as port,
        scripted(pki, intruder, pki.server("teacher-b")) as other_port,
        detour(port, other_port) as entrance,
    ):
        site = Site(tmp_path, pki, entrance)

        with pytest.raises(NotAuthorizedError, match="is teacher teacher-b"):
            follow_all(site)

    assert intruder.calls == 0


def test_an_address_by_number_is_checked_as_well(tmp_path: Path, pki: Pki) -> None:
    with scripted(pki, ScriptedTeacher(honest)) as port:
        steps = follow_all(Site(tmp_path, pki, port, host="127.0.0.1"))

    assert steps == [0, 1, 2, 3, 4]


def test_an_expired_certificate_of_the_site_is_a_matter_for_the_site(
    tmp_path: Path, pki: Pki
) -> None:
    expired = pki.site(now=datetime.now(UTC) - timedelta(days=31))
    site = Site(tmp_path, pki, 1, credential=expired)

    with pytest.raises(CertificateError, match=r"own certificate expired at .* renew"):
        follow_all(site)


def test_a_certificate_of_another_federation_is_a_matter_for_the_site(
    tmp_path: Path, pki: Pki
) -> None:
    site = Site(tmp_path, pki, 1, credential=Pki().site())

    with pytest.raises(CertificateError, match="not signed by the federation's"):
        follow_all(site)


def test_a_key_of_another_certificate_is_a_matter_for_the_site(
    tmp_path: Path, pki: Pki
) -> None:
    mixed = Credential(pki.site().certificate_pem, pki.site().key_pem)

    with pytest.raises(CertificateError, match="own certificate, key"):
        follow_all(Site(tmp_path, pki, 1, credential=mixed))
