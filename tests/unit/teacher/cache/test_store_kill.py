"""A cache whose writers are killed, and whose file is damaged, again and again."""

import os
import random
import signal
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from moma_core.teacher.cache.header import PAGE_BYTES
from tests.support.machine.killed import forking
from tests.support.site.teacher_caches import (
    KEY,
    all_batches,
    assert_all_true,
    assert_true,
    open_cache,
)

WRITER = "tests.support.site.cache_writer"
KILLS = 8  # of each kind


def _wait(progress: Path, batches: int, chance: random.Random) -> None:
    """Waits until so many batches are done, and a moment more."""
    deadline = time.monotonic() + 120
    while progress.stat().st_size < batches and time.monotonic() < deadline:
        time.sleep(0.0002)
    time.sleep(chance.uniform(0, 0.001))


def _damage(path: Path, chance: random.Random) -> None:
    """Flips bytes, cuts the file, or leaves it; now and then in its header."""
    size = path.stat().st_size
    if chance.random() < 0.3:
        with path.open("r+b") as file:
            for _ in range(chance.randint(1, 3)):
                in_header = chance.random() < 0.1
                file.seek(chance.randrange(PAGE_BYTES if in_header else size))
                file.write(chance.randbytes(1))
    if chance.random() < 0.4:
        os.truncate(path, chance.randint(0, size))


def _assert_what_is_there_is_true(folder: Path, key: bytes | None) -> None:
    with closing(open_cache(folder, key)) as cache:
        for batch in all_batches():
            found = cache.read(batch)
            if not len(found.missing):
                assert_true(batch, found.output)


@pytest.mark.parametrize("kind", ["plain", "sealed"])
def test_a_cache_survives_kills_at_any_moment_and_damage_at_any_byte(
    tmp_path: Path, kind: str
) -> None:
    key, chance = KEY if kind == "sealed" else None, random.Random(kind)
    torn, whole = tmp_path / "torn", tmp_path / "whole"
    for folder in (torn, whole):
        folder.mkdir()
    killed = 0

    with forking(WRITER, whole, kind) as children:
        assert children.run() == 0
    with forking(WRITER, torn, kind) as children:
        for _ in range(KILLS):
            progress = torn / "progress"
            progress.write_bytes(b"")
            batches = chance.randint(0, len(list(all_batches())) - 1)
            status = children.run(until=partial(_wait, progress, batches, chance))
            killed += status == -signal.SIGKILL
            for path in torn.glob("*.cache"):
                _damage(path, chance)
            _assert_what_is_there_is_true(torn, key)
        assert children.run() == 0

    assert killed >= KILLS // 2
    with closing(open_cache(torn, key)) as cache:
        assert_all_true(cache)
        path = cache.path
    if key is None:
        assert path.read_bytes() == (whole / path.name).read_bytes()
