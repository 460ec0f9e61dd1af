"""The budget as the event loop sees it: reserved, then settled or given back."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

from moma_core.errors import RefusedError
from moma_core.policy.budget import BudgetLedger, Charge
from moma_core.teacher.query import PatchQuery
from moma_server.metrics import TeacherMetrics

P = ParamSpec("P")
T = TypeVar("T")


class Charging:
    """Charges queries without blocking the loop, and shows the accounts.

    The ledger works in one thread. What was handed to it is done even when the caller
    goes away: a reservation that nobody waits for any more is given back.

    Args:
        ledger: Where charges are kept.
        metrics: Gets the accounts.
        teacher: The metrics' label.
    """

    def __init__(
        self, ledger: BudgetLedger, metrics: TeacherMetrics, teacher: str
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._teacher = teacher
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="budget")
        self._unwanted: list[asyncio.Task[None]] = []

    def restore(self) -> None:
        """Shows every account as the ledger has it; once, at the start."""
        for site in self._ledger.sites():
            charged = self._ledger.charged(site)
            self._metrics.patches.labels(site, self._teacher).inc(charged)
            self._show(site, charged)

    async def reserve(
        self, site: str, query: PatchQuery, weights: bytes = b""
    ) -> Charge:
        """Charges a query before its work begins.

        Args:
            site: Who asks.
            query: What is asked.
            weights: Names those that answer, where they are not the teacher's own.

        Raises:
            BudgetSpentError: The site's grant does not cover it.
            ReplayError: The request id was used up.
        """
        digest = await asyncio.to_thread(query.digest, weights)
        pending = self._submit(
            self._ledger.reserve,
            site,
            query.request_id,
            digest=digest,
            patches=len(query),
        )
        try:
            return await asyncio.shield(pending)
        except asyncio.CancelledError:
            self._unwanted.append(asyncio.ensure_future(self._give_back(pending)))
            raise

    async def close(self, charge: Charge, *, worked: bool) -> None:
        """Settles a charge if the model worked for it, else gives it back."""
        await asyncio.shield(self._submit(self._close, charge, worked))

    async def balance(self, site: str) -> tuple[int, int]:
        """Returns the patches granted to a site and those charged so far."""
        charged = await self._submit(self._ledger.charged, site)
        return self._ledger.granted(site), charged

    async def stop(self) -> None:
        """Finishes what was handed in."""
        await asyncio.gather(*self._unwanted)
        await asyncio.to_thread(self._thread.shutdown)

    def _submit(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        return asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))

    def _close(self, charge: Charge, worked: bool) -> None:
        if worked:
            self._ledger.settle(charge)
        given_back = not worked and self._ledger.release(charge)
        if not charge.repetition and not given_back:
            counter = self._metrics.patches.labels(charge.site, self._teacher)
            counter.inc(charge.patches)
        self._show(charge.site, self._ledger.charged(charge.site))

    async def _give_back(self, pending: asyncio.Future[Charge]) -> None:
        with suppress(RefusedError):
            await self.close(await pending, worked=False)
        self._unwanted = [task for task in self._unwanted if not task.done()]

    def _show(self, site: str, charged: int) -> None:
        granted = self._ledger.granted(site)
        left = max(0, granted - charged) / granted if granted else 0.0
        self._metrics.budget.labels(site, self._teacher).set(granted)
        self._metrics.budget_remaining.labels(site, self._teacher).set(left)
