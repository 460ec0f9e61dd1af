"""What a site has used so far of what a teacher's policy bounds.

Rate, unique patches and coverage, in the database of the budget: gateways that share it
enforce one bound together. Every function here works inside the caller's transaction,
in which the site's account is locked.

A patch is remembered by a mark, a keyed digest of its pixels: whoever reads the
database cannot look up in it whether a picture at hand was queried.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Float,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    select,
    update,
)

from moma_core.errors import PatchLimitError, PolicyError, TeacherBusyError
from moma_core.policy.token_bucket import refilled, seconds_until
from moma_core.runtime.database import insert_if_new, insert_new

MARK_BYTES = 16
_MOST_AHEAD_SECONDS = 300.0

usage_tables = MetaData()
_usages = Table(
    "policy_standings",
    usage_tables,
    Column("site", String(63), primary_key=True),
    Column("unique_patches", BigInteger, nullable=False, default=0),
    Column("tokens", Float, nullable=False),  # patches that may be queried at once
    Column("refilled_at", Float, nullable=False),  # seconds since 1970, UTC
    Column("touched", LargeBinary, nullable=False, default=b""),  # see coverage.pack
)
_marks = Table(
    "policy_marks",
    usage_tables,
    Column("site", String(63), primary_key=True),
    Column("mark", LargeBinary(MARK_BYTES), primary_key=True),
)
_keys = Table(
    "policy_mark_keys",
    usage_tables,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("key", LargeBinary(32), nullable=False),
)

_changes = Table(
    "policy_notes",
    usage_tables,
    Column("subject", String(63), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
)


@dataclass(frozen=True, slots=True)
class PatchRate:
    """How fast a site may query.

    Args:
        per_minute: Patches, > 0.
        burst: Patches at once after a rest; a larger request never passes.
    """

    per_minute: float
    burst: int

    def __post_init__(self) -> None:
        if self.per_minute <= 0 or self.burst < 1:
            raise ValueError(f"a rate and its burst must be positive, got {self}")


def take_tokens(
    database: Connection, site: str, patches: int, rate: PatchRate, now: float
) -> None:
    """Takes the tokens for patches that a site queries now.

    Args:
        database: In a transaction that holds the site's account.
        site: The site that queries.
        patches: How many, >= 1.
        rate: What the policy allows.
        now: Seconds since 1970, UTC.

    Raises:
        PolicyError: They are more than the burst: no waiting would help.
        TeacherBusyError: It queries too fast; says when to retry.
    """
    if patches > rate.burst:
        raise PolicyError(
            f"{patches} patches at once are more than the policy's {rate.burst}"
        )
    _open(database, site, rate.burst, now)
    tokens, since = database.execute(
        select(_usages.c.tokens, _usages.c.refilled_at).where(_is(site))
    ).one()
    if since > now + _MOST_AHEAD_SECONDS:  # by a clock that was wrong then
        tokens, since = rate.burst, now
    tokens = refilled(tokens, now - since, rate.per_minute, rate.burst)
    wait = seconds_until(patches, tokens, rate.per_minute)
    if wait:
        raise TeacherBusyError(
            f"more than {rate.per_minute:g} patches a minute were queried", wait
        )
    database.execute(
        update(_usages)
        .where(_is(site))
        .values(tokens=tokens - patches, refilled_at=max(now, since))
    )


def add_unique(
    database: Connection,
    site: str,
    patch_digests: Sequence[bytes],
    *,
    limit: int | None,
    now: float,
) -> int:
    """Counts the patches that a site never queried before.

    Args:
        database: In a transaction that holds the site's account.
        site: The site that queries.
        patch_digests: SHA-256 of each patch's pixels.
        limit: What the policy allows over the life of the agreement; None: no limit.
        now: Seconds since 1970, UTC.

    Returns:
        How many unique patches the site has queried with these.

    Raises:
        PatchLimitError: They would be more than the limit; roll back.
    """
    _open(database, site, 0, now)
    key = _mark_key(database)
    marks = {
        hashlib.sha256(key + digest).digest()[:MARK_BYTES] for digest in patch_digests
    }
    before = unique_patches(database, site)
    after = before + _inserted(database, site, marks)
    if limit is not None and after > limit:
        raise PatchLimitError(
            f"the request takes {after - before} patches that were never queried, "
            f"{max(0, limit - before)} of {limit} are left"
        )
    database.execute(update(_usages).where(_is(site)).values(unique_patches=after))
    return after


def unique_patches(database: Connection, site: str) -> int:
    """Returns how many different patches a site has queried."""
    found = select(_usages.c.unique_patches).where(_is(site))
    return database.scalar(found) or 0


def touched_buckets(database: Connection, site: str) -> bytes:
    """Returns the buckets that a site's outputs have touched, see `coverage.pack`."""
    return database.scalar(select(_usages.c.touched).where(_is(site))) or b""


def keep_touched(database: Connection, site: str, touched: bytes, now: float) -> None:
    """Keeps the buckets that a site's outputs have touched."""
    _open(database, site, 0, now)
    database.execute(update(_usages).where(_is(site)).values(touched=touched))


def record_if_changed(database: Connection, subject: str, digest: bytes) -> bool:
    """Keeps what a subject of the policy says now, and returns whether that is new.

    Args:
        database: In a transaction.
        subject: For example `policy`.
        digest: SHA-256 of what it says.
    """
    known = database.scalar(
        select(_changes.c.digest).where(_changes.c.subject == subject)
    )
    if known == digest:
        return False
    row = {"subject": subject, "digest": digest}
    if known is None:
        database.execute(insert(_changes).values(**row))
    else:
        of_subject = _changes.c.subject == subject
        database.execute(update(_changes).where(of_subject).values(digest=digest))
    return True


def _mark_key(database: Connection) -> bytes:
    """Returns the key of this database's marks; made with the first one."""
    found = select(_keys.c.key)
    known: bytes | None = database.scalar(found)
    if known is not None:
        return known
    insert_if_new(database, _keys, id=1, key=secrets.token_bytes(32))
    made: bytes = database.scalars(found).one()
    return made


def _inserted(database: Connection, site: str, marks: set[bytes]) -> int:
    """Adds marks, and returns how many of them were new.

    The rows are parameters, not part of the statement: one that holds them is compiled
    anew for each request, which took longer than all else that is written.
    """
    rows = [{"site": site, "mark": mark} for mark in marks]
    new = insert_new(database, _marks)
    # what was inserted: not every driver counts the rows of a statement like this one
    return len(database.execute(new.returning(_marks.c.mark), rows).all())


def _open(database: Connection, site: str, tokens: float, now: float) -> None:
    insert_if_new(database, _usages, site=site, tokens=tokens, refilled_at=now)


def _is(site: str) -> ColumnElement[bool]:
    return _usages.c.site == site
