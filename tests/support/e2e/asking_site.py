"""A site that asks and asks, in children of its own: one for each line on its input.

It is the client's way to its teacher without a student: as many queries a second as the
teacher answers. It imports once and forks, so that a child that replaces a killed one
asks a moment later. How far it is lies in `Usage`, as in a run's checkpoint.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from moma_client.config.site import SiteConfig
from moma_client.teacher.connect import open_teacher
from moma_client.teacher.retry import RetryLimits
from moma_core.data.batch import Batch
from moma_core.data.patch import NO_LABEL
from moma_core.errors import MomaError
from moma_core.runtime.files import write_private

MOST_PATCHES = 3
ENDED = "ended"
"""The file that says how a site ended: empty where all was answered."""

_KEPT_EVERY = 16  # queries
_PATIENT = RetryLimits(
    failures=1000, first_pause_seconds=0.1, longest_pause_seconds=0.5
)


class Usage(NamedTuple):
    """How far a site is.

    Args:
        run: Which run it is; another one repeats nothing of those before it.
        step: The next query.
        end: After the last one.
    """

    run: int
    step: int
    end: int

    @classmethod
    def read(cls, folder: Path) -> "Usage":
        return cls(*json.loads((folder / "standing.json").read_bytes()))

    def write(self, folder: Path) -> None:
        write_private(folder / "standing.json", json.dumps(self).encode())


def queries(begin: int, end: int, side: int) -> Iterator[Batch]:
    """Yields queries of one to three patches; the same for the same step."""
    for step in range(begin, end):
        size = 1 + step % MOST_PATCHES
        chance = torch.Generator().manual_seed(step)
        shape = (size, 3, side, side)
        views = torch.randint(256, shape, dtype=torch.uint8, generator=chance)
        rows = torch.arange(size) + MOST_PATCHES * step
        labels = torch.full((size,), NO_LABEL)
        yield Batch(views, views, labels, step, rows, torch.zeros_like(rows))


def _asked(config: SiteConfig, folder: Path) -> str:
    """Asks to the end; returns what went wrong."""
    try:
        _ask(config, folder)
    except MomaError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _ask(config: SiteConfig, folder: Path) -> None:
    run, step, end = Usage.read(folder)
    key = f"run {run} of {config.site}".encode()
    with open_teacher(config, retries=_PATIENT, request_key=key) as teacher:
        side = teacher.describe().input_size_px
        for batch, _ in teacher.answer_batches(queries(step, end, side)):
            done = batch.step + 1
            if done % _KEPT_EVERY == 0 or done == end:
                Usage(run, done, end).write(folder)


def main() -> None:
    torch.set_num_threads(1)
    config, folder = SiteConfig.from_yaml(Path(sys.argv[1])), Path(sys.argv[2])
    _say(0)  # ready
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            (folder / ENDED).write_text(_asked(config, folder))
            os._exit(0)
        _say(child)
        _say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
