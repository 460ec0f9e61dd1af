"""The two ends of the relay with the real teacher's server and the real client.

Teachers of one folder are replicas: they share ledger, keys and signed card.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moma_client.teacher.remote_teacher import RemoteTeacher
from moma_core.audit.ledger import Ledger
from moma_core.teacher.query import Pixels
from moma_server.teacher.settings import TeacherServerSettings
from tests.support.federation.pki import Pki
from tests.support.relay.world import linked_agent
from tests.support.site.remote_teacher import Site, batches
from tests.support.teacher.sealed import TEACHER
from tests.support.teacher.teacher_server import MeanColour, ledger_in, serving

_LOOK_SECONDS = 0.02


class HeldTeacher(MeanColour):
    """A model that keeps its batch for as long as the test says so.

    Args:
        folder: Of all replicas.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def predict(self, pixels: Pixels) -> Any:
        while (self._folder / "hold").exists():
            (self._folder / f"held.{os.getpid()}").touch()
            time.sleep(_LOOK_SECONDS)
        return super().predict(pixels)


def hold(folder: Path) -> None:
    """Keeps the models of a folder's replicas from answering."""
    (folder / "hold").touch()


def release(folder: Path) -> None:
    """Lets them answer."""
    (folder / "hold").unlink()


def holding(folder: Path) -> list[int]:
    """Returns the processes whose model was asked since `hold`."""
    return [int(path.suffix[1:]) for path in folder.glob("held.*")]


def write_database(folder: Path, url: str) -> None:
    """Has the replicas keep their books there; a file of SQLite unless it is said."""
    (folder / "books").mkdir()
    (folder / "books" / "database").write_text(url)


def ledger_of(folder: Path) -> Ledger:
    """Opens the ledger that the replicas share; the ledger is the caller's to close."""
    return ledger_in(folder / "books", TEACHER, {}, lambda: datetime.now(UTC))


@asynccontextmanager
async def linked_teacher(folder: Path, pki: Pki, relay: str) -> AsyncIterator[None]:
    """Runs a teacher's server that opens no port, linked to the relay."""
    own = folder / f"teacher-{os.getpid()}"
    own.mkdir()
    socket = own / "relayed.sock"
    settings = TeacherServerSettings(
        host=None, max_patches_per_request=16, relayed_socket=socket
    )
    credential, port = pki.issue("teacher", TEACHER), int(relay.rpartition(":")[2])
    async with (
        serving(folder / "books", pki, HeldTeacher(folder), settings=settings),
        linked_agent(own, credential, pki, port, socket, address=relay) as end,
    ):
        while not end.links:
            await asyncio.sleep(_LOOK_SECONDS)
        yield


def relayed_site(folder: Path, pki: Pki, port: int, host: str = "localhost") -> Site:
    """Returns a site that asks its teacher through the relay."""
    site = Site(folder / "site", pki, port, host=host)
    site.address = replace(site.address, is_relayed=True)
    return site


@contextmanager
def answered_site(
    folder: Path, pki: Pki, host: str, port: int
) -> Iterator[RemoteTeacher]:
    """Runs a client that was answered, and is still connected."""
    site = relayed_site(folder, pki, port, host)
    with site.teacher() as teacher:
        answered = [batch.step for batch, _ in teacher.answer_batches(batches([4] * 3))]
        assert answered == [0, 1, 2]
        yield teacher
