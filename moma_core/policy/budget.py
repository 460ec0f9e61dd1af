"""The budget ledger: what each site was granted, asked and was charged for, for ever.

The rules, in the order in which a reservation meets them:

1. A request id that was never seen is charged if the site's grant covers it.
2. The same id with the same bytes is a repetition: free, but only within a window of
   the first time and only so often, because it makes the model work again.
3. The same id with other bytes, too late or too often, is refused.
4. A charge is given back only when no work was done for it and nobody repeated it.

A process that dies between reservation and settlement leaves the charge standing: no
work is ever free, and the site loses nothing, since its repetition is.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Row,
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
from sqlalchemy.exc import IntegrityError

from moma_core.errors import BudgetSpentError, ReplayError
from moma_core.policy.database import open_database

REPETITION_WINDOW = timedelta(days=14)  # a run may lie still over a holiday
MOST_REPETITIONS = 8

_DIGEST_BYTES = 32

_tables = MetaData()
_accounts = Table(
    "budget_accounts",
    _tables,
    Column("site", String(63), primary_key=True),
    Column("charged_patches", BigInteger, nullable=False),
)
_charges = Table(
    "budget_charges",
    _tables,
    Column("site", ForeignKey(_accounts.c.site), primary_key=True),
    Column("request_id", LargeBinary(16), primary_key=True),
    Column("digest", LargeBinary(_DIGEST_BYTES), nullable=False),
    Column("patches", BigInteger, CheckConstraint("patches > 0"), nullable=False),
    Column("repeats", Integer, nullable=False, default=0),
    Column("reserved_at", Float, nullable=False),  # seconds since 1970, UTC
    Column("answered_at", Float),  # NULL while reserved
)


@dataclass(frozen=True, slots=True)
class Charge:
    """A reservation in one site's budget, to be settled or released once.

    Args:
        site: Who asked.
        request_id: Of the query.
        patches: What it costs.
        repetition: It was charged before; this time is free.
    """

    site: str
    request_id: bytes
    patches: int
    repetition: bool


class BudgetLedger:
    """Charges queries to lifetime budgets; safe between threads and processes.

    Args:
        url: SQLAlchemy's, for example `sqlite:////var/lib/moma/budget.db`.
        grants: Patches granted to a site over the life of the agreement.
        default_grant: For sites that `grants` does not name.
        clock: Gives the time, with a time zone.
        window: How long a repetition is free.
        most_repetitions: How often it is.
    """

    def __init__(
        self,
        url: str,
        *,
        grants: Mapping[str, int],
        default_grant: int,
        clock: Callable[[], datetime],
        window: timedelta = REPETITION_WINDOW,
        most_repetitions: int = MOST_REPETITIONS,
    ) -> None:
        if any(grant < 0 for grant in (default_grant, *grants.values())):
            raise ValueError("a grant is never negative")
        self._grants = dict(grants)
        self._default_grant = default_grant
        self._clock = clock
        self._window_seconds = window.total_seconds()
        self._most_repetitions = most_repetitions
        self._engine = open_database(url)
        self._open_accounts: set[str] = set()
        _tables.create_all(self._engine)

    def reserve(
        self, site: str, request_id: bytes, *, digest: bytes, patches: int
    ) -> Charge:
        """Charges a query before its work begins, in one transaction.

        Args:
            site: As its certificate names it.
            request_id: 16 bytes, the site's own.
            digest: SHA-256 of what was asked.
            patches: What it costs, >= 1.

        Raises:
            BudgetSpentError: The site's grant does not cover it.
            ReplayError: The id was used with other bytes, or its window for free
                repetition is over.
        """
        if patches < 1 or len(digest) != _DIGEST_BYTES:
            raise ValueError(f"no charge: {patches} patches, digest of {len(digest)}")
        self._open_account(site)
        now = self._clock().timestamp()
        with self._engine.begin() as database:
            charged = _charged_and_locked(database, site)
            earlier = database.execute(
                select(_charges).where(_is_charge(site, request_id))
            ).one_or_none()
            if earlier is not None:
                return self._repeat(database, earlier, digest, now)
            self._check_grant(site, charged, patches)
            database.execute(_add_to_account(site, patches))
            database.execute(
                insert(_charges).values(
                    site=site,
                    request_id=request_id,
                    digest=digest,
                    patches=patches,
                    reserved_at=now,
                )
            )
        return Charge(site, request_id, patches, repetition=False)

    def settle(self, charge: Charge) -> None:
        """Closes a charge for which the model has worked."""
        with self._engine.begin() as database:
            _charged_and_locked(database, charge.site)
            database.execute(
                update(_charges)
                .where(_is_charge(charge.site, charge.request_id))
                .where(_charges.c.answered_at.is_(None))
                .values(answered_at=self._clock().timestamp())
            )

    def release(self, charge: Charge) -> bool:
        """Takes a charge back for which no work was done.

        Returns:
            Whether patches were given back: never for a repetition, which cost
            nothing, nor for a charge that was repeated meanwhile.
        """
        is_charge = _is_charge(charge.site, charge.request_id)
        with self._engine.begin() as database:
            _charged_and_locked(database, charge.site)
            if charge.repetition:
                database.execute(
                    update(_charges)
                    .where(is_charge, _charges.c.repeats > 0)
                    .values(repeats=_charges.c.repeats - 1)
                )
                return False
            untouched = and_(
                is_charge, _charges.c.repeats == 0, _charges.c.answered_at.is_(None)
            )
            if database.execute(delete(_charges).where(untouched)).rowcount == 0:
                return False
            database.execute(_add_to_account(charge.site, -charge.patches))
        return True

    def charged(self, site: str) -> int:
        """Returns the patches charged to a site so far, reservations included."""
        with self._engine.begin() as database:
            return database.scalar(_account(site)) or 0

    def granted(self, site: str) -> int:
        """Returns the patches granted to a site over the life of the agreement."""
        return self._grants.get(site, self._default_grant)

    def sites(self) -> tuple[str, ...]:
        """Returns every site that has a grant of its own or ever asked, sorted."""
        with self._engine.begin() as database:
            asked = database.scalars(select(_accounts.c.site)).all()
        return tuple(sorted({*asked, *self._grants}))

    def close(self) -> None:
        """Closes the database."""
        self._engine.dispose()

    def _open_account(self, site: str) -> None:
        if site in self._open_accounts:
            return
        with suppress(IntegrityError), self._engine.begin() as database:  # it has one
            database.execute(insert(_accounts).values(site=site, charged_patches=0))
        self._open_accounts.add(site)

    def _check_grant(self, site: str, charged: int, patches: int) -> None:
        granted = self.granted(site)
        if charged + patches > granted:
            left = max(0, granted - charged)
            raise BudgetSpentError(
                f"the budget is spent: the request takes {patches} patches, "
                f"{left} of {granted} are left"
            )

    def _repeat(
        self, database: Connection, earlier: Row[Any], digest: bytes, now: float
    ) -> Charge:
        if earlier.digest != digest:
            raise ReplayError("the request id was used before with other bytes")
        if now - earlier.reserved_at > self._window_seconds:
            raise ReplayError("the request is too old to be repeated")
        if earlier.repeats >= self._most_repetitions:
            raise ReplayError(f"the request was repeated {earlier.repeats} times")
        database.execute(
            update(_charges)
            .where(_is_charge(earlier.site, earlier.request_id))
            .values(repeats=earlier.repeats + 1)
        )
        return Charge(
            earlier.site, earlier.request_id, earlier.patches, repetition=True
        )


def _account(site: str) -> Select[int]:
    return select(_accounts.c.charged_patches).where(_accounts.c.site == site)


def _charged_and_locked(database: Connection, site: str) -> int:
    """Returns a site's charged patches; nobody else changes its rows meanwhile."""
    return database.scalars(_account(site).with_for_update()).one()


def _add_to_account(site: str, patches: int) -> Update:
    charged = _accounts.c.charged_patches
    return (
        update(_accounts)
        .where(_accounts.c.site == site)
        .values(charged_patches=charged + patches)
    )


def _is_charge(site: str, request_id: bytes) -> ColumnElement[bool]:
    return and_(_charges.c.site == site, _charges.c.request_id == request_id)
