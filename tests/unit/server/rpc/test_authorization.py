import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from unittest.mock import AsyncMock

import pytest
from grpc._cython import cygrpc

from moma_core.errors import MomaError, NotAuthorizedError
from moma_server.rpc.authorization import (
    CertificateAuthorization,
    caller,
    errors_as_status,
)
from moma_server.teacher.server import HEALTH_SERVICE, SERVED, TEACHER_SERVICE
from tests.support.federation.pki import Pki

PKI = Pki()
POLICY = CertificateAuthorization(
    federation="test-federation",
    revoked=frozenset(),
    served=SERVED,
    clock=lambda: datetime.now(UTC),
)


def connection(**changes: Iterable[bytes]) -> Mapping[str, Iterable[bytes]]:
    pem = PKI.site("site-a").certificate_pem
    return {"ssl_tls_version": [b"TLSv1.3"], "x509_pem_cert": [pem], **changes}


def test_a_site_is_admitted_under_its_certificates_name() -> None:
    peer = POLICY.authorize(connection(), TEACHER_SERVICE)

    assert (peer.kind, peer.name) == ("site", "site-a")


@pytest.mark.parametrize(
    "auth",
    [
        {},
        connection(ssl_tls_version=[b"TLSv1.2"]),
        connection(ssl_tls_version=[]),
        connection(x509_pem_cert=[]),
        connection(x509_pem_cert=[b"no certificate"]),
    ],
    ids=["nothing", "TLS 1.2", "no version", "no certificate", "no PEM"],
)
def test_a_connection_that_proves_too_little_is_refused(
    auth: Mapping[str, Iterable[bytes]],
) -> None:
    with pytest.raises(NotAuthorizedError):
        POLICY.authorize(auth, TEACHER_SERVICE)


def test_a_service_that_nobody_was_named_for_is_for_nobody() -> None:
    with pytest.raises(NotAuthorizedError):
        POLICY.authorize(connection(), "moma.v1.AnotherService")


def test_a_coordinator_may_ask_for_health_and_for_nothing_else() -> None:
    pem = PKI.issue("coordinator", "hub").certificate_pem
    auth = connection(x509_pem_cert=[pem])

    assert POLICY.authorize(auth, HEALTH_SERVICE).kind == "coordinator"
    with pytest.raises(MomaError):
        POLICY.authorize(auth, TEACHER_SERVICE)


def test_there_is_no_caller_outside_the_gate() -> None:
    with pytest.raises(LookupError):
        caller()


def test_a_server_that_stops_in_a_call_is_no_unexpected_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = AsyncMock()

    async def scenario() -> None:
        async with errors_as_status(context):
            raise cygrpc._ServerStoppedError("Server already stopped.")

    with caplog.at_level(logging.INFO), pytest.raises(cygrpc._ServerStoppedError):
        asyncio.run(scenario())
    assert not caplog.records
    context.abort.assert_not_called()
