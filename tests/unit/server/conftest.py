"""What tests of a server share."""

import pytest


@pytest.fixture(autouse=True)
def tls12_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh program: here another test may have imported grpc before."""
    monkeypatch.setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384")
