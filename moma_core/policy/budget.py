"""The budget ledger: the accounts and their database, one transaction an operation.

Whoever does several things in one transaction, as the teacher's service does with its
log, uses `BudgetLedger.accounts` with a connection of its own.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from moma_core.policy import budget_tables
from moma_core.policy.accounts import REPETITION_WINDOW, Accounts, Charge
from moma_core.policy.budget_tables import Asked
from moma_core.policy.usage import standing_tables
from moma_core.runtime.database import create_tables, open_database

__all__ = ["REPETITION_WINDOW", "BudgetLedger", "Charge"]


class BudgetLedger:
    """Charges queries to lifetime budgets; safe between threads and processes.

    Args:
        url: SQLAlchemy's, for example `sqlite:////var/lib/moma/budget.db`.
        grants: Patches granted to a site over the life of the agreement.
        default_grant: For sites that `grants` does not name.
        clock: Gives the time, with a time zone.
        window: How long a repetition is free.

    Attributes:
        engine: The database.
        accounts: The rules, for a caller with a connection of its own.
    """

    def __init__(
        self,
        url: str,
        *,
        grants: Mapping[str, int],
        default_grant: int,
        clock: Callable[[], datetime],
        window: timedelta = REPETITION_WINDOW,
    ) -> None:
        self.accounts = Accounts(grants, default_grant, window=window)
        self._clock = clock
        self.engine = open_database(url)
        create_tables(self.engine, budget_tables.tables, standing_tables)

    def now(self) -> float:
        """Returns the time by the ledger's clock, in seconds since 1970, UTC."""
        return self._clock().timestamp()

    def reserve(
        self,
        site: str,
        request_id: bytes,
        *,
        digest: bytes,
        patches: int,
        sealed_digest: bytes | None = None,
    ) -> Charge:
        """Charges a query before its work begins, see `Accounts.reserve`.

        Args:
            site: As its key or certificate names it.
            request_id: 16 bytes, the site's own.
            digest: SHA-256 of what was asked.
            patches: What it costs, >= 1.
            sealed_digest: SHA-256 of the bytes in which it came; None: the same.
        """
        sealed = digest if sealed_digest is None else sealed_digest
        asked = Asked(site, request_id, digest, sealed, patches)
        with self.engine.begin() as database:
            return self.accounts.reserve(database, asked, self.now())

    def settle(self, charge: Charge) -> int:
        """Closes a charge for which the model has worked, see `Accounts.settle`."""
        with self.engine.begin() as database:
            return self.accounts.settle(database, charge, self.now())

    def release(self, charge: Charge) -> bool:
        """Takes a charge back without work, see `Accounts.release`."""
        with self.engine.begin() as database:
            return self.accounts.release(database, charge)

    def charged(self, site: str) -> int:
        """Returns the patches charged to a site so far, reservations included."""
        with self.engine.begin() as database:
            return self.accounts.charged(database, site)

    def granted(self, site: str) -> int:
        """Returns the patches granted to a site over the life of the agreement."""
        return self.accounts.granted(site)

    def sites(self) -> tuple[str, ...]:
        """Returns every site that has a grant of its own or ever asked, sorted."""
        with self.engine.begin() as database:
            return self.accounts.sites(database)

    def close(self) -> None:
        """Closes the database."""
        self.engine.dispose()
