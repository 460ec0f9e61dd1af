"""A site whose certificate is renewed goes on asking, without a restart."""

from dataclasses import replace
from pathlib import Path

import pytest

from moma_core.errors import CertificateError
from moma_core.pki.key_files import sealed_key
from moma_core.runtime.files import write_private
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import Site, batches, follow_all, running
from tests.support.teacher.teacher_server import MeanColour


def test_the_next_call_shows_the_renewed_certificate(tmp_path: Path, pki: Pki) -> None:
    old, new = pki.site("site-a"), pki.site("site-a")
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = Site(tmp_path / "site", pki, served.port, credential=old)
        with site.teacher() as teacher:
            before = teacher.budget()

            write_private(site.address.key, new.key_pem)
            write_private(site.address.certificate, new.certificate_pem)
            served.revoke(old)
            after = teacher.budget()

    assert after == before


def test_a_stream_that_is_open_goes_on_while_another_call_shows_the_new_one(
    tmp_path: Path, pki: Pki
) -> None:
    new = pki.site("site-a")
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = Site(tmp_path / "site", pki, served.port)
        with site.teacher(in_flight=1) as teacher:
            followed = teacher.answer_batches(batches([1] * 6))
            steps = [next(followed)[0].step for _ in range(2)]

            write_private(site.address.key, new.key_pem)
            write_private(site.address.certificate, new.certificate_pem)
            granted = teacher.budget().granted_patches
            steps += [batch.step for batch, _ in followed]

    assert granted == 1000
    assert steps == [0, 1, 2, 3, 4, 5]


def test_an_encrypted_key_opens_the_link_with_its_passphrase_alone(
    tmp_path: Path, pki: Pki
) -> None:
    secret = tmp_path / "passphrase"
    write_private(secret, b"four words of nonsense\n")
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = Site(tmp_path / "site", pki, served.port)
        key = site.address.key.read_bytes()
        write_private(site.address.key, sealed_key(key, b"four words of nonsense"))

        with pytest.raises(CertificateError):
            follow_all(site)
        site.address = replace(site.address, passphrase_file=secret)

        assert follow_all(site) == [0, 1, 2, 3, 4]
