import asyncio
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.federation.pki import Pki
from tests.support.machine.waiting import WAIT_SECONDS
from tests.support.teacher.teacher_server import MeanColour, ask, request, serving


def test_a_renewed_certificate_is_shown_without_a_restart(
    tmp_path: Path,
) -> None:
    pki = Pki()

    def shown(port: int) -> bytes:
        pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=WAIT_SECONDS)
        return pem.encode()

    async def scenario() -> None:
        async with serving(tmp_path, pki, MeanColour()) as served:
            before = await asyncio.to_thread(shown, served.port)

            renewed = pki.server()
            (tmp_path / "certificate.pem").write_bytes(renewed.certificate_pem)
            half = await asyncio.to_thread(shown, served.port)
            (tmp_path / "key.pem").write_bytes(renewed.key_pem)
            after = await asyncio.to_thread(shown, served.port)

            assert half == before
            assert after == renewed.certificate_pem
            async with served.stub(pki.site("site-a")) as stub:
                assert len(await ask(stub, request())) == 1

    asyncio.run(scenario())


_SERVER = """
from moma_server.rpc.tls import forbid_tls12
forbid_tls12()

import asyncio, sys
from pathlib import Path
from tests.support.federation.pki import Pki
from tests.support.teacher.teacher_server import MeanColour, serving

async def main():
    pki, folder = Pki(), Path(sys.argv[1])
    pki.write(folder / "site", pki.site("site-a"))
    async with serving(folder, pki, MeanColour()) as served:
        print(served.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def tls_version(port: int, folder: Path, version: ssl.TLSVersion) -> str | None:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), WAIT_SECONDS) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        return secured.version()


def test_tls_12_is_shut_out_at_the_handshake(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())

        newest = tls_version(port, tmp_path / "site", ssl.TLSVersion.TLSv1_3)
        with pytest.raises(OSError, match=r"EOF|HANDSHAKE|reset"):
            tls_version(port, tmp_path / "site", ssl.TLSVersion.TLSv1_2)
        server.stdin.close()

        assert newest == "TLSv1.3"
        assert server.wait(timeout=WAIT_SECONDS) == 0
