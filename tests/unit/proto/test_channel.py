"""A gRPC channel goes where the rule for all links says, and nowhere else."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from moma_core.network.proxy import DIRECT, ProxyRule
from moma_core.runtime.files import write_private
from moma_proto.channel import channel_target
from tests.support.federation.pki import Pki
from tests.support.machine.connect_proxy import connect_proxy

WAIT_SECONDS = 30.0
FAR = "teacher.hospital.invalid:8444"  # nobody but the proxy knows where that is


class Echo(grpc.GenericRpcHandler):
    """Answers with what it was sent."""

    def service(self, _details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


@pytest.fixture(scope="module")
def port(pki: Pki) -> Iterator[int]:
    own = pki.server(hosts=("teacher.hospital.invalid", "::1", "127.0.0.1"))
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Echo(),))
    credentials = grpc.ssl_server_credentials([(own.key_pem, own.certificate_pem)])
    port = server.add_secure_port("[::]:0", credentials)
    server.start()
    yield port
    server.stop(None).wait(WAIT_SECONDS)


def called(pki: Pki, address: str, rule: ProxyRule) -> bytes:
    target, options = channel_target(address, rule)
    credentials = grpc.ssl_channel_credentials(pki.ca_pem)
    with grpc.secure_channel(target, credentials, options) as channel:
        echo: bytes = channel.unary_unary("/a/b")(b"hello", timeout=WAIT_SECONDS)
        return echo


def test_the_proxy_is_asked_for_the_address_and_given_its_credentials(
    pki: Pki, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = "hospital:secret word"
    write_private(tmp_path / "proxy", known.encode())
    monkeypatch.setenv("NO_PROXY", "*")  # is for `environment` alone
    monkeypatch.setenv("no_proxy", "*")
    places = {FAR: ("127.0.0.1", port)}
    with connect_proxy(credentials=known, places=places) as proxy:
        rule = ProxyRule(proxy.url, tmp_path / "proxy")

        assert called(pki, FAR, rule) == b"hello"
        assert called(pki, f"[::1]:{port}", rule) == b"hello"
        assert proxy.asked == [FAR, f"[::1]:{port}"]


def test_a_certificate_for_another_host_is_refused_behind_a_proxy(
    pki: Pki, port: int
) -> None:
    other = "other.hospital.invalid:8444"
    with (
        connect_proxy(places={other: ("127.0.0.1", port)}) as proxy,
        pytest.raises(grpc.RpcError, match="UNAVAILABLE"),
    ):
        called(pki, other, ProxyRule(proxy.url))


def test_without_a_proxy_the_environment_is_not_obeyed(
    pki: Pki, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with connect_proxy() as proxy:
        for name in ("https_proxy", "grpc_proxy", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)

        assert called(pki, f"127.0.0.1:{port}", DIRECT) == b"hello"
        assert proxy.connections == 0
