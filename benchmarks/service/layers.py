"""The CPU time of each layer at the teacher, one at a time, by the product's own calls.

The services differ by whole layers; what one part of a layer costs is measured here.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np

from benchmarks.service.federation import FEDERATION, SITE, TEACHER, Federation
from benchmarks.service.services import ledger_at
from benchmarks.service.trials import Row
from moma_core.audit.entry import QueryEntry
from moma_core.audit.ledger import Ledger, LedgerTx, Operation, Refusal
from moma_core.end_to_end.hpke import SUITES, SealingKey
from moma_core.end_to_end.sealed_messages import (
    MessageContext,
    OpenedRequest,
    Parties,
    Sealed,
    open_request,
    seal_request,
)
from moma_core.policy.budget import Charge
from moma_core.policy.budget_tables import ReservationRequest
from moma_core.policy.policy import PolicyEnforcer, TeacherPolicy
from moma_core.teacher.query import patch_digests

T = TypeVar("T")

GROUPS = (1, 4, 16)
"""Queries that share a commit."""

_TIMES = 9
_ANSWER_BYTES = 4 * (512 + 9)  # of a patch


def layers(
    side_px: int, batch: int, work: Path, repetition: int, done: set[str]
) -> Iterator[Row]:
    """Yields a row for each layer: the median of its CPU time for one query."""
    keys = f"layers/{side_px}/{batch}"
    if f"{keys}/leaf/{GROUPS[-1]}/{repetition}" in done:
        return
    with TemporaryDirectory(dir=work) as folder:
        federation = Federation.create(Path(folder) / "federation")
        found = [
            *_of_the_message(federation, side_px, batch),
            *_of_the_books(federation, batch),
        ]
    for layer, group, seconds in found:
        yield {
            "part": "layers",
            "key": f"{keys}/{layer}/{group}/{repetition}",
            "repetition": repetition,
            "service": layer,
            "side_px": side_px,
            "batch": batch,
            "streams": group,
            "service_cpu": f"{seconds:.3e}",
            "done": "yes",
        }


_Found = tuple[str, int, float]


def _of_the_message(
    federation: Federation, side_px: int, batch: int
) -> Iterator[_Found]:
    shape = (batch, side_px, side_px, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8, endpoint=False)
    sealing = SealingKey.create(SUITES[-1])
    site, teacher = federation.key(SITE), federation.key(TEACHER)
    parties = Parties(
        federation=FEDERATION, site=SITE, teacher=TEACHER, card_digest=bytes(32)
    )
    place = MessageContext(method="Embed", request_id=bytes(16), issued_ms=0)
    question, _ = seal_request(
        place, parties, [pixels.data.cast("B")], sealing.public, site
    )

    def opened() -> OpenedRequest:
        key = (sealing.public.key_id, lambda _name: sealing)
        return open_request(place, parties, question, site.public, key)

    def sealed() -> Sealed:
        return asked.respond(answer, teacher)

    asked, answer = opened(), bytes(batch * _ANSWER_BYTES)
    yield "open and verify", 1, _cpu(opened)
    yield "digests of the patches", 1, _cpu(lambda: patch_digests(pixels))
    yield "seal and sign the answer", 1, _cpu(sealed)


def _of_the_books(federation: Federation, batch: int) -> Iterator[_Found]:
    ledger = ledger_at(federation, federation.folder / "layers.db")
    rules = PolicyEnforcer(TeacherPolicy())
    try:
        for group in GROUPS:
            reserve: list[float] = []
            settle: list[float] = []
            logged: list[float] = []
            for number in range(2 * _TIMES):
                steps = [_reservation(ledger, rules, batch) for _ in range(group)]
                charges, seconds = _written(ledger, steps)
                reserve.append(seconds / group)
                has_leaf = number % 2 == 1
                closings = [
                    _closing(ledger, rules, c, has_leaf=has_leaf) for c in charges
                ]
                _, seconds = _written(ledger, closings)
                (logged if has_leaf else settle).append(seconds / group)
            yield "reserve", group, float(np.median(reserve))
            yield "settle", group, float(np.median(settle))
            leaf = float(np.median(logged) - np.median(settle))
            yield "leaf", group, leaf
    finally:
        ledger.budget.close()


def _reservation(
    ledger: Ledger, rules: PolicyEnforcer, batch: int
) -> Operation[Charge]:
    asked = ReservationRequest(
        SITE, os.urandom(16), os.urandom(32), os.urandom(32), batch
    )
    digests = [os.urandom(32) for _ in range(batch)]

    def reserved(tx: LedgerTx) -> Charge:
        charge = ledger.budget.rules.reserve(tx.database, asked, tx.now)
        rules.authorize(tx.database, SITE, digests, tx.now)
        return charge

    return reserved


def _closing(
    ledger: Ledger, rules: PolicyEnforcer, charge: Charge, *, has_leaf: bool
) -> Operation[None]:
    def closed(tx: LedgerTx) -> None:
        cost = ledger.budget.rules.settle(tx.database, charge, tx.now)
        ledger.budget.rules.charged(tx.database, SITE)
        rules.usage(tx.database, SITE)
        if has_leaf:
            tx.log.add_query(_entry(charge, cost), bytes(32))

    return closed


def _entry(charge: Charge, cost: int) -> QueryEntry:
    return QueryEntry(
        site=SITE,
        teacher="0" * 64,
        request=charge.request.request_id.hex(),
        patches=charge.patches,
        charged=cost,
        outputs="embedding,logits",
        outcome="answered",
    )


def _written(
    ledger: Ledger, operations: Sequence[Operation[T]]
) -> tuple[list[T], float]:
    """Returns what came of operations of one commit, and its CPU seconds."""
    begin = time.thread_time()
    done = ledger.write_all(operations).done
    seconds = time.thread_time() - begin
    return [each for each in done if not isinstance(each, Refusal)], seconds


def _cpu(work: Callable[[], object]) -> float:
    """Returns the median of the CPU seconds of some work."""
    found = []
    for _ in range(_TIMES):
        begin = time.thread_time()
        work()
        found.append(time.thread_time() - begin)
    return float(np.median(found))
