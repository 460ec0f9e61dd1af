"""The log as a file that anybody can check: one line an entry, as it was hashed.

A file holds the logs of one operator, the oldest first, each as a line that names it,
its entries, and the checkpoints that were kept on the way and at its end. The lines of
entries are the leaves themselves, so that nothing stands between the file and the tree.
Salts are not in it: they are the log's and the sites' alone.
"""

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, select

from moma_core.audit import tables
from moma_core.audit.checkpoint import Checkpoint
from moma_core.errors import AuditError
from moma_core.runtime.canonical_json import canonical_json
from moma_core.runtime.files import replacing

FORMAT = "moma-audit-log/1"

_ROWS = 1000  # at a time, so that memory does not grow with the log


def export_log(database: Connection, path: Path) -> Checkpoint:
    """Writes all logs of a database; a crash leaves the old file or none.

    Args:
        database: In a transaction; what is appended after it began is not written.
        path: The file.

    Returns:
        The checkpoint with which the file ends.

    Raises:
        AuditError: There is no log.
        DiskError: The disk does not take the file.
    """
    lines, end = export_lines(database)
    with replacing(path, "the log") as file:
        for line in lines:
            file.write(line + b"\n")
    return end


def export_lines(database: Connection) -> tuple[Iterator[bytes], Checkpoint]:
    """Returns the lines of an export, read as they are taken, and its end.

    Raises:
        AuditError: There is no log.
    """
    head = tables.read_head(database)
    if head is None or head.checkpoint is None:
        raise AuditError("the database holds no log")
    return _lines(database, head.number, head.checkpoint), head.checkpoint


def _lines(database: Connection, last: int, newest: Checkpoint) -> Iterator[bytes]:
    name = newest.origin.rpartition("/")[0]
    for number in range(1, last + 1):
        yield canonical_json({"format": FORMAT, "origin": f"{name}/{number}"})
        kept = _kept(database, number)
        if number == last:
            kept[newest.size] = newest
        yield from _entries(database, number, kept)


def _kept(database: Connection, number: int) -> dict[int, Checkpoint]:
    rows = database.execute(
        select(tables.checkpoints).where(tables.checkpoints.c.number == number)
    )
    return {row.size: Checkpoint.parse(row.checkpoint) for row in rows}


def _entries(
    database: Connection, number: int, kept: dict[int, Checkpoint]
) -> Iterator[bytes]:
    place, size = 0, max(kept, default=0)
    while place < size:
        rows = database.execute(
            select(tables.leaves.c.place, tables.leaves.c.leaf)
            .where(
                tables.leaves.c.number == number,
                tables.leaves.c.place >= place,
                tables.leaves.c.place < min(size, place + _ROWS),
            )
            .order_by(tables.leaves.c.place)
        ).all()
        for row in rows:
            yield row.leaf
            if row.place + 1 in kept:
                yield canonical_json({"checkpoint": kept[row.place + 1].model_dump()})
        place += _ROWS
