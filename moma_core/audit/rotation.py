"""Another key for the log, and another log for the next entries."""

from sqlalchemy import Connection, update

from moma_core.audit import tables
from moma_core.audit.append import LogAppender
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.entry import (
    CloseEntry,
    KeyEntry,
    OpenEntry,
    PolicyEntry,
    signed_key,
    signed_policy,
)
from moma_core.audit.log import AuditLog
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import AuditError


def add_policy(
    appender: LogAppender, key: SigningKey, *, subject: str, change: str
) -> None:
    """Adds a change of what the teacher allows, signed with its key.

    Args:
        appender: The append under way.
        key: The teacher's signing key.
        subject: What changes, a short name.
        change: What it is from now on, printable ASCII of at most 4096 characters.
    """
    content = signed_policy(appender.head.origin, subject, change)
    signature = key.sign("policy", content).hex()
    appender.add(PolicyEntry(subject=subject, change=change, signature=signature))


def rotate_key(database: Connection, log: AuditLog, new: SigningKey) -> Checkpoint:
    """Introduces the key that signs the log from here on.

    Gateways that still have the old key append no more, and say so.

    Args:
        database: In a transaction in which nothing was done yet.
        log: The open log, with the old key.
        new: The new key.

    Raises:
        AuditError: There is no log, another key than `log`'s signs it, or the new key
            is the old one.
    """
    old, fingerprint = str(log.key.public), str(new.public)
    if old == fingerprint:
        raise AuditError(f"the log is signed by {old} already")
    appender = log.begin(database)
    content = signed_key(appender.head.origin, old, fingerprint)
    signature = log.key.sign("key", content).hex()
    appender.add(KeyEntry(key=fingerprint, signature=signature))
    return appender.finish(new)


def rotate_log(database: Connection, log: AuditLog) -> tuple[Checkpoint, Checkpoint]:
    """Closes the open log and opens the next, whose first entry holds its end.

    Args:
        database: In a transaction in which nothing was done yet.
        log: The open one.

    Returns:
        The last checkpoint of the old log and the first of the new.

    Raises:
        AuditError: There is no log, or another key signs it.
    """
    closing = log.begin(database, ends_log=True)
    name, _, number = closing.head.origin.rpartition("/")
    next_number = int(number) + 1
    origin = f"{name}/{next_number}"
    closing.add(CloseEntry(next_log=origin))
    last = closing.finish()
    closing.keep(last)
    database.execute(
        update(tables.head).values(
            number=next_number, origin=origin, size=0, peaks=b"", previous="", time_ms=0
        )
    )
    opening = log.begin(database)
    opening.add(OpenEntry(origin=origin, key=last.key, previous_log=last))
    return last, opening.finish()
