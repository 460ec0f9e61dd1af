"""Fills a cache in children of its own, one for each line on its input, to be killed.

It imports once and forks: a child is at work a millisecond after it was asked for.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch

from moma_core.data.batch import Batch
from moma_core.teacher.cache.cached_teacher import CachedTeacher
from tests.support.machine.killed import serve_children
from tests.support.site.teacher_caches import (
    KEY,
    ArithmeticTeacher,
    all_batches,
    open_cache,
)


def _slowly(progress: Path) -> Iterator[Batch]:
    """Yields every view, with a byte of progress and a pause after each batch."""
    with progress.open("wb", buffering=0) as file:
        for batch in all_batches():
            yield batch
            file.write(b".")
            time.sleep(0.001)


def _fill(folder: Path, key: bytes | None) -> None:
    with closing(open_cache(folder, key)) as cache:
        cached = CachedTeacher(cache, ArithmeticTeacher, lambda _: None)
        for _ in cached.answer_batches(_slowly(folder / "progress")):
            pass


def main() -> None:
    folder, key = Path(sys.argv[1]), KEY if sys.argv[2] == "sealed" else None
    torch.set_num_threads(1)
    serve_children(lambda: _fill(folder, key))


if __name__ == "__main__":
    main()
