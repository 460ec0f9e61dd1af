"""The relay looked at from outside: its memory, disk and wire, and who listens."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.federation.pki import Pki
from tests.support.machine.capture import files_holding, memory_holds
from tests.support.machine.cuttable import cuttable
from tests.support.machine.listening import listening
from tests.support.machine.ports import free_port
from tests.support.machine.waiting import until
from tests.support.relay.party import party, write_authority
from tests.support.relay.world import bytes_server, linked_agent, start

pytestmark = pytest.mark.timeout(900)  # processes start slowly on a busy machine

LOOPBACK = "127.0.0.1"
MIB = 2**20
_IP = shutil.which("ip") or ""


async def deaf(requests: AsyncIterator[bytes], context: Any) -> None:
    """Reads nothing of what it is sent."""
    await asyncio.sleep(60)


@asynccontextmanager
async def kept_waiting(
    folder: Path, pki: Pki, port: int, way: int, content: bytes
) -> AsyncIterator[list[bytes]]:
    """Sends what is longer than a window to a teacher that does not read it.

    The rest of it waits in the coordinator while the block runs, which is given the
    frames of the teacher's link; `way` leads that link to `port`.
    """
    frames: list[bytes] = []
    folder.mkdir()
    behind, own = folder / "relayed.sock", pki.issue("teacher", "teacher-a")
    credentials = grpc.ssl_channel_credentials(pki.ca_pem, *reversed(pki.site()))
    async with (
        bytes_server(behind, deaf),
        linked_agent(folder, own, pki, way, behind, frames=frames) as end,
        grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel,
    ):
        await until(lambda: end.links)
        call = start(channel)
        sending = asyncio.create_task(call.write(content))
        await until(lambda: sum(map(len, frames)) > 3 * MIB)
        yield frames
        call.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def test_the_capture_finds_what_passes_the_coordinator_unsealed(
    tmp_path: Path,
) -> None:
    pki, port = Pki(), free_port()
    write_authority(tmp_path, pki)
    secret, never_sent = os.urandom(32), os.urandom(32)
    kept = tmp_path / "coordinator" / "kept"

    async def scenario(pid: int, way: int) -> None:
        content = secret * (12 * MIB // 32)
        async with kept_waiting(tmp_path / "t", pki, port, way, content) as frames:
            assert await asyncio.to_thread(memory_holds, pid, secret)
            assert not await asyncio.to_thread(memory_holds, pid, never_sent)
            assert any(secret in frame for frame in frames)

    with (
        party("coordinator", tmp_path, LOOPBACK, port) as process,
        cuttable(port, is_recording=True) as wire,
    ):
        asyncio.run(scenario(process.pid, wire.entrance))

    assert len(wire.recorded) > 2 * MIB
    assert secret not in wire.recorded  # TLS
    assert files_holding(kept.parent, secret) == []
    kept.write_bytes(b"x" + secret)
    assert files_holding(kept.parent, secret) == [kept]


def test_neither_teacher_nor_site_listens_and_yet_the_site_is_answered(
    tmp_path: Path,
) -> None:
    write_authority(tmp_path, Pki())
    at = (tmp_path, LOOPBACK, free_port())
    with (
        party("coordinator", *at) as relay,
        party("teacher", *at) as teacher,
        party("site", *at) as site,
    ):
        assert [port for _, port in listening(relay.pid)] == [at[2]]
        assert listening(teacher.pid) == set()
        assert listening(site.pid) == set()


@contextmanager
def namespaces(*names: str) -> Iterator[dict[str, str]]:
    """Yields one network namespace a name, with its address.

    All are behind one bridge, by which each reaches the first and no other.
    """
    bridge, own = f"br{os.getpid()}", {name: f"{name}{os.getpid()}" for name in names}
    addresses = {name: f"10.213.7.{number + 1}" for number, name in enumerate(names)}
    lines = [f"link add {bridge} type bridge", f"link set {bridge} up"]
    for number, (name, inside) in enumerate(own.items()):
        wire = f"v{number}p{os.getpid()}"
        lines += [
            f"netns add {inside}",
            f"link add {wire} type veth peer name eth0 netns {inside}",
            f"link set {wire} master {bridge} up",
            f"link set {wire} type bridge_slave isolated {'on' if number else 'off'}",
            f"-n {inside} addr add {addresses[name]}/24 dev eth0",
            f"-n {inside} link set eth0 up",
            f"-n {inside} link set lo up",
        ]
    try:
        for line in lines:
            done = subprocess.run(
                [_IP, *line.split()], capture_output=True, text=True, check=False
            )
            if done.returncode:
                pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
        yield addresses
    finally:
        for line in [*(f"netns del {it}" for it in own.values()), f"link del {bridge}"]:
            subprocess.run([_IP, *line.split()], capture_output=True, check=False)


def inside(name: str) -> list[str]:
    """Returns what runs a command in a namespace."""
    return [_IP, "netns", "exec", f"{name}{os.getpid()}"]


_KNOCK = """
import socket, sys

def is_open(port):
    with socket.socket() as one:
        one.settimeout(5)
        try:
            one.connect((sys.argv[1], port))
        except OSError as error:
            return not isinstance(error, ConnectionRefusedError) and repr(error)
        return "open"

print({port: how for port in range(1, 65536) if (how := is_open(port))})
"""


def ports_that_answer(where: str, address: str) -> str:
    """Returns the ports of an address that do not refuse who knocks from `where`."""
    return subprocess.run(
        [*inside(where), sys.executable, "-c", _KNOCK, address],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@pytest.mark.skipif(
    os.geteuid() != 0 or not _IP, reason="makes network namespaces: needs root and ip"
)
def test_teacher_and_site_work_where_nothing_can_connect_to_them(
    tmp_path: Path,
) -> None:
    write_authority(tmp_path, Pki())
    with namespaces("relay", "teach", "site") as addresses:
        at = (tmp_path, addresses["relay"], 8446)
        with (
            party("coordinator", *at, inside=inside("relay")),
            party("teacher", *at, inside=inside("teach")),
            party("site", *at, inside=inside("site")),  # it was answered
        ):
            for name in ("teach", "site"):
                sockets = subprocess.run(
                    [*inside(name), "cat", "/proc/self/net/tcp", "/proc/self/net/tcp6"],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
                states = {line.split()[3] for line in sockets.splitlines()}
                assert "01" in states  # a connection of its own making
                assert "0A" not in states  # and nobody listens
                assert ports_that_answer("relay", addresses[name]) == "{}"
            assert ports_that_answer("site", addresses["relay"]) == "{8446: 'open'}"
