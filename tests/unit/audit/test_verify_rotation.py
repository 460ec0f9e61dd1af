"""Logs that follow each other, and keys that do: what an auditor is told of gaps."""

from pathlib import Path

import pytest

from moma_core.audit.entry import CloseEntry
from moma_core.audit.rotation import add_policy, rotate_key, rotate_log
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import AuditError
from tests.support.teacher.audit_log import (
    KEY,
    ask,
    edited,
    exported,
    ledger_in,
    query,
    verified,
    written,
)


def test_key_and_log_rotation_verify_with_any_of_the_keys(tmp_path: Path) -> None:
    new = SigningKey.create()
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))
        ledger.alter(lambda database: rotate_key(database, ledger.log, new))
    with ledger_in(tmp_path, new) as ledger:
        ask(ledger, query(2))
        written(
            ledger, lambda tx: add_policy(tx.log, new, subject="policy", change="x")
        )
        ledger.alter(lambda database: rotate_log(database, ledger.log))
        (receipt,) = ask(ledger, query(3))
        lines = exported(ledger, tmp_path)

    assert receipt.checkpoint.origin == "moma/teacher-a/2"
    for key in (KEY, new):
        found = verified(lines, key)
        assert found.logs == ["moma/teacher-a/1", "moma/teacher-a/2"]
        assert found.sites["site-a"].charged == 6
    with pytest.raises(AuditError, match="never signed by"):
        verified(lines, SigningKey.create())


def test_a_log_in_the_middle_of_others_is_missed(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        for number in range(1, 3):
            ask(ledger, query(number))
            ledger.alter(lambda database: rotate_log(database, ledger.log))
        lines = exported(ledger, tmp_path)
    starts = [n for n, line in enumerate(lines) if line.startswith(b'{"format"')]
    without = lines[: starts[1]] + lines[starts[2] :]

    with pytest.raises(AuditError, match="/1, which goes on in moma/teacher-a/2"):
        verified(without)
    with pytest.raises(
        AuditError, match="does not go on where the log before it ended"
    ):
        verified(lines[starts[1] :])


def test_a_log_that_went_on_elsewhere_is_missed_at_the_end(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))
        ledger.alter(lambda database: rotate_log(database, ledger.log))
        ask(ledger, query(2))
        lines = exported(ledger, tmp_path)
    starts = [n for n, line in enumerate(lines) if line.startswith(b'{"format"')]

    with pytest.raises(AuditError, match="goes on in moma/teacher-a/2, which is not"):
        verified(lines[: starts[1]])


def test_nothing_stands_behind_the_end_of_a_closed_log(tmp_path: Path) -> None:
    """Not even what the keeper itself has signed."""
    with ledger_in(tmp_path) as ledger:
        written(ledger, lambda tx: tx.log.add(CloseEntry(next_log="moma/teacher-a/2")))
        ask(ledger, query(1))
        lines = exported(ledger, tmp_path)

    with pytest.raises(AuditError, match="entry 2: it stands behind the log's end"):
        verified(lines)


def test_a_log_stands_only_where_the_one_before_named_it(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))
        lines = exported(ledger, tmp_path)
    other = [line.replace(b"teacher-a/1", b"teacher-a/2") for line in lines]

    with pytest.raises(AuditError, match="goes on in nowhere: it is not closed"):
        verified([*lines, *other])


def test_a_key_that_the_old_one_did_not_introduce_is_refused(tmp_path: Path) -> None:
    thief = SigningKey.create()
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))
        ledger.alter(lambda database: rotate_key(database, ledger.log, thief))
        lines = exported(ledger, tmp_path)
    place = next(n for n, line in enumerate(lines) if b'"kind":"key"' in line)
    lines[place] = edited(lines[place], signature="0" * 128)

    with pytest.raises(AuditError, match="entry 2: its key is not signed"):
        verified(lines)
