"""Charges queries and writes them into the log, without blocking the event loop.

No response is given before the query's entry is on the disk, and no refusal before the
rejected query's entry, or its number.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

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
from moma_server.metrics.metrics import ServiceMetrics
from moma_server.teacher.query.group_commit import GroupCommit, LogMetrics

_logger = logging.getLogger(__name__)

T = TypeVar("T")

Embedding = NDArray[np.float32]


class Reservation(NamedTuple):
    """A query that is charged and not yet answered.

    Args:
        charge: Charge in the site's budget.
        content: SHA-256 of the request, to which its entry commits.
    """

    charge: Charge
    content: bytes


class ChargeTurn:
    """The place of a query among those of its stream, for the order of their charges.

    Several are under way at once. Without an order, the one that finds the budget spent
    could lie before one that is charged and answered, and a site that stops at the
    refusal would lose an answer that it paid for.

    Args:
        earlier: Done as soon as every earlier query has its charge or its refusal.

    Attributes:
        ended: Done as soon as this one has, too.
    """

    def __init__(self, earlier: asyncio.Future[None]) -> None:
        self._earlier = earlier
        self.ended: asyncio.Future[None] = earlier.get_loop().create_future()

    async def begin(self) -> None:
        """Waits for the earlier queries."""
        await asyncio.shield(self._earlier)

    def end(self) -> None:
        """Lets the next query begin, once the earlier ones have ended."""
        self._earlier.add_done_callback(self._end)

    def _end(self, _earlier: asyncio.Future[None]) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class ChargeOrder:
    """Gives the queries of one stream their turns, in the order in which they come."""

    def __init__(self) -> None:
        self._last: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last.set_result(None)

    def next(self) -> ChargeTurn:
        """Returns the turn of the next query."""
        turn = ChargeTurn(self._last)
        self._last = turn.ended
        return turn


def _to_its_end(work: Awaitable[T]) -> asyncio.Future[T]:
    """Returns what waits for work that goes on where its caller goes away.

    Of errors that nobody is left to hear of ours are none: the ledger is closing, or it
    failed and has said so in the log.
    """
    working = asyncio.ensure_future(work)
    working.add_done_callback(_noticed)
    return asyncio.shield(working)


def _noticed(working: asyncio.Future[T]) -> None:
    error = None if working.cancelled() else working.exception()
    if error is not None and not isinstance(error, MomaError):
        _logger.error("a query could not be charged or logged", exc_info=error)


class _Account(NamedTuple):
    site: str
    charged: int  # patches, reservations included
    usage: Usage


class BillingService:
    """Charges queries and logs them, and shows the accounts of the sites.

    What was handed to it is done even when the caller goes away: a reservation that
    nobody waits for any more is given back.

    Args:
        ledger: Where charges and entries are kept.
        metrics: Shows the accounts, and what the log says.
        card: The teacher's card.
        rules: Policy that each site is held to, beside its budget.
    """

    def __init__(
        self,
        ledger: Ledger,
        metrics: ServiceMetrics,
        card: TeacherCard,
        rules: PolicyEnforcer,
    ) -> None:
        self._ledger = ledger
        self._accounts = ledger.budget.rules
        self._metrics = metrics.teacher
        self._card, self._rules = card, rules
        log_metrics = LogMetrics(metrics.teacher, metrics.audit, card.name)
        self._commit = GroupCommit(ledger, log_metrics)
        self._unwanted: list[asyncio.Task[None]] = []
        limit = rules.policy.coverage_limit
        if limit is not None:
            metrics.teacher.coverage_limit.labels(card.name).set(limit)

    async def refresh(self) -> None:
        """Signs the log anew and shows what it and the accounts say by now."""
        await self.write(lambda tx: add_held(tx.log, all_minutes=False))
        await asyncio.shield(self._commit.sign_anew())
        for site in await asyncio.to_thread(self._ledger.budget.sites):
            account = partial(self._account, site)
            self._show(await asyncio.to_thread(self._ledger.read, account))

    async def write(self, operation: Operation[T]) -> T:
        """Does another operation on the ledger."""
        return await _to_its_end(self._commit.submit(operation))

    async def reserve(
        self,
        site: str,
        query: PatchQuery,
        weights: bytes = b"",
        sealed_digest: bytes | None = None,
    ) -> Reservation:
        """Charges a query before its work begins.

        Args:
            site: Site that is charged.
            query: Query that it is charged for.
            weights: Name of the weights that work for it, where they are a session's.
            sealed_digest: SHA-256 of the sealed request; None: it came unsealed.

        Raises:
            BudgetSpentError: The site's grant does not cover it.
            ReplayError: The request id was used up.
            PatchLimitError: The policy allows no more patches.
            TeacherBusyError: The site sends too many patches a minute.
        """
        patches = query.patch_digests()  # made where the query was read
        content, digest = query_digest(patches), query_digest(patches, weights)
        sealed = digest if sealed_digest is None else sealed_digest
        request = ReservationRequest(site, query.request_id, digest, sealed, len(query))

        def reserved(tx: LedgerTx) -> Charge:
            charge = self._accounts.reserve(tx.database, request, tx.now)
            if not charge.repetition:
                self._rules.authorize(tx.database, site, patches, tx.now)
            return charge

        pending = self._commit.submit(reserved)
        try:
            return Reservation(await asyncio.shield(pending), content)
        except asyncio.CancelledError:
            self._unwanted.append(asyncio.ensure_future(self._give_back(pending)))
            raise
        finally:
            del pending  # its refusal holds this frame, and so the pixels, in a circle

    async def settle(
        self,
        reservation: Reservation,
        *,
        worked: bool,
        outcome: Outcome = "answered",
        embedding: Embedding | None = None,
    ) -> Receipt | None:
        """Settles a charge and logs the query, or gives the charge back.

        Args:
            reservation: Charge to be settled, once.
            worked: Whether the model worked for it.
            outcome: How the query ended, if the model worked.
            embedding: (N, D), of the model's output.

        Returns:
            The receipt of the entry; None: there was no work, so there is no entry.

        Raises:
            CoverageError: The output must not be disclosed; the charge is given back.
        """
        return await _to_its_end(self._settle(reservation, worked, outcome, embedding))

    async def log_rejected(
        self,
        site: str,
        reason: str,
        request_id: bytes,
        query: PatchQuery | None = None,
    ) -> None:
        """Logs a rejected query, see `moma_core.audit.denied_queries`.

        One that the log has already is counted, without a site: a carrier sent it.

        Args:
            site: Site whose key signed it.
            reason: Why it was rejected, as the metric names it.
            request_id: Request id under which it was signed.
            query: None where it could not be read.
        """
        entry = QueryEntry(
            site=site,
            teacher=self._card.digest,
            request=request_id.hex(),
            patches=0 if query is None else len(query),
            charged=0,
            outputs="",
            outcome="denied",
            reason=reason,
        )
        await _to_its_end(self._log_rejected(entry, query))

    async def balance(self, site: str) -> tuple[int, int]:
        """Returns the patches granted to a site and those charged so far."""
        charged = await asyncio.to_thread(self._ledger.budget.charged, site)
        return self._accounts.granted(site), charged

    async def stop(self) -> None:
        """Finishes what was handed in."""
        await asyncio.gather(*self._unwanted)
        with suppress(TeacherUnavailableError):  # what was only counted is kept
            await self.write(lambda tx: add_held(tx.log, all_minutes=True))
        await self._commit.stop()

    async def _settle(
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

        def settled(tx: LedgerTx) -> tuple[_Account, Callable[[], Receipt]]:
            if embedding is not None:
                self._rules.answered(tx.database, charge.site, embedding, tx.now)
            cost = self._accounts.settle(tx.database, charge, tx.now)
            account = self._account(charge.site, tx.database)
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
        def released(tx: LedgerTx) -> _Account:
            self._accounts.release(tx.database, charge)
            return self._account(charge.site, tx.database)

        self._show(await self._commit.submit(released))

    async def _log_rejected(self, entry: QueryEntry, query: PatchQuery | None) -> None:
        content = NOTHING if query is None else await asyncio.to_thread(query.digest)
        if not await self._commit.submit(
            lambda tx: add_rejected_query(tx.log, entry, content)
        ):
            name = self._card.name
            self._metrics.dropped.labels("", name, "denied").inc()
            self._metrics.denied.labels("", name, entry.reason).inc()

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
            await self.settle(Reservation(await pending, NOTHING), worked=False)
        self._unwanted = [task for task in self._unwanted if not task.done()]

    def _account(self, site: str, database: Connection) -> _Account:
        charged = self._accounts.charged(database, site)
        return _Account(site, charged, self._rules.usage(database, site))

    def _show(self, account: _Account) -> None:
        labels = (account.site, self._card.name)
        granted = self._accounts.granted(account.site)
        left = max(0, granted - account.charged) / granted if granted else 0.0
        self._metrics.budget.labels(*labels).set(granted)
        self._metrics.budget_remaining.labels(*labels).set(left)
        self._metrics.unique.labels(*labels).set(account.usage.unique_patches)
        if account.usage.coverage is not None:
            self._metrics.coverage.labels(*labels).set(account.usage.coverage)
