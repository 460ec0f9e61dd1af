"""One party of the relay as a process of its own, for tests that look at it or kill it.

python -m tests.support.relay.party coordinator|teacher|site FOLDER HOST PORT

Teacher and site are the real ones, see `ends.py`. A party says `ready` when it serves,
is linked or was answered, and stays until it is ended.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from moma_core.pki.certificates import Credential
from moma_server.relay.server import RelaySettings
from tests.support.federation.pki import Pki
from tests.support.relay.world import relaying

_PROJECT = Path(__file__).resolve().parents[3]


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
    line = [*inside, sys.executable, "-m", "tests.support.relay.party", role]
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


async def _stay() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def coordinator(folder: Path, host: str, port: int) -> None:
    """Serves the relay; a second one of the same folder and port continues it."""
    settings = RelaySettings(host=host, port=port)
    own = folder / "coordinator"
    own.mkdir(exist_ok=True)
    async with relaying(own, _pki(folder), settings, hosts=(host, "localhost")):
        await _stay()


async def teacher(folder: Path, host: str, port: int) -> None:
    """Serves through the relay; teachers of one folder are replicas."""
    from tests.support.relay.ends import (
        linked_teacher,  # the coordinator needs no torch
    )

    async with linked_teacher(folder, _pki(folder), f"{host}:{port}"):
        await _stay()


async def site(folder: Path, host: str, port: int) -> None:
    """Asks through the relay and is answered, and stays connected."""
    from tests.support.relay.ends import answered_site

    with answered_site(folder, _pki(folder), host, port):
        await _stay()


if __name__ == "__main__":
    _, _role, _folder, _host, _port = sys.argv
    _parties = {"coordinator": coordinator, "teacher": teacher, "site": site}
    asyncio.run(_parties[_role](Path(_folder), _host, int(_port)))
