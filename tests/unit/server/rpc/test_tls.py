from pathlib import Path

import pytest

from moma_core.errors import CertificateError
from moma_server.rpc.tls import TlsCredentials, TlsFiles, forbid_tls12
from tests.support.federation.pki import Pki


def files_in(folder: Path) -> TlsFiles:
    pki = Pki()
    files = pki.write(folder, pki.server())
    return TlsFiles(files.certificate, files.key, files.ca)


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.key.unlink()

    with pytest.raises(CertificateError, match=r"key\.pem"):
        TlsCredentials(files)


def test_a_key_of_another_certificate_stops_the_start(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.key.write_bytes(Pki().server().key_pem)

    with pytest.raises(CertificateError, match="does not belong to the key"):
        TlsCredentials(files)


def test_a_damaged_certificate_stops_the_start(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.certificate.write_text("damaged")

    with pytest.raises(CertificateError, match="cannot be read"):
        TlsCredentials(files)


def test_forbidding_tls_12_too_late_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GRPC_SSL_CIPHER_SUITES", raising=False)

    with pytest.raises(RuntimeError, match="before grpc is imported"):
        forbid_tls12()
