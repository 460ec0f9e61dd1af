"""A site whose queries cost it nothing, since they are refused, slows no other."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moma_core.teacher.pixel_encoding import PixelEncoding
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb
from tests.support.federation.pki import Pki
from tests.support.machine.waiting import WAIT_SECONDS, until
from tests.support.teacher.teacher_server import (
    SIDE_PX,
    MeanColour,
    ask,
    request,
    serving,
)

_STREAMS = 4
_QUERIES = 4  # of each stream, as many as are read at once


class SlowPictures:
    """Stands before the reading of pictures, and counts what is read at once.

    Args:
        read: What reads them.
    """

    def __init__(self, read: Any) -> None:
        self._read, self._lock = read, threading.Lock()
        self.running = self.most = 0
        self.free = threading.Event()

    def __call__(self, *pictures: Any) -> Any:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.free.wait(WAIT_SECONDS)
        with self._lock:
            self.running -= 1
        return self._read(*pictures)


def pictures() -> pb.EmbedRequest:
    """Returns a query whose one patch is a picture."""
    asked = request()
    pixels = np.frombuffer(asked.pixels, np.uint8).reshape(1, SIDE_PX, SIDE_PX, 3)
    asked.pictures.extend(PixelEncoding("png").pictures(pixels))
    asked.pixels, asked.format = b"", pb.PIXEL_FORMAT_PNG
    return asked


def test_pictures_of_a_site_without_a_budget_are_read_one_query_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowPictures(convert.read_pictures)
    monkeypatch.setattr(convert, "read_pictures", slow)
    pki = Pki()

    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, MeanColour(), grants={"site-b": 0}) as served,
            served.stub(pki.site("site-a")) as honest,
            served.stub(pki.site("site-b")) as hostile,
        ):
            flood = [
                asyncio.create_task(
                    ask(hostile, *(pictures() for _ in range(_QUERIES)))
                )
                for _ in range(_STREAMS)
            ]
            await until(lambda: slow.running)

            responses = await ask(honest, request())
            at_once = slow.most
            slow.free.set()
            await asyncio.gather(*flood, return_exceptions=True)
            await until(lambda: served.denied("budget", site="site-b") >= _STREAMS)

            assert len(responses) == 1
            assert at_once == slow.most == 1

    asyncio.run(scenario())
