"""The tables of the budget, and the statements on them."""

from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Update,
    and_,
    delete,
    insert,
    select,
    update,
)

from moma_core.errors import ReplayError
from moma_core.runtime.database import insert_if_new

MOST_OF_A_SEALING = 8
"""Repetitions of the same sealed bytes: whoever carries them can send them again, and
has to leave some for a site that starts anew."""

_DIGEST_BYTES = 32

tables = MetaData()
accounts = Table(
    "budget_accounts",
    tables,
    Column("site", String(63), primary_key=True),
    Column("charged_patches", BigInteger, nullable=False),
)
charges = Table(
    "budget_charges",
    tables,
    Column("site", ForeignKey(accounts.c.site), primary_key=True),
    Column("request_id", LargeBinary(16), primary_key=True),
    Column("digest", LargeBinary(_DIGEST_BYTES), nullable=False),
    Column("patches", BigInteger, CheckConstraint("patches > 0"), nullable=False),
    Column("repeats", Integer, nullable=False, default=0),
    Column("reserved_at", Float, nullable=False),  # seconds since 1970, UTC
    Column("answered_at", Float),  # NULL while reserved
)
sealings = Table(
    "budget_sealings",
    tables,
    Column("site", String(63), primary_key=True),
    Column("request_id", LargeBinary(16), primary_key=True),
    Column("sealed_digest", LargeBinary(_DIGEST_BYTES), primary_key=True),
    Column("asked", Integer, nullable=False),  # so often, the first time included
    ForeignKeyConstraint(
        ("site", "request_id"), (charges.c.site, charges.c.request_id)
    ),
)


@dataclass(frozen=True, slots=True)
class ReservationRequest:
    """What a reservation is for.

    Args:
        site: The site that queries.
        request_id: 16 bytes, the site's own.
        digest: SHA-256 of the query's content.
        sealed_digest: SHA-256 of the bytes in which it came.
        patches: What it costs, >= 1.
    """

    site: str
    request_id: bytes
    digest: bytes
    sealed_digest: bytes
    patches: int

    def __post_init__(self) -> None:
        digests = (self.digest, self.sealed_digest)
        if self.patches < 1 or any(len(part) != _DIGEST_BYTES for part in digests):
            lengths = " and ".join(str(len(part)) for part in digests)
            raise ValueError(f"no charge: {self.patches} patches, digests of {lengths}")


def open_sealing(database: Connection, request: ReservationRequest) -> None:
    """Remembers sealed bytes that were not seen before."""
    database.execute(
        insert(sealings).values(
            site=request.site,
            request_id=request.request_id,
            sealed_digest=request.sealed_digest,
            asked=1,
        )
    )


def count_sealing(database: Connection, request: ReservationRequest) -> None:
    """Counts a repetition with the bytes in which it came.

    Raises:
        ReplayError: These bytes came too often.
    """
    times = database.scalar(select(sealings.c.asked).where(_is_this_sealing(request)))
    if times is None:
        open_sealing(database, request)
    elif times > MOST_OF_A_SEALING:
        raise ReplayError(f"the same bytes were repeated {times - 1} times")
    else:
        _add_to_sealing(database, request, 1)


def forget_repetition(database: Connection, request: ReservationRequest) -> None:
    """Takes a repetition back for which no work was done."""
    database.execute(
        update(charges)
        .where(is_charge(request), charges.c.repeats > 0)
        .values(repeats=charges.c.repeats - 1)
    )
    _add_to_sealing(database, request, -1)
    unused = and_(_is_this_sealing(request), sealings.c.asked < 1)
    database.execute(delete(sealings).where(unused))


def account(site: str) -> Select[int]:
    """Selects a site's charged patches."""
    return select(accounts.c.charged_patches).where(accounts.c.site == site)


def charged_and_locked(database: Connection, site: str) -> int:
    """Returns a site's charged patches; nobody else changes its rows meanwhile."""
    locked = account(site).with_for_update()
    charged = database.scalar(locked)
    if charged is None:
        insert_if_new(database, accounts, site=site, charged_patches=0)
        charged = database.scalars(locked).one()
    return charged


def add_to_account(site: str, patches: int) -> Update:
    """Charges patches, or with a minus gives them back."""
    charged = accounts.c.charged_patches
    return (
        update(accounts)
        .where(accounts.c.site == site)
        .values(charged_patches=charged + patches)
    )


def is_charge(request: ReservationRequest) -> ColumnElement[bool]:
    """Finds the charge of a request."""
    return and_(
        charges.c.site == request.site, charges.c.request_id == request.request_id
    )


def is_open() -> ColumnElement[bool]:
    """Finds all charges that are not settled."""
    return charges.c.answered_at.is_(None)


def is_sealed(request: ReservationRequest) -> ColumnElement[bool]:
    """Finds all sealings of a request."""
    return and_(
        sealings.c.site == request.site, sealings.c.request_id == request.request_id
    )


def _is_this_sealing(request: ReservationRequest) -> ColumnElement[bool]:
    return and_(is_sealed(request), sealings.c.sealed_digest == request.sealed_digest)


def _add_to_sealing(
    database: Connection, request: ReservationRequest, times: int
) -> None:
    more = sealings.c.asked + times
    database.execute(
        update(sealings).where(_is_this_sealing(request)).values(asked=more)
    )
