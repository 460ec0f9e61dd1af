"""A database that the disk damaged: named in the log, and no traceback."""

from pathlib import Path

import pytest

from moma_core.errors import TeacherUnavailableError
from tests.support.teacher.audit_log import ask, ledger_in, query


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_database_is_named_and_answers_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))
    (file,) = tmp_path.glob("*.db")
    content = file.read_bytes()
    half = len(content) // 2
    file.write_bytes(
        content[:half] if damage == "cut" else bytes(half) + content[half:]
    )

    with (
        pytest.raises(TeacherUnavailableError, match="database cannot be used now"),
        ledger_in(tmp_path) as ledger,
    ):
        ask(ledger, query(2))

    assert f"{file} cannot be used" in caplog.text
