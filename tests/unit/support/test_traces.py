"""The search that says what a coordinator does not hold finds what a process holds."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.support.machine.traces import Traces, answer_traces, patch_traces

_KEEP = """
import sys, time
kept = sys.stdin.buffer.read()
print("ready", flush=True)
time.sleep(600)
"""


def pieces() -> list[tuple[str, bytes]]:
    random = np.random.default_rng(0)
    patches = random.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    embeddings = random.normal(size=(2, 64)).astype(np.float32)
    logits = random.normal(size=(2, 4)).astype(np.float32)
    return [
        *patch_traces(patches, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        *answer_traces(embeddings, logits),
    ]


@contextmanager
def keeping(content: bytes) -> Iterator[int]:
    """Runs a process that has the bytes in its memory, and yields its number."""
    process = subprocess.Popen(
        [sys.executable, "-c", _KEEP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(content)
        process.stdin.close()
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("shift", range(4))
def test_every_form_is_found_in_the_memory_of_a_process(shift: int) -> None:
    named = pieces()
    planted = bytes(shift) + b"".join(piece + bytes(64) for _, piece in named)
    sought = Traces(named)

    with keeping(planted) as pid:
        assert sought.in_memory(pid) == sought.kinds
    with keeping(bytes(len(planted))) as pid:
        assert sought.in_memory(pid) == set()


def test_every_form_is_found_in_a_file_and_a_piece_that_was_cut_is_not(
    tmp_path: Path,
) -> None:
    named = pieces()
    for number, (_, piece) in enumerate(named):
        (tmp_path / str(number)).write_bytes(b"x" * number + piece)

    sought = Traces(named)

    assert sought.in_files(tmp_path) == sought.kinds
    for _, piece in named:
        assert sought.within(piece[:-1] + bytes([piece[-1] ^ 1])) == set()
