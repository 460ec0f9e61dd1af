import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from moma_core.errors import RefusedError
from moma_core.policy.budget import BudgetStore
from tests.support.teacher.charges import release_in, reserve_in, settle_in


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'budget.db'}"


def ledger_in(folder: Path) -> BudgetStore:
    return BudgetStore(
        url_of(folder),
        grants={},
        default_grant=100,
        clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )


def play(ledger: BudgetStore, moves: list[tuple[int, int, bool]]) -> None:
    """Reserves, and settles or releases; what is refused is refused."""
    for number, patches, worked in moves:
        with suppress(RefusedError):
            charge = reserve_in(
                ledger,
                "site-a",
                number.to_bytes(16, "big"),
                digest=sha256(f"{number} {patches}".encode()).digest(),
                patches=patches,
            )
            if worked:
                settle_in(ledger, charge)
            else:
                release_in(ledger, charge)


Moves = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 40), st.booleans()), max_size=12
)


@settings(max_examples=25)
@given(st.lists(Moves, min_size=1, max_size=3))
def test_no_interleaving_overspends_or_loses_a_charge(
    threads: list[list[tuple[int, int, bool]]],
) -> None:
    with TemporaryDirectory() as folder:
        ledger = ledger_in(Path(folder))

        with ThreadPoolExecutor(len(threads)) as pool:
            list(pool.map(lambda moves: play(ledger, moves), threads))

        assert 0 <= ledger.charged("site-a") <= 100
        assert ledger.charged("site-a") == sum_of_charges(Path(folder))
        ledger.close()


def sum_of_charges(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "budget.db")) as database:
        rows = database.execute("SELECT patches FROM budget_charges").fetchall()
    return sum(patches for (patches,) in rows)


_SPENDER = """
import sys
from datetime import UTC, datetime
from hashlib import sha256
from moma_core.errors import BudgetSpentError
from moma_core.policy.budget import BudgetStore
from tests.support.teacher.charges import reserve_in, settle_in

url, name = sys.argv[1:]
ledger = BudgetStore(
    url, grants={}, default_grant=100, clock=lambda: datetime.now(UTC)
)
for number in range(40):
    identity = sha256(f"{name} {number}".encode()).digest()
    try:
        charge = reserve_in(ledger, "site-a", identity[:16], digest=identity, patches=3)
    except BudgetSpentError:
        break
    settle_in(ledger, charge)
ledger.close()
"""


def test_two_processes_on_one_file_never_overspend(tmp_path: Path) -> None:
    spenders = [
        subprocess.Popen([sys.executable, "-c", _SPENDER, url_of(tmp_path), name])
        for name in ("one", "two")
    ]

    statuses = [spender.wait(timeout=60) for spender in spenders]

    ledger = ledger_in(tmp_path)
    assert statuses == [0, 0]
    assert ledger.charged("site-a") == 99
    assert sum_of_charges(tmp_path) == 99
    ledger.close()
