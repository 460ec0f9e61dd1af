"""SuperLink as a child on a Unix socket: started, watched, started again, ended.

It has no authentication on its Control API, so nobody but this user may reach it;
hospitals see the edge. A SuperLink that was restarted keeps its nodes and has
lost its run: `generation` counts the starts, so that the coordinator knows.
"""

import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moma_core.errors import FederationError
from moma_core.runtime.files import write_private
from moma_server.federation.engine.socket import (
    ENGINE_URL,
    SUPEREXEC_ENDED,
    EngineAddress,
    EngineTransport,
    launcher,
)
from moma_server.rpc.unix_socket import make_socket_path, remove_socket_folder

_LIFETIME = timedelta(days=3650)  # the key is thrown away at the next start


class LoopbackTls(NamedTuple):
    """Files; the certificate is its own authority."""

    certificate: Path
    key: Path


def make_loopback_tls(folder: Path) -> LoopbackTls:
    """Writes a fresh key and certificate into `folder`, over the last ones."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "superlink loopback")])
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    files = LoopbackTls(folder / "loopback.pem", folder / "loopback.key")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(files.certificate, certificate.public_bytes(Encoding.PEM))
    write_private(files.key, private)
    return files


_logger = logging.getLogger(__name__)

_HEALTH_SECONDS = 60.0

_TERM_SECONDS = 4.0

_LONGEST_BACKOFF_SECONDS = 30.0

_STABLE_SECONDS = 60.0

_LONGEST_LOG_BYTES = 16 << 20


class SuperLink:
    """The federation engine's server, supervised by a thread of this process.

    Args:
        folder: Its database, keys, log and FLWR_HOME; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)  # the database holds the sites' weights
        self._log = self._folder / "superlink.log"
        self._socket = make_socket_path("superlink.sock")
        weakref.finalize(self, remove_socket_folder, self._socket)
        self._mark = secrets.token_hex(16)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._tls = make_loopback_tls(self._folder)
        self.generation = 0

    @property
    def address(self) -> EngineAddress:
        """How the programs of this user reach it."""
        return EngineAddress(self._socket, self._tls.certificate)

    def start(self) -> None:
        """Starts SuperLink and returns when it answers.

        Raises:
            FederationError: It did not answer in a minute; the log says why.
        """
        self._thread = threading.Thread(target=self._supervise, name="superlink")
        self._thread.start()
        end = time.monotonic() + _HEALTH_SECONDS
        while not self.healthy():
            if time.monotonic() > end or not self._thread.is_alive():
                self.stop()
                raise FederationError(f"SuperLink does not answer, see {self._log}")
            time.sleep(0.1)

    def healthy(self) -> bool:
        """Whether it answers."""
        try:
            transport = EngineTransport(self.address)
            with httpx.Client(transport=transport, timeout=5) as client:
                return client.get(f"{ENGINE_URL}/health").is_success
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """Ends SuperLink and everything that it has started, within seconds."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        remove_socket_folder(self._socket)

    def _supervise(self) -> None:
        """Lives as long as the child: its death signal hangs on this thread."""
        backoff = 1.0
        while not self._stopping.is_set():
            started_at = time.monotonic()
            self._process = self._start()
            self.generation += 1
            while self._process.poll() is None and not self._stopping.wait(0.1):
                pass
            self._end(self._process)
            if self._stopping.is_set():
                return
            _logger.error("%s, see %s", _why(self._process.returncode), self._log)
            if time.monotonic() - started_at > _STABLE_SECONDS:
                backoff = 1.0
            self._stopping.wait(backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)

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
        try:
            process.wait(_TERM_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        kill_marked(self._mark)


def _why(status: int) -> str:
    if status == SUPEREXEC_ENDED:
        return "SuperExec, which starts the runs, ended and SuperLink with it"
    return f"SuperLink ended with status {status}"


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


MARK = "MOMA_SUPERLINK"


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
