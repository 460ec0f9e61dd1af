"""What a gateway that died has charged is in the log too, once."""

from hashlib import sha256
from pathlib import Path

from moma_core.audit.entry import QueryEntry, decode
from moma_core.audit.ledger import Ledger
from moma_core.audit.tables import Total, TotalKey, read_totals
from moma_server.teacher.query import upkeep
from moma_server.teacher.query.upkeep import reap_abandoned
from tests.support.teacher.audit_log import ledger_in, written
from tests.support.teacher.charges import reserve_in, settle_in

DIGEST = sha256(b"weights").hexdigest()
CONTENT = sha256(b"pixels").digest()
AT_ONCE = -1.0  # also what was reserved in this second


def reserve(ledger: Ledger, number: int, patches: int = 3) -> None:
    reserve_in(
        ledger.budget,
        "site-a",
        number.to_bytes(16, "big"),
        digest=CONTENT,
        patches=patches,
    )


def reaped(ledger: Ledger, after_seconds: float = AT_ONCE) -> int:
    return written(ledger, reap_abandoned(ledger, DIGEST, after_seconds))


def settled(ledger: Ledger, number: int) -> int:
    """Asks again, is answered, and returns what that charged."""
    charge = reserve_in(
        ledger.budget, "site-a", number.to_bytes(16, "big"), digest=CONTENT, patches=3
    )
    return settle_in(ledger.budget, charge)


def totals(ledger: Ledger) -> dict[TotalKey, Total]:
    return dict(ledger.read(read_totals))


def test_what_nobody_settled_is_abandoned_and_stays_charged(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        reserve(ledger, 1)
        reserve(ledger, 2)

        count, again = reaped(ledger), reaped(ledger)

        assert (count, again) == (2, 0)
        assert totals(ledger) == {TotalKey("site-a", "abandoned", ""): Total(2, 6)}
        assert ledger.budget.charged("site-a") == 6
        assert ledger.read(
            lambda database: ledger.budget.rules.reserved(database, "site-a")
        ) == (0, 0)


def test_the_site_can_fetch_the_entry_of_what_it_was_never_told(
    tmp_path: Path,
) -> None:
    with ledger_in(tmp_path) as ledger:
        reserve(ledger, 1)
        reaped(ledger)

        (receipt,) = ledger.read(
            lambda database: ledger.log.receipts(
                database, "site-a", (1).to_bytes(16, "big")
            )
        )

        entry = decode(receipt.leaf).entry
        assert isinstance(entry, QueryEntry)
        assert (entry.outcome, entry.patches, entry.charged) == ("abandoned", 3, 3)
        assert (entry.teacher, entry.outputs) == (DIGEST, "")


def test_what_may_still_be_worked_on_is_left_alone(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        reserve(ledger, 1)

        assert reaped(ledger, after_seconds=60) == 0
        assert totals(ledger) == {}
        assert settled(ledger, 1) == 3


def test_a_repetition_of_what_was_written_off_is_free(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        reserve(ledger, 1)
        reaped(ledger)

        assert settled(ledger, 1) == 0
        assert ledger.budget.charged("site-a") == 3


def test_many_are_written_off_in_parts(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        for number in range(upkeep._MOST_TOGETHER + 1):
            reserve(ledger, number, patches=1)

        counts = [reaped(ledger) for _ in range(3)]

        assert counts == [upkeep._MOST_TOGETHER, 1, 0]
