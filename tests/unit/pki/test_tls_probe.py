from datetime import UTC, datetime

import pytest

from moma_core.errors import CertificateError
from moma_core.pki.certificates import (
    authority_fingerprint,
    create_authority,
    only_authority,
    read_authority,
)
from moma_core.pki.tls_probe import shown_certificate


def _authority() -> bytes:
    return create_authority("moma", now=datetime.now(UTC)).certificate_pem


def test_what_stands_beside_the_certificate_is_left_behind() -> None:
    pem = _authority()
    openssl_only = pem.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE")

    assert only_authority(b"a note\n" + pem + openssl_only) == pem
    assert authority_fingerprint(pem + openssl_only) == authority_fingerprint(pem)


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_bundle_is_no_authority(number: int) -> None:
    bundle = b"".join(_authority() for _ in range(number))

    for use in (read_authority, only_authority, authority_fingerprint):
        with pytest.raises(CertificateError, match="authority"):
            use(bundle)


def test_nobody_is_believed_by_a_bundle() -> None:
    with pytest.raises(CertificateError, match="one certificate, not 2"):
        shown_certificate("127.0.0.1:1", _authority() + _authority(), seconds=1)
