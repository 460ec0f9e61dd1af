"""A site is shown that a log begins where the one before it ended, and by whose key."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest

from moma_client.audit.receipts import verify_receipts
from moma_core.audit.ledger import Ledger
from moma_core.audit.rotation import rotate_key, rotate_log
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import AuditError, LogForkError, NotAuthorizedError
from tests.integration.audit.test_log_exchange import Hospital, forged, hospital
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import batches, running
from tests.support.teacher.sealed import TEACHER, key_of
from tests.support.teacher.teacher_server import MeanColour, ledger_in

KEY = key_of(TEACHER).public


@contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    ledger = ledger_in(folder, TEACHER, {}, lambda: datetime.now(UTC))
    try:
        yield ledger
    finally:
        ledger.budget.close()


def rotate(folder: Path) -> None:
    """As `moma-server audit rotate` does, beside a server that runs or not."""
    with opened(folder) as ledger:
        ledger.alter(lambda database: rotate_log(database, ledger.log))


def started(folder: Path, pki: Pki, queries: int = 3) -> Hospital:
    """Runs a teacher, and a site that asked it a little."""
    with running(folder / "teacher", pki, MeanColour()) as served:
        site = hospital(folder, pki, "site-a", served)
        site.ask(queries)
    return site


def go_on(site: Hospital, folder: Path, pki: Pki, run_key: bytes = b"later") -> None:
    with running(folder, pki, MeanColour()) as served:
        site.at(served).ask(2, run_key)


def test_a_site_follows_its_teacher_into_the_next_log(tmp_path: Path, pki: Pki) -> None:
    site = started(tmp_path, pki)
    for _ in range(3):
        rotate(tmp_path / "teacher")

    go_on(site, tmp_path / "teacher", pki)

    assert site.newest.number == 4
    assert verify_receipts(site.receipts, [KEY]).receipts == 5


def test_a_log_that_is_rotated_while_a_site_asks_is_followed(
    tmp_path: Path, pki: Pki
) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = hospital(tmp_path, pki, "site-a", served)
        site.ask(2)
        first = site.newest
        with site.site.teacher(run_key=b"on", in_flight=1) as teacher:
            for batch, _ in teacher.answer_batches(batches([2] * 4)):
                if batch.step == 1:
                    rotate(tmp_path / "teacher")

        site.compare(first)

    assert (first.number, site.newest.number) == (1, 2)


def test_a_rotation_that_drops_the_tail_is_refused(tmp_path: Path, pki: Pki) -> None:
    site = started(tmp_path, pki)
    shutil.copytree(tmp_path / "teacher", tmp_path / "older")
    go_on(site, tmp_path / "teacher", pki)

    rotate(tmp_path / "older")

    with pytest.raises(LogForkError, match="is no beginning of that of"):
        go_on(site, tmp_path / "older", pki, b"third")
    assert site.mismatches("history") == 1
    assert site.evidence.exists()


def test_a_log_that_begins_with_another_end_is_refused(
    tmp_path: Path, pki: Pki
) -> None:
    """The old log is shown as the site saw it; the new one goes on from another."""
    site = started(tmp_path, pki)
    shutil.copytree(tmp_path / "teacher", tmp_path / "forked")
    go_on(site, tmp_path / "teacher", pki)
    rotate(tmp_path / "teacher")
    rotate(tmp_path / "forked")
    _replace_first_log(tmp_path / "forked", tmp_path / "teacher")

    with pytest.raises(LogForkError, match="does not begin where"):
        go_on(site, tmp_path / "forked", pki, b"third")

    assert site.mismatches("rotation") == 1


def _replace_first_log(folder: Path, source: Path) -> None:
    with sqlite3.connect(folder / "budget.db") as database:
        database.execute("attach ? as source", [str(source / "budget.db")])
        for table in ("audit_leaves", "audit_checkpoints"):
            database.execute(f"delete from {table} where number = 1")  # noqa: S608
            database.execute(
                f"insert into {table} select * from source.{table} where number = 1"  # noqa: S608
            )


def test_a_log_that_went_back_to_the_one_before_it_is_refused(
    tmp_path: Path, pki: Pki
) -> None:
    site = started(tmp_path, pki)
    shutil.copytree(tmp_path / "teacher", tmp_path / "older")
    rotate(tmp_path / "teacher")
    go_on(site, tmp_path / "teacher", pki)

    with pytest.raises(LogForkError, match="forked"):
        go_on(site, tmp_path / "older", pki, b"third")


def test_after_another_key_was_pinned_older_receipts_are_still_verified(
    tmp_path: Path, pki: Pki
) -> None:
    site = started(tmp_path, pki)
    rotate(tmp_path / "teacher")
    new = SigningKey.create()
    with opened(tmp_path / "teacher") as ledger:
        ledger.alter(lambda database: rotate_key(database, ledger.log, new))

    with pytest.raises(NotAuthorizedError):
        _go_on_with(new, site, tmp_path / "teacher", pki)
    repinned = replace(site.site.end_to_end, teacher_key=new.public)
    site.site.end_to_end = repinned
    with pytest.raises(AuditError, match=r"not among teacher\.former_keys"):
        _go_on_with(new, site, tmp_path / "teacher", pki)
    site.site.end_to_end = replace(repinned, former_keys=(KEY,))
    _go_on_with(new, site, tmp_path / "teacher", pki)

    assert site.newest.key == str(new.public)
    assert verify_receipts(site.receipts, [new.public, KEY]).receipts == 5
    for keys in ([new.public], [KEY]):
        with pytest.raises(AuditError, match=r"not among teacher\.former_keys"):
            verify_receipts(site.receipts, keys)


def _go_on_with(key: SigningKey, site: Hospital, folder: Path, pki: Pki) -> None:
    with (
        patch.dict(pki.signing, {TEACHER: key}),
        running(folder, pki, MeanColour()) as served,
    ):
        site.at(served).ask(2, b"later")


def test_a_former_key_signs_nothing_new(tmp_path: Path, pki: Pki) -> None:
    former = SigningKey.create()
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = hospital(tmp_path, pki, "site-a", served)
        ends = replace(site.site.end_to_end, former_keys=(former.public,))
        site.site.end_to_end = ends
        site.ask(2)

        site.compare(forged(site.newest, former))

    assert site.mismatches("signature") == 1
    assert not site.evidence.exists()
