"""The patches that each site may query over an agreement's life, and has so far.

`Budget` has the rules, within a transaction of the caller; `BudgetStore` opens the
database in which they are kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from moma_core.errors import BudgetSpentError, ReplayError
from moma_core.policy import budget_tables
from moma_core.policy.budget_tables import (
    ReservationRequest,
    account,
    accounts,
    add_to_account,
    charged_and_locked,
    charges,
    count_sealing,
    forget_repetition,
    is_charge,
    is_open,
    is_sealed,
    open_sealing,
    sealings,
)
from moma_core.policy.usage import usage_tables
from moma_core.runtime.database import create_tables, open_database

REPETITION_WINDOW = timedelta(days=14)  # a run may lie still over a holiday

MOST_REPETITIONS = 16  # of one request, sealed anew or not


@dataclass(frozen=True, slots=True)
class Charge:
    """A reservation in one site's budget, to be settled or released once.

    Args:
        request: What it is for.
        repetition: It was charged before; this time is free.
    """

    request: ReservationRequest
    repetition: bool

    @property
    def site(self) -> str:
        """The site that queries."""
        return self.request.site

    @property
    def patches(self) -> int:
        """What it costs."""
        return self.request.patches


class Reserved(NamedTuple):
    """Queries that are charged and not settled: somebody works, or died over them."""

    queries: int
    patches: int


class Budget:
    """Charges queries to lifetime budgets.

    Every operation takes the connection whose transaction it belongs to, and leaves
    it to the caller to commit. A refusal has written nothing.

    Args:
        grants: Patches granted to a site over the life of the agreement.
        default_grant: For sites that `grants` does not name.
    """

    def __init__(
        self,
        grants: Mapping[str, int],
        default_grant: int,
    ) -> None:
        if any(grant < 0 for grant in (default_grant, *grants.values())):
            raise ValueError("a grant is never negative")
        self._grants = dict(grants)
        self._default_grant = default_grant

    def reserve(
        self, database: Connection, request: ReservationRequest, now: float
    ) -> Charge:
        """Charges a query before its work begins.

        Args:
            database: In a transaction.
            request: What the query takes.
            now: Seconds since 1970, UTC.

        Raises:
            BudgetSpentError: The site's grant does not cover it.
            ReplayError: The id was used with other content, its window for free
                repetition is over, or it was repeated too often.
        """
        charged = charged_and_locked(database, request.site)
        earlier = database.execute(
            select(charges).where(is_charge(request))
        ).one_or_none()
        if earlier is not None:
            return self._repeat(database, earlier, request, now)
        self._check_grant(request.site, charged, request.patches)
        database.execute(add_to_account(request.site, request.patches))
        database.execute(
            insert(charges).values(
                site=request.site,
                request_id=request.request_id,
                digest=request.digest,
                patches=request.patches,
                reserved_at=now,
            )
        )
        open_sealing(database, request)
        return Charge(request, repetition=False)

    def settle(self, database: Connection, charge: Charge, now: float) -> int:
        """Closes a charge for which the model has worked.

        Returns:
            The patches that stand charged from here on: all of them the first time
            that a charge is settled, 0 for its repetitions.
        """
        charged_and_locked(database, charge.site)
        settled = database.execute(
            update(charges)
            .where(is_charge(charge.request), charges.c.answered_at.is_(None))
            .values(answered_at=now)
        )
        return charge.patches if settled.rowcount else 0

    def release(self, database: Connection, charge: Charge) -> bool:
        """Takes a charge back for which no work was done.

        Returns:
            Whether patches were given back: never for a repetition, which cost
            nothing, nor for a charge that was repeated meanwhile.
        """
        charged_and_locked(database, charge.site)
        if charge.repetition:
            forget_repetition(database, charge.request)
            return False
        untouched = and_(
            is_charge(charge.request),
            charges.c.repeats == 0,
            charges.c.answered_at.is_(None),
        )
        if database.scalar(select(charges.c.repeats).where(untouched)) is None:
            return False
        database.execute(delete(sealings).where(is_sealed(charge.request)))
        database.execute(delete(charges).where(untouched))
        database.execute(add_to_account(charge.site, -charge.patches))
        return True

    def abandoned(self, database: Connection, before: float, most: int) -> list[Charge]:
        """Returns charges that were reserved before a time and never settled.

        Whoever reserved them is gone, and whether there was work is not known.

        Args:
            database: In a transaction.
            before: Seconds since 1970, UTC.
            most: Of them, the oldest first.
        """
        left = and_(is_open(), charges.c.reserved_at < before)
        oldest = select(charges).where(left).order_by(charges.c.reserved_at)
        return [
            Charge(
                ReservationRequest(
                    row.site, row.request_id, row.digest, row.digest, row.patches
                ),
                repetition=False,
            )
            for row in database.execute(oldest.limit(most))
        ]

    def reserved(self, database: Connection, site: str) -> Reserved:
        """Returns what a site is charged that nobody has settled yet."""
        patches = func.coalesce(func.sum(charges.c.patches), 0)
        found = select(func.count(), patches).where(charges.c.site == site, is_open())
        # of a sum of integers a database server makes a decimal
        return Reserved(*map(int, database.execute(found).one()))

    def charged(self, database: Connection, site: str) -> int:
        """Returns the patches charged to a site so far, reservations included."""
        return database.scalar(account(site)) or 0

    def grants(self) -> dict[str, int]:
        """Returns what each named site was granted, and `*` for any other."""
        return {**self._grants, "*": self._default_grant}

    def granted(self, site: str) -> int:
        """Returns the patches granted to a site over the life of the agreement."""
        return self._grants.get(site, self._default_grant)

    def sites(self, database: Connection) -> tuple[str, ...]:
        """Returns every site that has a grant of its own or ever queried, sorted."""
        known = database.scalars(select(accounts.c.site)).all()
        return tuple(sorted({*known, *self._grants}))

    def _check_grant(self, site: str, charged: int, patches: int) -> None:
        granted = self.granted(site)
        if charged + patches > granted:
            left = max(0, granted - charged)
            raise BudgetSpentError(
                f"the budget is spent: the request takes {patches} patches, "
                f"{left} of {granted} are left"
            )

    def _repeat(
        self,
        database: Connection,
        earlier: Row[Any],
        request: ReservationRequest,
        now: float,
    ) -> Charge:
        if earlier.digest != request.digest:
            raise ReplayError("the request id was used before with other bytes")
        if now - earlier.reserved_at > REPETITION_WINDOW.total_seconds():
            raise ReplayError("the request is too old to be repeated")
        if earlier.repeats >= MOST_REPETITIONS:
            raise ReplayError(f"the request was repeated {earlier.repeats} times")
        count_sealing(database, request)
        repeats = charges.c.repeats + 1
        database.execute(
            update(charges).where(is_charge(request)).values(repeats=repeats)
        )
        return Charge(request, repetition=True)


class BudgetStore:
    """The budget in its database; safe between threads and processes.

    Args:
        url: SQLAlchemy's, for example `sqlite:////var/lib/moma/budget.db`.
        grants: Patches granted to a site over the life of the agreement.
        default_grant: For sites that `grants` does not name.
        clock: Gives the time, with a time zone.

    Attributes:
        engine: The database.
        rules: What is charged and refused, for a caller with a transaction.
    """

    def __init__(
        self,
        url: str,
        *,
        grants: Mapping[str, int],
        default_grant: int,
        clock: Callable[[], datetime],
    ) -> None:
        self.rules = Budget(grants, default_grant)
        self._clock = clock
        self.engine = open_database(url)
        create_tables(self.engine, budget_tables.tables, usage_tables)

    def now(self) -> float:
        """Returns the time by the store's clock, in seconds since 1970, UTC."""
        return self._clock().timestamp()

    def charged(self, site: str) -> int:
        """Returns the patches charged to a site so far, reservations included."""
        with self.engine.begin() as database:
            return self.rules.charged(database, site)

    def sites(self) -> tuple[str, ...]:
        """Returns every site that has a grant of its own or ever queried, sorted."""
        with self.engine.begin() as database:
            return self.rules.sites(database)

    def close(self) -> None:
        """Closes the database."""
        self.engine.dispose()
