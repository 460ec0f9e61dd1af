"""The ledger as the event loop sees them: charged, worked for, written into the log.

An answer is not given before its entry is on the disk, nor is a denial before its entry
is, or its number.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from moma_core.audit.denied_queries import add_held, add_rejected_query
from moma_core.audit.entry import NOTHING, Outcome, QueryEntry
from moma_core.audit.ledger import Ledger, LedgerTx, Operation
from moma_core.audit.receipt import Receipt
from moma_core.errors import CoverageError, MomaError, TeacherUnavailableError
from moma_core.policy.budget import Charge
from moma_core.policy.budget_tables import ReservationRequest
from moma_core.policy.policy import PolicyEnforcer, Usage
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import PatchQuery, query_digest
from moma_server.metrics.metrics import ServiceMetrics, TeacherMetrics
from moma_server.teacher.query.group_commit import GroupCommit
from moma_server.teacher.query.log_metrics import LogMetrics


@dataclass(frozen=True, slots=True)
class RejectedQuery:
    """A query that is not answered.

    Args:
        site: Whose key signed it.
        reason: As the metric names it.
        request_id: Under which it was signed.
        query: What was asked; None where it could not be read.
    """

    site: str
    reason: str
    request_id: bytes
    query: PatchQuery | None = None

    def content(self) -> bytes:
        """Returns the SHA-256 to which its entry commits."""
        return NOTHING if self.query is None else self.query.digest()

    def entry(self, teacher: str) -> QueryEntry:
        """Returns its entry.

        Args:
            teacher: Digest of its weights.
        """
        return QueryEntry(
            site=self.site,
            teacher=teacher,
            request=self.request_id.hex(),
            patches=0 if self.query is None else len(self.query),
            charged=0,
            outputs="",
            outcome="denied",
            reason=self.reason,
        )


T = TypeVar("T")

Embedding = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reservation:
    """A query that is charged and not yet answered.

    Args:
        charge: In the budget.
        content: SHA-256 of the request, to which its entry commits.
    """

    charge: Charge
    content: bytes


@dataclass(frozen=True, slots=True)
class Account:
    """How a site stands.

    Args:
        site: Whose it is.
        charged: Patches, reservations included.
        usage: Against the policy.
    """

    site: str
    charged: int
    usage: Usage


class BillingService:
    """Charges queries and logs them without blocking the loop, and shows the accounts.

    What was handed to it is done even when the caller goes away: a reservation that
    nobody waits for any more is given back.

    Args:
        ledger: Where charges and entries are kept.
        metrics: Gets the accounts.
        log_metrics: Gets what the log says.
        card: The teacher's.
        rules: What each site is held to, beside its budget.
    """

    def __init__(
        self,
        ledger: Ledger,
        metrics: TeacherMetrics,
        log_metrics: LogMetrics,
        card: TeacherCard,
        rules: PolicyEnforcer,
    ) -> None:
        self._ledger = ledger
        self._accounts = ledger.budget.rules
        self._metrics = metrics
        self._card, self._rules = card, rules
        self._commit = GroupCommit(ledger, log_metrics.show)
        self._unwanted: list[asyncio.Task[None]] = []

    async def refresh(self) -> None:
        """Signs the log anew and shows what it and the accounts say by now."""
        await self.write(lambda tx: add_held(tx.log, all_minutes=False))
        await asyncio.shield(self._commit.sign_anew())
        for site in await asyncio.to_thread(self._ledger.budget.sites):
            self._show(await asyncio.to_thread(self._ledger.read, self._account(site)))

    async def write(self, operation: Operation[T]) -> T:
        """Does what else belongs into the ledger."""
        return await asyncio.shield(self._commit.submit(operation))

    async def reserve(
        self,
        site: str,
        query: PatchQuery,
        weights: bytes = b"",
        sealed_digest: bytes | None = None,
    ) -> Reservation:
        """Charges a query before its work begins.

        Args:
            site: Who asks.
            query: What is asked.
            weights: Names those that answer, where they are not the teacher's own.
            sealed_digest: SHA-256 of the bytes in which it came; None: it came bare.

        Raises:
            BudgetSpentError: The site's grant does not cover it.
            ReplayError: The request id was used up.
            PatchLimitError: The policy allows no more patches.
            TeacherBusyError: The site asks too fast.
        """
        patches = await asyncio.to_thread(query.patch_digests)
        content, digest = query_digest(patches), query_digest(patches, weights)
        sealed = digest if sealed_digest is None else sealed_digest
        asked = ReservationRequest(site, query.request_id, digest, sealed, len(query))

        def reserved(tx: LedgerTx) -> Charge:
            charge = self._accounts.reserve(tx.database, asked, tx.now)
            if not charge.repetition:
                self._rules.authorize(tx.database, site, patches, tx.now)
            return charge

        pending = self._commit.submit(reserved)
        try:
            return Reservation(await asyncio.shield(pending), content)
        except asyncio.CancelledError:
            self._unwanted.append(asyncio.ensure_future(self._give_back(pending)))
            raise

    async def close(
        self,
        reservation: Reservation,
        *,
        worked: bool,
        outcome: Outcome = "answered",
        embedding: Embedding | None = None,
    ) -> Receipt | None:
        """Settles a charge and logs the query, or gives the charge back.

        Args:
            reservation: To be closed, once.
            worked: Whether the model worked for it.
            outcome: How it ended, if it worked.
            embedding: (N, D), of the answer.

        Returns:
            The receipt of the entry; None: there was no work, so there is no entry.

        Raises:
            CoverageError: The answer must not be told; the charge is given back.
        """
        closing = self._close(reservation, worked, outcome, embedding)
        return await asyncio.shield(asyncio.ensure_future(closing))

    def deny(self, denial: RejectedQuery) -> "asyncio.Future[None]":
        """Logs a denied query, see `moma_core.audit.denied_queries`.

        One that the log has already is counted, without a site: a carrier sent it.

        Returns:
            Done when it is on the disk; need not be waited for.
        """
        return asyncio.ensure_future(self._deny(denial))

    async def balance(self, site: str) -> tuple[int, int]:
        """Returns the patches granted to a site and those charged so far."""
        charged = await asyncio.to_thread(self._ledger.budget.charged, site)
        return self._accounts.granted(site), charged

    async def stop(self) -> None:
        """Finishes what was handed in."""
        await asyncio.gather(*self._unwanted)
        with suppress(TeacherUnavailableError):  # what is held is kept
            await self.write(lambda tx: add_held(tx.log, all_minutes=True))
        await self._commit.stop()

    async def _close(
        self,
        reservation: Reservation,
        worked: bool,
        outcome: Outcome,
        embedding: Embedding | None,
    ) -> Receipt | None:
        charge = reservation.charge
        if not worked:
            await self._release(charge)
            return None
        entry = self._entry_of(charge, outcome)

        def settled(tx: LedgerTx) -> tuple[Account, Callable[[], Receipt]]:
            if embedding is not None:
                self._rules.answered(tx.database, charge.site, embedding, tx.now)
            cost = self._accounts.settle(tx.database, charge, tx.now)
            account = self._account(charge.site)(tx.database)
            paid = entry.model_copy(update={"charged": cost})
            return account, tx.log.add_query(paid, reservation.content).receipt

        try:
            account, receipt = await self._commit.submit(settled)
        except CoverageError:
            await self._release(charge)
            raise
        self._show(account)
        return receipt()

    async def _release(self, charge: Charge) -> None:
        def released(tx: LedgerTx) -> Account:
            self._accounts.release(tx.database, charge)
            return self._account(charge.site)(tx.database)

        self._show(await self._commit.submit(released))

    async def _deny(self, denial: RejectedQuery) -> None:
        content = await asyncio.to_thread(denial.content)
        entry = denial.entry(self._card.digest)
        if not await self._commit.submit(
            lambda tx: add_rejected_query(tx.log, entry, content)
        ):
            name = self._card.name
            self._metrics.dropped.labels("", name, "denied").inc()
            self._metrics.denied.labels("", name, denial.reason).inc()

    def _entry_of(self, charge: Charge, outcome: Outcome) -> QueryEntry:
        return QueryEntry(
            site=charge.site,
            teacher=self._card.digest,
            request=charge.request.request_id.hex(),
            patches=charge.patches,
            charged=0,
            outputs=self._rules.policy.outputs.text if outcome == "answered" else "",
            outcome=outcome,
            repetition=charge.repetition,
        )

    async def _give_back(self, pending: asyncio.Future[Charge]) -> None:
        with suppress(MomaError):  # so that nothing was charged
            await self.close(Reservation(await pending, NOTHING), worked=False)
        self._unwanted = [task for task in self._unwanted if not task.done()]

    def _account(self, site: str) -> Callable[[Connection], Account]:
        """Returns what reads how a site stands."""
        return lambda database: Account(
            site,
            self._accounts.charged(database, site),
            self._rules.usage(database, site),
        )

    def _show(self, account: Account) -> None:
        labels = (account.site, self._card.name)
        granted = self._accounts.granted(account.site)
        left = max(0, granted - account.charged) / granted if granted else 0.0
        self._metrics.budget.labels(*labels).set(granted)
        self._metrics.budget_remaining.labels(*labels).set(left)
        self._metrics.unique.labels(*labels).set(account.usage.unique_patches)
        if account.usage.coverage is not None:
            self._metrics.coverage.labels(*labels).set(account.usage.coverage)


def billing_on(
    ledger: Ledger, metrics: ServiceMetrics, card: TeacherCard, rules: PolicyEnforcer
) -> BillingService:
    """Returns the charging of one teacher, with the log's numbers beside it."""
    limit = rules.policy.coverage_limit
    if limit is not None:
        metrics.teacher.coverage_limit.labels(card.name).set(limit)
    log_metrics = LogMetrics(metrics.teacher, metrics.audit, card.name)
    return BillingService(ledger, metrics.teacher, log_metrics, card, rules)
