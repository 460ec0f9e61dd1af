"""SuperLink as a child on a Unix socket: started, watched, started again, ended.

It has no authentication on its Control API, so nobody but this user may reach it;
hospitals see the edge. A SuperLink that was restarted keeps its nodes and has lost its
run: `generation` counts the starts, so that the coordinator knows.
"""

import logging
import os
import secrets
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from moma_core.errors import FederationError
from moma_core.pki.certificates import (
    certificate_builder,
    common_name,
    create_key,
    load_key,
)
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import make_folder, write_private
from moma_core.runtime.supervise import SupervisedChild, how_it_ended, wait_or_kill
from moma_server.federation.engine.socket import (
    ENGINE_URL,
    SUPEREXEC_ENDED,
    EngineAddress,
    EngineTransport,
    launcher,
)
from moma_server.rpc.unix_socket import make_socket_path, remove_socket_folder

_logger = logging.getLogger(__name__)

MARK = "MOMA_SUPERLINK"
"""In the environment of all that SuperLink starts, so that all of it can be killed."""

_CERTIFICATE_LIFETIME = timedelta(days=3650)  # its key goes with the next start
_HEALTH_SECONDS = 60.0
_TERM_SECONDS = 4.0
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_LOG_BYTES = 16 << 20


class LoopbackTls(NamedTuple):
    """Files of a certificate that is its own CA.

    Args:
        certificate: PEM.
        key: PEM.
    """

    certificate: Path
    key: Path


def make_loopback_tls(folder: Path) -> LoopbackTls:
    """Writes a fresh key and certificate into `folder`, over the last ones."""
    key_pem = create_key()
    key, name = load_key(key_pem), common_name("superlink loopback")
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        certificate_builder(
            name, name, key.public_key(), now=utc_now(), lifetime=_CERTIFICATE_LIFETIME
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(loopback, critical=False)
        .add_extension(server, critical=False)
        .sign(key, hashes.SHA256())
    )
    files = LoopbackTls(folder / "loopback.pem", folder / "loopback.key")
    write_private(files.certificate, certificate.public_bytes(Encoding.PEM))
    write_private(files.key, key_pem)
    return files


class SuperLink:
    """The federation engine's server, supervised from a thread of this process.

    Args:
        folder: Folder of its database, keys, log and FLWR_HOME; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        make_folder(self._folder)
        self._folder.chmod(0o700)  # the database holds the sites' weights
        self._log = self._folder / "superlink.log"
        self._socket = make_socket_path("superlink.sock")
        weakref.finalize(self, remove_socket_folder, self._socket)
        self._mark = secrets.token_hex(16)
        self._tls = make_loopback_tls(self._folder)
        self._child = SupervisedChild(
            "superlink",
            self._start,
            end=self._end,
            on_exit=self._log_exit,
            longest_pause_seconds=_LONGEST_PAUSE_SECONDS,
        )

    @property
    def address(self) -> EngineAddress:
        """How the programs of this user reach it."""
        return EngineAddress(self._socket, self._tls.certificate)

    @property
    def generation(self) -> int:
        """How often it was started."""
        return self._child.starts

    def start(self) -> None:
        """Starts SuperLink and returns when it answers.

        Raises:
            FederationError: It did not answer in a minute; the log says why.
        """
        self._child.start()
        end = time.monotonic() + _HEALTH_SECONDS
        while not self._is_healthy():
            if time.monotonic() > end or not self._child.is_supervised():
                self.stop()
                raise FederationError(f"SuperLink does not answer, see {self._log}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends SuperLink and everything that it has started, within seconds."""
        self._child.stop()
        remove_socket_folder(self._socket)

    def _is_healthy(self) -> bool:
        try:
            transport = EngineTransport(self.address)
            with httpx.Client(transport=transport, timeout=5) as client:
                return client.get(f"{ENGINE_URL}/health").is_success
        except httpx.HTTPError:
            return False

    def _start(self) -> subprocess.Popen[bytes]:
        if self._log.exists() and self._log.stat().st_size > _LONGEST_LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        tether = ["-P", "-m", "moma_server.federation.engine.tether", str(os.getpid())]
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own program, no shell
                [
                    sys.executable,
                    *tether,
                    *launcher(self._socket),
                    *_command(self._folder, self._tls),
                ],
                env=_environment(self._folder, self._mark),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us alone
            )

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        # SuperLink waits for its own children's calls, which never stop coming
        kill_marked(self._mark, spare=process.pid)
        wait_or_kill(process, _TERM_SECONDS)
        kill_marked(self._mark)

    def _log_exit(self, status: int, _pause: float) -> None:
        what = f"SuperLink {how_it_ended(status)}"
        if status == SUPEREXEC_ENDED:
            what = "SuperExec, which starts the runs, ended and SuperLink with it"
        _logger.error("%s, see %s", what, self._log)


def _command(folder: Path, tls: LoopbackTls) -> list[str]:
    return [
        "flower-superlink",
        *("--host", "127.0.0.1"),
        *("--ssl-ca-certfile", str(tls.certificate)),
        *("--ssl-certfile", str(tls.certificate)),
        *("--ssl-keyfile", str(tls.key)),
        *("--database", str(folder / "state.db")),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]


def _environment(folder: Path, mark: str) -> Mapping[str, str]:
    """Ours, without what Flower would do unasked, and with the mark of the tree.

    A setting of Flower's in our own environment could open a port.
    """
    ours = {k: v for k, v in os.environ.items() if not k.startswith("FLWR_")}
    return {
        **ours,
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOG_LEVEL": "WARNING",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        MARK: mark,
    }


def kill_marked(mark: str, *, spare: int = 0) -> int:
    """Kills every process whose environment has MARK=`mark`; returns how many.

    Args:
        mark: A secret of one tree.
        spare: A process id that is left alone.
    """
    entry = f"{MARK}={mark}".encode()
    return sum(
        _kill(int(process.name), entry)
        for process in Path("/proc").glob("[0-9]*")
        if int(process.name) not in (spare, os.getpid())
    )


def _kill(pid: int, entry: bytes) -> bool:
    """Kills `pid` if it carries the entry; the handle keeps to this very process."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if entry not in environment:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(handle)
