import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from moma_core.audit.ledger import Ledger
from moma_core.audit.log import AuditLog
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import BudgetSpentError
from moma_core.policy.budget import BudgetStore
from moma_core.policy.policy import PolicyEnforcer, TeacherPolicy
from moma_core.policy.usage import PatchRate
from moma_core.teacher.query import PatchQuery
from moma_server.metrics.metrics import ServiceMetrics
from moma_server.teacher.query.billing import BillingService, ChargeOrder
from tests.support.machine.waiting import WAIT_SECONDS, until
from tests.support.teacher.teacher_server import CARD

KEY = SigningKey.create()
A = {"site": "site-a", "teacher": "teacher-a"}


class SlowBilling:
    """BillingService on a ledger whose database can be made slow."""

    def __init__(self, folder: Path, policy: TeacherPolicy) -> None:
        self._stopped = False
        self.fast = threading.Event()
        self.fast.set()
        self.registry = CollectorRegistry()
        self.ledger = BudgetStore(
            f"sqlite:///{folder / 'budget.db'}",
            grants={"site-z": 0},
            default_grant=10,
            clock=self._now,
        )
        ledger = Ledger(self.ledger, AuditLog("moma", CARD.name, KEY, self._now))
        self.billing = BillingService(
            ledger, ServiceMetrics(self.registry), CARD, PolicyEnforcer(policy)
        )

    async def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            await self.billing.stop()

    def _now(self) -> datetime:
        assert self.fast.wait(WAIT_SECONDS)
        return datetime.now(UTC)

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"moma_teacher_{name}", A)


@asynccontextmanager
async def billing_in(
    folder: Path, policy: TeacherPolicy | None = None
) -> AsyncIterator[SlowBilling]:
    slow = SlowBilling(folder, policy or TeacherPolicy())
    try:
        yield slow
    finally:
        slow.fast.set()
        await slow.stop()
        slow.ledger.close()


def query(patches: int, request_id: bytes = b"q" * 16) -> PatchQuery:
    return PatchQuery(request_id, np.zeros((patches, 2, 2, 3), np.uint8))


def test_accounts_are_shown_as_they_change(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with billing_in(tmp_path) as slow:
            charge = await slow.billing.reserve("site-a", query(4))
            await slow.billing.settle(charge, worked=True)

            assert await slow.billing.balance("site-a") == (10, 4)
            assert slow.metric("patches_total") == 4
            assert slow.metric("budget_patches") == 10
            assert slow.metric("budget_remaining_ratio") == 0.6

    asyncio.run(scenario())


def test_counters_begin_where_the_ledger_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with billing_in(tmp_path) as before:
            await before.billing.reserve("site-a", query(3))  # and it crashes

        async with billing_in(tmp_path) as slow:
            await slow.billing.refresh()
            again = await slow.billing.reserve("site-a", query(3))
            await slow.billing.settle(again, worked=True)

            assert slow.metric("patches_total") == 3
            assert slow.metric("budget_remaining_ratio") == 0.7

    asyncio.run(scenario())


def test_a_reservation_that_nobody_waits_for_is_given_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with billing_in(tmp_path) as slow:
            slow.fast.clear()
            reserving = asyncio.create_task(slow.billing.reserve("site-a", query(4)))
            await asyncio.sleep(0.1)

            reserving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reserving
            slow.fast.set()
            await slow.stop()

            assert slow.ledger.charged("site-a") == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("patches", [11, 6], ids=["over the budget", "too fast"])
def test_a_refusal_that_nobody_waits_for_is_forgotten(
    tmp_path: Path, patches: int
) -> None:
    policy = TeacherPolicy(rate=PatchRate(per_minute=1, burst=6))

    async def scenario() -> None:
        async with billing_in(tmp_path, policy) as slow:
            await slow.billing.reserve("site-a", query(2, b"r" * 16))
            slow.fast.clear()
            asked = slow.billing.reserve("site-a", query(patches))
            reserving = asyncio.create_task(asked)
            await asyncio.sleep(0.1)

            reserving.cancel()
            slow.fast.set()
            await slow.stop()

            assert slow.ledger.charged("site-a") == 2

    asyncio.run(scenario())


def test_the_pixels_of_a_refused_query_are_not_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with billing_in(tmp_path) as slow:
            asked = query(11)
            pixels = weakref.ref(asked.pixels)
            gc.disable()  # which would find them in the end, after many more
            try:
                with pytest.raises(BudgetSpentError):
                    await slow.billing.reserve("site-a", asked)
                del asked
                await until(lambda: pixels() is None)
            finally:
                gc.enable()

    asyncio.run(scenario())


@pytest.mark.parametrize("call", ["settle", "log_rejected"])
def test_what_a_closed_ledger_refuses_to_nobody_is_no_traceback(
    tmp_path: Path, call: str
) -> None:
    reports: list[object] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: reports.append(context))
        async with billing_in(tmp_path) as slow:
            charge = await slow.billing.reserve("site-a", query(1))
            await slow.stop()
            others = asyncio.all_tasks()
            if call == "settle":
                work = slow.billing.settle(charge, worked=True)
            else:
                work = slow.billing.log_rejected("site-a", "rate", b"r" * 16, query(2))
            calling = asyncio.ensure_future(work)
            await asyncio.sleep(0)

            calling.cancel()
            await until(lambda: asyncio.all_tasks() == others)
            gc.collect()

    asyncio.run(scenario())

    assert reports == []


def test_a_site_without_a_grant_has_nothing_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with billing_in(tmp_path) as slow:
            await slow.billing.refresh()

            with pytest.raises(BudgetSpentError, match="0 of 0"):
                await slow.billing.reserve("site-z", query(1))
            assert await slow.billing.balance("site-z") == (0, 0)

    asyncio.run(scenario())


def test_the_queries_of_a_stream_are_charged_in_their_order() -> None:
    charged = []

    async def work(
        order: ChargeOrder, opened: list[asyncio.Event], number: int
    ) -> None:
        turn = order.next()
        try:
            await opened[number].wait()
            if number == 2:
                raise ValueError("unreadable")  # it never begins, nor lets others in
            await turn.begin()
            charged.append(number)
        finally:
            turn.end()

    async def scenario() -> None:
        order, opened = ChargeOrder(), [asyncio.Event() for _ in range(5)]
        tasks = [
            asyncio.create_task(work(order, opened, number)) for number in range(5)
        ]
        for number in (4, 2, 3, 1):
            await asyncio.sleep(0)
            opened[number].set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert charged == []
        opened[0].set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())

    assert charged == [0, 1, 3, 4]


def test_a_cancelled_query_lets_the_next_of_its_stream_begin() -> None:
    async def scenario() -> bool:
        order = ChargeOrder()
        first, second, third = (order.next() for _ in range(3))
        waiting = asyncio.create_task(second.begin())
        await asyncio.sleep(0)
        waiting.cancel()
        second.end()
        first.end()
        async with asyncio.timeout(WAIT_SECONDS):
            await third.begin()
            await asyncio.wait([waiting])
        return waiting.cancelled()

    assert asyncio.run(scenario())
