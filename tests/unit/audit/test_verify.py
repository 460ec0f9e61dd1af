"""A log that was tampered with, and what the auditor is told."""

import io
import json
from pathlib import Path

import pytest

from moma_core.audit import append
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.verify import lines_of, verify_export
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import AuditError, LogForkError
from tests.support.teacher.audit_log import (
    KEY,
    ask,
    edited,
    exported,
    ledger_in,
    query,
    verified,
)

ENTRIES = 12


@pytest.fixture
def lines(tmp_path: Path) -> list[bytes]:
    """An export: its name, an opening entry, eleven queries, a checkpoint."""
    with ledger_in(tmp_path) as ledger:
        for number in range(1, ENTRIES):
            ask(ledger, query(number, "site-b" if number % 3 == 0 else "site-a"))
        return exported(ledger, tmp_path)


def test_an_honest_export_is_verified_and_added_up(lines: list[bytes]) -> None:
    found = verified(lines)

    assert found.entries == ENTRIES
    assert found.logs == ["moma/teacher-a/1"]
    assert {name: site.charged for name, site in found.sites.items()} == {
        "site-a": 16,
        "site-b": 6,
    }
    assert found.to_json()["sites"]["site-b"]["queries"] == {"answered": 3}


def test_an_edited_entry_is_named(lines: list[bytes]) -> None:
    lines[6] = edited(lines[6], patches=200)

    with pytest.raises(
        AuditError, match="moma/teacher-a/1, entry 5: it is not the one"
    ):
        verified(lines)


def test_an_edited_last_entry_is_found_by_the_signature(lines: list[bytes]) -> None:
    lines[12] = edited(lines[12], patches=200)

    with pytest.raises(
        AuditError, match="entries from 0 to 11 are not what was signed"
    ):
        verified(lines)


def test_an_entry_that_is_edited_without_care_is_named(lines: list[bytes]) -> None:
    lines[6] = lines[6].replace(b'"patches":2', b'"patches": 2')

    with pytest.raises(
        AuditError, match="entry 5: the entry is not written in the one"
    ):
        verified(lines)


def test_a_dropped_entry_is_named(lines: list[bytes]) -> None:
    del lines[6]

    with pytest.raises(AuditError, match="entry 5: entry 6 stands where it should be"):
        verified(lines)


def test_swapped_entries_are_named(lines: list[bytes]) -> None:
    lines[6], lines[7] = lines[7], lines[6]

    with pytest.raises(AuditError, match="entry 5: entry 6 stands where it should be"):
        verified(lines)


def test_a_doubled_entry_is_named(lines: list[bytes]) -> None:
    lines.insert(6, lines[6])

    with pytest.raises(AuditError, match="entry 6: entry 5 stands where it should be"):
        verified(lines)


def test_a_log_whose_end_is_cut_off_is_found(lines: list[bytes]) -> None:
    with pytest.raises(AuditError, match="entry 0: no signature covers it"):
        verified(lines[:-1])
    with pytest.raises(AuditError, match="entry 9: it is missing: 12 entries were"):
        verified([*lines[:-4], lines[-1]])


def test_a_file_that_is_cut_in_a_line_is_found(lines: list[bytes]) -> None:
    file = io.BytesIO(b"\n".join(lines)[:-10])

    with pytest.raises(AuditError, match="ends in the middle of a line"):
        verify_export(lines_of(file), KEY.public)


def test_a_rewritten_log_is_found_by_its_signature(
    lines: list[bytes], tmp_path: Path
) -> None:
    forger = SigningKey.create()
    other = tmp_path / "forged"
    other.mkdir()
    with ledger_in(other, forger) as ledger:
        for number in range(1, ENTRIES):
            ask(ledger, query(number, charged=0))
        forged = exported(ledger, other)

    with pytest.raises(AuditError, match="never signed by"):
        verified(forged)
    with pytest.raises(AuditError, match="is signed by"):
        verified([*forged[:-1], lines[-1]])


def test_a_forged_checkpoint_is_found(lines: list[bytes]) -> None:
    end = json.loads(lines[-1])
    end["checkpoint"]["size"] = 11
    short = [*lines[:-2], json.dumps(end).encode()]

    with pytest.raises(AuditError, match=r"signature of the checkpoint .* is forged"):
        verified(short)


def test_a_log_cut_back_to_an_earlier_signed_state_is_found_by_who_saw_more(
    tmp_path: Path,
) -> None:
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))
        early = exported(ledger, tmp_path)
        ask(ledger, query(2))
        late = exported(ledger, tmp_path)
    shown = Checkpoint.model_validate(json.loads(late[-1])["checkpoint"])

    assert verified(early).entries == 2  # signed, and by itself as good as any
    assert verified(late, known=(shown,)).entries == 3
    with pytest.raises(AuditError, match=r"had 3 entries when .* signed it for others"):
        verified(early, known=(shown,))


def test_a_log_with_two_faces_is_found_by_who_saw_the_other(tmp_path: Path) -> None:
    faces = []
    for name, site in (("one", "site-a"), ("two", "site-b")):
        (tmp_path / name).mkdir()
        with ledger_in(tmp_path / name) as ledger:
            ask(ledger, query(1, site))
            faces.append(exported(ledger, tmp_path / name))
    shown = Checkpoint.model_validate(json.loads(faces[1][-1])["checkpoint"])

    with pytest.raises(LogForkError, match="first 2 entries are not those"):
        verified(faces[0], known=(shown,))


def test_checkpoints_on_the_way_give_a_fault_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "KEPT_EVERY", 4)
    with ledger_in(tmp_path) as ledger:
        for number in range(1, ENTRIES):
            ask(ledger, query(number))
        lines = exported(ledger, tmp_path)
    second = 6 + 4  # name, four entries, checkpoint, four entries
    assert lines[second].startswith(b'{"checkpoint":')
    lines[second - 1] = edited(lines[second - 1], patches=200)

    with pytest.raises(AuditError, match="entries from 4 to 7 are not what was signed"):
        verified(lines)


def test_the_order_of_shown_checkpoints_hides_none(tmp_path: Path) -> None:
    faces = []
    for name, site in (("one", "site-a"), ("two", "site-b")):
        (tmp_path / name).mkdir()
        with ledger_in(tmp_path / name) as ledger:
            ask(ledger, query(1, site))
            faces.append(exported(ledger, tmp_path / name))
    true, lie = (
        Checkpoint.model_validate(json.loads(face[-1])["checkpoint"]) for face in faces
    )

    for known in ((true, lie), (lie, true)):
        with pytest.raises(LogForkError):
            verified(faces[0], known=known)


def test_a_checkpoint_that_nobody_signed_accuses_nobody(lines: list[bytes]) -> None:
    end = Checkpoint.model_validate(json.loads(lines[-1])["checkpoint"])
    forged = end.model_copy(update={"root": "0" * 64})
    further = end.model_copy(update={"size": end.size + 1})

    for known in (forged, further):
        with pytest.raises(AuditError, match=r"signature .* is forged") as found:
            verified(lines, known=(known,))
        assert not isinstance(found.value, LogForkError)


def test_a_line_that_is_nested_too_deep_is_not_readable() -> None:
    with pytest.raises(AuditError, match="not readable"):
        verified([b'{"format":' + b"[" * 20_000])


def test_a_file_that_is_no_export_is_refused() -> None:
    for lines, why in (
        ([], "holds no log"),
        ([b"hello"], "does not begin with the name of a log"),
        ([b'{"format":"other"}'], "no export of the form"),
    ):
        with pytest.raises(AuditError, match=why):
            verified(lines)
