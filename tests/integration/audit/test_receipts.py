"""A site keeps what proves its queries, and finds a log that forked."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moma_client.audit.receipts import read_receipts, verify_receipts
from moma_client.teacher.sealed_client import SealedTeacherClient
from moma_core.audit.reconcile import reconcile
from moma_core.audit.rotation import rotate_log
from moma_core.errors import AuditError, LogForkError
from moma_core.runtime.files import append_line
from moma_core.teacher.card.bounds import RequestBounds
from moma_core.teacher.query import PatchQuery
from moma_proto.convert import teacher as convert
from moma_proto.convert.audit import receipt_to_wire
from moma_proto.v1 import teacher_pb2 as pb
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import (
    ScriptedTeacher,
    Site,
    batches,
    follow_all,
    running,
    scripted,
    true_answer,
)
from tests.support.teacher.sealed import TEACHER, key_of
from tests.support.teacher.small_log import SmallLog
from tests.support.teacher.teacher_server import CARD, SIDE_PX, MeanColour, ledger_in

KEY = key_of(TEACHER).public


def keeping(site: Site, folder: Path) -> Path:
    """Makes a site keep its receipts, and returns where."""
    path = folder / "receipts" / "teacher-a.jsonl"
    site.end_to_end = replace(site.end_to_end, receipts=path)
    return path


def answer_batches(site: Site, run_key: bytes) -> None:
    with site.teacher(run_key=run_key) as teacher:
        list(teacher.answer_batches(batches([2] * 3)))


def test_every_answer_has_a_receipt_that_the_log_agrees_with(
    tmp_path: Path, pki: Pki
) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = Site(tmp_path / "site", pki, served.port)
        path = keeping(site, tmp_path)
        answer_batches(site, b"first")
        answer_batches(site, b"second")
        charged = served.budget.charged("site-a")

    kept = verify_receipts(path, [KEY])
    assert (kept.receipts, kept.patches) == (6, charged)
    assert path.stat().st_mode & 0o077 == 0
    ledger = ledger_in(tmp_path / "teacher", TEACHER, {}, lambda: datetime.now(UTC))
    found = ledger.read(
        lambda database: reconcile(
            database, ledger, read_receipts(path), ledger.log.keys(database)
        )
    )
    ledger.budget.close()
    assert (found.receipts, found.mismatches) == (6, 0)


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        ("none", "has no receipt"),
        ("key", "is signed by .* not by"),
        ("other query", "of another query"),
        ("content", "other content"),
        ("charge", "answered and 1000000 patches charged, of a query of"),
        ("denial", "says denied and 0 patches charged"),
        ("model", "of another teacher or other outputs"),
        ("outputs", "of another teacher or other outputs"),
    ],
)
def test_an_answer_whose_receipt_is_not_true_is_not_used(
    tmp_path: Path, pki: Pki, forge: str, reason: str
) -> None:
    def answers(requests: Iterator[pb.EmbedRequest], _: Any) -> Iterator[Any]:
        for request in requests:
            answer = true_answer(request)
            if forge != "none":
                answer.receipt.CopyFrom(_forged(teacher, request, forge))
            yield answer

    teacher = ScriptedTeacher(answers)
    teacher.has_log = forge != "none"
    with scripted(pki, teacher) as port:
        site = Site(tmp_path, pki, port)
        with pytest.raises(AuditError, match=reason):
            follow_all(site)


def _forged(teacher: ScriptedTeacher, request: pb.EmbedRequest, forge: str) -> Any:
    query = convert.query_from_wire(request, RequestBounds(SIDE_PX, 16))
    log = SmallLog(key_of("nobody")) if forge == "key" else teacher.log
    if forge == "other query":
        query = replace(query, request_id=bytes(16))
    if forge == "content":
        query = replace(query, pixels=255 - query.pixels)
    said = _LIES.get(forge, {})
    return receipt_to_wire(log.receipt("site-a", query, teacher.card, **said))


_LIES: dict[str, dict[str, Any]] = {
    "charge": {"charged": 1_000_000},
    "denial": {"outcome": "denied", "charged": 0, "outputs": "", "reason": "rate"},
    "model": {"teacher": "ab" * 32},
    "outputs": {"outputs": "embedding"},
}


def test_a_request_that_is_charged_twice_is_found(tmp_path: Path) -> None:
    log, path = SmallLog(key_of(TEACHER)), tmp_path / "receipts.jsonl"
    query = PatchQuery(bytes(16), np.zeros((3, SIDE_PX, SIDE_PX, 3), np.uint8))
    for charged in (3, 0, 3):
        receipt = log.receipt("site-a", query, CARD, charged=charged)
        append_line(path, receipt.to_json().encode())

    with pytest.raises(AuditError, match="was charged more than once"):
        verify_receipts(path, [KEY])


def test_a_log_that_was_put_back_is_found_and_both_faces_are_kept(
    tmp_path: Path, pki: Pki
) -> None:
    folder = tmp_path / "teacher"
    with running(folder, pki, MeanColour()) as served:
        site = Site(tmp_path / "site", pki, served.port)
        path = keeping(site, tmp_path)
        answer_batches(site, b"first")
    shutil.copytree(folder, tmp_path / "older")
    with running(folder, pki, MeanColour()) as served:
        site.address = replace(site.address, address=f"localhost:{served.port}")
        answer_batches(site, b"second")

    with running(tmp_path / "older", pki, MeanColour()) as served:
        site.address = replace(site.address, address=f"localhost:{served.port}")
        with pytest.raises(LogForkError, match="forked"):
            answer_batches(site, b"third")

    evidence = json.loads(path.with_suffix(".evidence.json").read_text())
    assert evidence[0]["size"] != evidence[1]["size"]


def test_receipts_that_a_crash_lost_are_fetched_again(tmp_path: Path, pki: Pki) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = Site(tmp_path / "site", pki, served.port)
        path = keeping(site, tmp_path)
        answer_batches(site, b"first")
        whole = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(whole[:1]))

        with site.teacher() as teacher:
            fetched = teacher.fetch_receipts()
        with site.teacher() as teacher:
            again = teacher.fetch_receipts()
        charged = served.budget.charged("site-a")

    assert (fetched, again) == (2, 0)
    kept = verify_receipts(path, [KEY])
    assert (kept.receipts, kept.patches) == (3, charged)


def test_receipts_of_a_closed_log_are_fetched_too(tmp_path: Path, pki: Pki) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = Site(tmp_path / "site", pki, served.port)
        path = keeping(site, tmp_path)
        answer_batches(site, b"first")
        ledger = ledger_in(tmp_path / "teacher", TEACHER, {}, lambda: datetime.now(UTC))
        ledger.alter(lambda database: rotate_log(database, ledger.log))
        ledger.budget.close()
        answer_batches(site, b"second")
        whole = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(whole[2:5]))

        with site.teacher() as teacher:
            fetched = teacher.fetch_receipts()
        answer_batches(
            site, b"third"
        )  # and the site still knows which state is the newest

    assert fetched == 3
    assert verify_receipts(path, [KEY]).receipts == 9


def test_an_older_log_that_a_carrier_shows_hides_no_receipts(
    tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = Site(tmp_path / "site", pki, served.port)
        path = keeping(site, tmp_path)
        answer_batches(site, b"first")
        older = next(read_receipts(path)).checkpoint
        ledger = ledger_in(tmp_path / "teacher", TEACHER, {}, lambda: datetime.now(UTC))
        ledger.alter(lambda database: rotate_log(database, ledger.log))
        ledger.budget.close()
        answer_batches(site, b"second")
        whole = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(whole[:3]))
        monkeypatch.setattr(
            SealedTeacherClient, "latest_checkpoint", lambda _self, _origin: older
        )

        with site.teacher() as teacher:
            fetched = teacher.fetch_receipts()

    assert fetched == 3
    assert verify_receipts(path, [KEY]).receipts == 6


def test_a_line_that_a_crash_cut_is_lost_alone(tmp_path: Path, pki: Pki) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = Site(tmp_path / "site", pki, served.port)
        path = keeping(site, tmp_path)
        answer_batches(site, b"first")
        path.write_bytes(path.read_bytes()[:-100])

        answer_batches(site, b"second")
        kept = verify_receipts(path, [KEY]).receipts
        with site.teacher() as teacher:
            fetched = teacher.fetch_receipts()

    assert (kept, fetched) == (5, 1)


def test_two_receipts_of_one_entry_count_once(tmp_path: Path, pki: Pki) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = Site(tmp_path / "site", pki, served.port)
        path = keeping(site, tmp_path)
        answer_batches(site, b"first")
    once = verify_receipts(path, [KEY])

    path.write_bytes(path.read_bytes() * 2)

    assert verify_receipts(path, [KEY]) == once


def test_a_line_that_a_crash_cut_is_no_receipt_and_a_changed_one_is_found(
    tmp_path: Path, pki: Pki
) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = Site(tmp_path / "site", pki, served.port)
        path = keeping(site, tmp_path)
        answer_batches(site, b"first")
    lines = path.read_bytes()

    path.write_bytes(lines + lines[:100])
    assert verify_receipts(path, [KEY]).receipts == 3

    path.write_bytes(lines.replace(b'charged\\":2', b'charged\\":1', 1))
    with pytest.raises(AuditError):
        verify_receipts(path, [KEY])

    first, rest = lines.split(b"\n", 1)
    path.write_bytes(first + b"\nno receipt\n" + rest)
    with pytest.raises(
        AuditError, match=r"teacher-a\.jsonl line 2: the receipt breaks"
    ):
        verify_receipts(path, [KEY])
