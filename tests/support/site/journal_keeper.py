"""Keeps and adds requests in a journal without end, in children that are killed."""

import sys
from contextlib import closing
from pathlib import Path

import numpy as np

from moma_client.cache.folder import RequestJournal
from tests.support.machine.killed import serve_children

KEPT = list(range(500))


def _work() -> None:
    path = Path(sys.argv[1])
    with closing(RequestJournal(path)) as journal:
        for number in range(10**9):
            journal.add(np.array(KEPT))
            journal.add(np.array([1000 + number]))
            path.with_name("progress").touch()
            journal.keep([np.array(KEPT)])


if __name__ == "__main__":
    serve_children(_work)
