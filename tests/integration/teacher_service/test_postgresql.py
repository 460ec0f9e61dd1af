"""One PostgreSQL for several gateways: nothing is overspent, lost or forked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine

from moma_core.audit.export import export_log
from moma_core.audit.verify import lines_of, verify_export
from moma_core.errors import TeacherUnavailableError
from moma_core.policy.budget_tables import ReservationRequest
from moma_core.policy.usage import unique_patches
from moma_core.runtime.database import open_database, reading
from tests.support.machine.postgresql import database_server, postgresql
from tests.support.teacher.audit_log import written
from tests.support.teacher.racing_gateway import GRANT, ask, ledger_at
from tests.support.teacher.sealed import TEACHER, key_of

TRIES = 90


def test_two_gateways_never_overspend_and_leave_one_log_without_a_gap(
    tmp_path: Path,
) -> None:
    with postgresql() as url:
        command = [
            sys.executable,
            "-m",
            "tests.support.teacher.racing_gateway",
            url,
            str(TRIES),
        ]
        gateways = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        answered = [int(one.communicate(timeout=120)[0]) for one in gateways]

        ledger = ledger_at(url)
        charged = ledger.budget.charged("site-a")
        unique = ledger.read(lambda database: unique_patches(database, "site-a"))
        path = tmp_path / "log.jsonl"
        ledger.read(lambda database: export_log(database, path))
        ledger.budget.close()

    with path.open("rb") as file:
        found = verify_export(lines_of(file), key_of(TEACHER).public)
    assert sum(answered) == charged == unique == GRANT
    assert all(answered)
    assert found.sites["site-a"].charged == GRANT
    assert found.entries == GRANT + 1  # the log's first entry opens it


def test_a_commit_waits_for_the_disk_whatever_the_server_says() -> None:
    with postgresql() as url:
        operator = create_engine(url, isolation_level="AUTOCOMMIT")
        with operator.connect() as server:
            for setting in (
                "synchronous_commit = off",
                "default_transaction_isolation = 'repeatable read'",
            ):
                server.exec_driver_sql(f"ALTER DATABASE postgres SET {setting}")
        operator.dispose()

        engine = open_database(url)
        with engine.begin() as database:
            assert _shown(database) == ("on", "read committed", "off")
        with reading(engine).begin() as database:
            assert _shown(database) == ("on", "repeatable read", "on")
        engine.dispose()


def test_a_connection_that_the_server_cut_is_replaced() -> None:
    with postgresql() as url:
        engine, other = open_database(url), create_engine(url)
        with engine.begin() as database:
            (process,) = database.exec_driver_sql("SELECT pg_backend_pid()").one()
        with other.begin() as server:
            server.exec_driver_sql(f"SELECT pg_terminate_backend({process})")

        with engine.begin() as database:
            assert database.exec_driver_sql("SELECT 1").scalar_one() == 1
        other.dispose()
        engine.dispose()


def test_what_a_server_adds_up_is_an_integer_that_json_can_say() -> None:
    with postgresql() as url:
        ledger = ledger_at(url)
        request = ReservationRequest("site-a", b"1" * 16, b"2" * 32, b"2" * 32, 3)
        written(
            ledger, lambda tx: ledger.budget.rules.reserve(tx.database, request, tx.now)
        )

        reserved = ledger.read(
            lambda database: ledger.budget.rules.reserved(database, "site-a")
        )
        ledger.budget.close()

    assert json.dumps(reserved) == "[1, 3]"


def test_a_killed_server_is_one_sentence_and_the_ledger_goes_on_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with database_server() as server:
        ledger = ledger_at(server.url)
        assert ask(ledger)

        server.kill()
        for use in (lambda: ask(ledger), lambda: ledger.budget.charged("site-a")):
            with pytest.raises(TeacherUnavailableError, match="database cannot be use"):
                use()
        with pytest.raises(TeacherUnavailableError):
            ledger_at(server.url)  # and a gateway that starts ends with it
        server.start()

        assert ask(ledger)
        assert ledger.budget.charged("site-a") == 2
        ledger.budget.close()
    assert "the database postgresql+psycopg://moma@" in caplog.text
    assert "Traceback" not in caplog.text


def _shown(database: Connection) -> tuple[str, ...]:
    settings = "synchronous_commit", "transaction_isolation", "transaction_read_only"
    return tuple(
        database.exec_driver_sql(f"SHOW {setting}").scalar_one() for setting in settings
    )
