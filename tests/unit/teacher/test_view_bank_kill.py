"""A bank whose writers are killed, and whose file is damaged, again and again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from moma_core.teacher.bank_header import PAGE_BYTES
from tests.view_banks import KEY, all_batches, assert_all_true, assert_true, open_bank

PROJECT = Path(__file__).resolve().parents[3]
KILLS = 60


class Writers:
    """Starts writers, one after another."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, *, kill_after_seconds: float | None) -> int:
        """Returns a writer's exit status; negative: the signal that ended it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_after_seconds is not None:
            time.sleep(kill_after_seconds)
            with suppress(ProcessLookupError):  # it is done
                os.kill(child, signal.SIGKILL)
        return int(self._process.stdout.readline())


@contextmanager
def writers(folder: Path, kind: str) -> Iterator[Writers]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.teacher.bank_writer", str(folder), kind],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Writers(process)
        assert process.stdin
        process.stdin.close()


def _damage(path: Path, chance: random.Random) -> None:
    """Flips bytes, cuts the file, or leaves it; now and then in its header."""
    size = path.stat().st_size
    if chance.random() < 0.3:
        with path.open("r+b") as file:
            for _ in range(chance.randint(1, 3)):
                in_header = chance.random() < 0.1
                file.seek(chance.randrange(PAGE_BYTES if in_header else size))
                file.write(chance.randbytes(1))
    if chance.random() < 0.15:
        os.truncate(path, chance.randint(size // 2, size))


def _assert_what_is_there_is_true(folder: Path, key: bytes | None) -> None:
    with closing(open_bank(folder, key)) as bank:
        for batch in all_batches():
            found = bank.read(batch)
            if not len(found.missing):
                assert_true(batch, found.answer)


@pytest.mark.parametrize("kind", ["plain", "sealed"])
def test_a_bank_survives_kills_at_any_moment_and_damage_at_any_byte(
    tmp_path: Path, kind: str
) -> None:
    key, chance = KEY if kind == "sealed" else None, random.Random(kind)  # noqa: S311
    torn, whole = tmp_path / "torn", tmp_path / "whole"
    for folder in (torn, whole):
        folder.mkdir()
    killed = 0

    with writers(torn, kind) as torn_writers:
        while killed < KILLS:
            delay = chance.uniform(0, 0.02)
            killed += torn_writers.run(kill_after_seconds=delay) == -signal.SIGKILL
            for path in torn.glob("*.bank"):
                _damage(path, chance)
            _assert_what_is_there_is_true(torn, key)
        assert torn_writers.run(kill_after_seconds=None) == 0
    with writers(whole, kind) as whole_writers:
        assert whole_writers.run(kill_after_seconds=None) == 0

    with closing(open_bank(torn, key)) as bank:
        assert_all_true(bank)
        path = bank.path
    if key is None:
        assert path.read_bytes() == (whole / path.name).read_bytes()
