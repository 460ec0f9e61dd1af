"""Runs one of Flower's programs on our socket: `python -m ... SOCKET PROGRAM ARG...`.

Flower's programs know only host and port. Here SuperLink listens on a Unix socket
instead, and what it starts calls it there; see `socket` for why. SuperLink also
ends when its SuperExec has: without it no run starts, and nothing would say so. Its
database is there whole or not at all.
"""

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from flwr.supercore.cli import flower_superexec
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.state.alembic.utils import run_migrations
from flwr.superlink.cli import flower_superlink, flwr_serverapp
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from sqlalchemy import create_engine

from moma_core.runtime.files import make_folder, write_private
from moma_server.federation.engine.socket import SUPEREXEC_ENDED, launcher

_logger = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0  # for a SuperLink that is being stopped to end by itself
_PROGRAMS: dict[str, Callable[[], None]] = {
    "flower-superlink": flower_superlink,
    "flower-superexec": flower_superexec,
    "flwr-serverapp": flwr_serverapp,
}


def main(arguments: Sequence[str]) -> None:
    """Becomes the program, with all that it starts."""
    socket, program, *rest = arguments
    sys.argv = [program, *rest]
    _patch_popen(socket)
    _use_socket(socket)
    if program == "flower-superlink":
        make_database(Path(rest[rest.index("--database") + 1]))
        _listen_on_socket(socket)
        _watch_superexec()
    _PROGRAMS[program]()


def make_database(path: Path) -> None:
    """Makes SuperLink's database where there is none yet.

    Flower makes its tables in the place itself, in many steps: killed between two of
    them, it cannot open its database ever again.
    """
    draft = path.parent / "new-database"
    shutil.rmtree(draft, ignore_errors=True)  # of one that was killed
    if path.exists():
        return
    make_folder(draft)
    engine = create_engine(f"sqlite:///{draft / path.name}")
    try:
        run_migrations(engine)
    finally:
        engine.dispose()
    write_private(path, (draft / path.name).read_bytes(), "SuperLink's database")
    shutil.rmtree(draft)


def _patch_popen(socket: str) -> None:
    """Makes Flower start its own programs by this module."""

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, args: list[str], **settings: Any) -> None:  # noqa: ANN401
            if args[0] in _PROGRAMS:
                args = [*launcher(Path(socket)), *args]
            super().__init__(args, **settings)

    vars(subprocess)["Popen"] = Popen


def _use_socket(socket: str) -> None:
    """Makes Flower's clients call the socket, whatever host they were given."""
    begin = ProtobufClient.__init__

    def __init__(client: ProtobufClient, *args: Any, **settings: Any) -> None:  # noqa: ANN401, N807
        begin(client, *args, **settings)
        client._client.close()
        client._client = httpx.Client(
            transport=httpx.HTTPTransport(
                verify=settings.get("verify", True), uds=socket
            ),
            timeout=settings.get("timeout", 30.0),
        )

    engine: Any = ProtobufClient
    engine.__init__ = __init__


def _listen_on_socket(socket: str) -> None:
    """Makes SuperLink listen on the socket, and nowhere else."""
    run = uvicorn.run

    def run_on_socket(**settings: Any) -> None:  # noqa: ANN401 - uvicorn's own
        run(**{**settings, "uds": socket})

    vars(uvicorn)["run"] = run_on_socket


def _watch_superexec() -> None:
    start = SuperLinkLifespan._start_superexec_if_needed

    def start_and_watch(lifespan: SuperLinkLifespan) -> None:
        start(lifespan)
        if lifespan.superexec_process is not None:
            watch = threading.Thread(
                target=_end_with, args=[lifespan.superexec_process], daemon=True
            )
            watch.start()

    engine: Any = SuperLinkLifespan
    engine._start_superexec_if_needed = start_and_watch


def _end_with(superexec: subprocess.Popen[bytes]) -> None:
    superexec.wait()
    time.sleep(_GRACE_SECONDS)
    _logger.error("SuperExec has ended, so that no run can start")
    os._exit(SUPEREXEC_ENDED)


if __name__ == "__main__":
    main(sys.argv[1:])
