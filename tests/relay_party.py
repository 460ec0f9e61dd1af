"""One party of the relay as a process of its own, for tests that look at it.

python -m tests.relay_party coordinator|teacher|site FOLDER HOST PORT

It says `ready` when it serves or was answered, and stays until it is ended.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc

from moma_core.trust.certificates import Credential
from moma_server.relay.server import RelaySettings
from tests.pki import Pki
from tests.relay_world import attached, bytes_server, echo, exchange, relaying, start

_PROJECT = Path(__file__).resolve().parent.parent


@contextmanager
def party(
    role: str, folder: Path, host: str, port: int, inside: Sequence[str] = ()
) -> Iterator["subprocess.Popen[str]"]:
    """Runs a party and yields its process when it is ready.

    Args:
        role: Which one.
        folder: All parties share it; `write_authority` has been there.
        host: Of the relay.
        port: Of the relay.
        inside: A command that runs the process somewhere else, a namespace.
    """
    line = [*inside, sys.executable, "-m", "tests.relay_party", role]
    process = subprocess.Popen(
        [*line, str(folder), host, str(port)],
        cwd=_PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", f"the {role} is not ready"
        yield process
    finally:
        process.kill()
        process.communicate()


def write_authority(folder: Path, pki: Pki) -> None:
    """Lets parties make certificates of `pki` for themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "authority.pem").write_bytes(pki.authority.certificate_pem)
    (folder / "authority.key").write_bytes(pki.authority.key_pem)


def _pki(folder: Path) -> Pki:
    pki = Pki()
    pki.authority = Credential(
        (folder / "authority.pem").read_bytes(), (folder / "authority.key").read_bytes()
    )
    return pki


def _ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


async def coordinator(folder: Path, host: str, port: int) -> None:
    settings = RelaySettings(host=host, port=port)
    own = folder / "coordinator"
    own.mkdir()
    async with relaying(own, _pki(folder), settings, hosts=(host, "localhost")):
        _ready()
        await asyncio.Event().wait()


async def teacher(folder: Path, host: str, port: int) -> None:
    pki, own = _pki(folder), folder / "teacher"
    own.mkdir()
    socket = own / "relayed.sock"
    credential = pki.issue("teacher", "teacher-a")
    async with (
        bytes_server(socket, echo),
        attached(own, credential, pki, port, socket, address=f"{host}:{port}") as end,
    ):
        while not end.links:
            await asyncio.sleep(0.05)
        _ready()
        await asyncio.Event().wait()


async def site(folder: Path, host: str, port: int) -> None:
    pki = _pki(folder)
    key = pki.site("site-a")
    credentials = grpc.ssl_channel_credentials(
        pki.ca_pem, key.key_pem, key.certificate_pem
    )
    async with grpc.aio.secure_channel(f"{host}:{port}", credentials) as channel:
        call = start(channel)
        assert await exchange(call, b"question") == [b"question"]
        _ready()
        await asyncio.Event().wait()


if __name__ == "__main__":
    _, _role, _folder, _host, _port = sys.argv
    _parties = {"coordinator": coordinator, "teacher": teacher, "site": site}
    asyncio.run(_parties[_role](Path(_folder), _host, int(_port)))
