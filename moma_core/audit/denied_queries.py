"""Rejected queries in the log: the first of a minute one by one, the rest as one.

A site that is rejected over and over would make the log grow without end. So of one
site and reason a minute has so many entries, and what goes beyond is counted beside the
log, in the same transaction, until an entry that carries the number is due. None is
lost in between: a crash leaves the number where the next append finds it.

A query that has an entry gets none for a rejection: whoever carries a request can send
it again, and would fill the log in its site's name.
"""

from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, insert, select, update

from moma_core.audit.append import LogAppender
from moma_core.audit.entry import NOTHING, QueryEntry
from moma_core.audit.tables import denials

MOST_ENTRIES = 10
"""Of one site and reason in a minute; one more carries the number of the rest."""

_MINUTE_SECONDS = 60


def add_rejected_query(log: LogAppender, entry: QueryEntry, digest: bytes) -> bool:
    """Adds a rejected query's entry, or counts it for one that is to come.

    Args:
        log: The append under way.
        entry: Of one rejected query.
        digest: SHA-256 of the request.

    Returns:
        Whether the log has it, or will; not where it has the query already.
    """
    if log.has_query(entry.site, bytes.fromhex(entry.request)):
        return False
    row = log.database.execute(select(denials).where(_is_of(entry))).one_or_none()
    minute = log.time_ms // (_MINUTE_SECONDS * 1000)
    if row is None or (row.minute, row.teacher) != (minute, entry.teacher):
        if row is not None:
            _write_out(log, row)
        _begin(log, entry, minute)
    elif row.entries >= MOST_ENTRIES:
        _hold(log, entry)
        return True
    else:
        more = denials.c.entries + 1
        log.database.execute(update(denials).where(_is_of(entry)).values(entries=more))
    log.add_query(entry, digest)
    return True


def add_held(log: LogAppender, *, all_minutes: bool) -> None:
    """Adds the entries of what was only counted so far.

    Args:
        log: The append under way.
        all_minutes: Also those of the present minute, before a stop.
    """
    held = denials.c.held > 0
    if not all_minutes:
        held &= denials.c.minute < log.time_ms // (_MINUTE_SECONDS * 1000)
    for row in log.database.execute(select(denials).where(held)).all():
        _write_out(log, row)


def _is_of(entry: QueryEntry) -> ColumnElement[bool]:
    return and_(denials.c.site == entry.site, denials.c.reason == entry.reason)


def _begin(log: LogAppender, entry: QueryEntry, minute: int) -> None:
    log.database.execute(delete(denials).where(_is_of(entry)))
    log.database.execute(
        insert(denials).values(
            site=entry.site,
            reason=entry.reason,
            teacher=entry.teacher,
            minute=minute,
            entries=1,
            held=0,
            held_patches=0,
        )
    )


def _hold(log: LogAppender, entry: QueryEntry) -> None:
    log.database.execute(
        update(denials)
        .where(_is_of(entry))
        .values(
            held=denials.c.held + 1,
            held_patches=denials.c.held_patches + entry.patches,
        )
    )


def _write_out(log: LogAppender, row: Row[Any]) -> None:
    if row.held == 0:
        return
    entry = QueryEntry(
        site=row.site,
        teacher=row.teacher,
        request="",
        patches=row.held_patches,
        charged=0,
        outputs="",
        outcome="denied",
        reason=row.reason,
        queries=row.held,
    )
    log.database.execute(
        update(denials).where(_is_of(entry)).values(held=0, held_patches=0)
    )
    log.add_query(entry, NOTHING)
