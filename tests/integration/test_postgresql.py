"""Two gateways that share one PostgreSQL race for the last hundred patches."""

import subprocess
import sys
from pathlib import Path

from moma_core.audit.export import export_log
from moma_core.audit.verify import lines_of, verify_export
from moma_core.policy.standing import unique_patches
from tests.postgresql import postgresql
from tests.racing_gateway import GRANT, books_at
from tests.sealed import TEACHER, key_of

TRIES = 90


def test_two_gateways_never_overspend_and_leave_one_log_without_a_gap(
    tmp_path: Path,
) -> None:
    with postgresql() as url:
        command = [sys.executable, "-m", "tests.racing_gateway", url, str(TRIES)]
        gateways = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        answered = [int(one.communicate(timeout=120)[0]) for one in gateways]

        books = books_at(url)
        charged = books.ledger.charged("site-a")
        unique = books.read(lambda database: unique_patches(database, "site-a"))
        path = tmp_path / "log.jsonl"
        books.read(lambda database: export_log(database, path))
        books.ledger.close()

    with path.open("rb") as file:
        found = verify_export(lines_of(file), key_of(TEACHER).public)
    assert sum(answered) == charged == unique == GRANT
    assert all(answered)
    assert found.sites["site-a"].charged == GRANT
    assert found.entries == GRANT + 1  # the log's first entry opens it
