"""Records survive a crash at any byte, and say where a run stands."""

from pathlib import Path

import pytest

from moma_core.errors import CheckpointError
from moma_server.federation.run.records import (
    Outcome,
    RecordFile,
    RoundRecord,
    SiteEntry,
    ending,
    next_round,
)


def record(
    number: int,
    outcome: Outcome = "completed",
    *,
    kind: str = "train",
    run: str = "r1",
) -> RoundRecord:
    return RoundRecord.model_validate(
        {
            "kind": kind,
            "run": run,
            "round": number,
            "outcome": outcome,
            "started_at": 1.0,
            "seconds": 2.0,
            "sites": {
                "site-a": SiteEntry(state="took_part", patches=3).model_dump(),
                "site-b": SiteEntry(state="away", reason="gone").model_dump(),
            },
        }
    )


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    records = RecordFile(tmp_path / "records.jsonl")

    records.append(record(1))
    records.append(record(2))

    assert [r.round for r in records.read()] == [1, 2]
    assert records.read()[0].took_part == ["site-a"]


def test_the_tail_holds_only_what_is_new(tmp_path: Path) -> None:
    records = RecordFile(tmp_path / "records.jsonl")
    records.append(record(1))
    offset = records.tail(0)[1]

    records.append(record(2))

    assert [r.round for r in records.tail(offset)[0]] == [2]
    assert records.tail(records.tail(offset)[1])[0] == []


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_line_cut_by_a_crash_is_no_record(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "records.jsonl"
    records = RecordFile(path)
    records.append(record(1))
    records.append(record(2))
    path.write_bytes(path.read_bytes()[:-cut])
    before = [r.round for r in records.read()]

    records.append(record(3))

    assert before == [1]
    whole = [1, 2, 3] if cut == 1 else [1, 3]  # only the line's end was missing
    assert [r.round for r in records.read()] == whole


def _torn_lines() -> list[bytes]:
    line = record(2).model_dump_json().encode()
    inner = line.index(b"}") + 1  # of the first site
    return [
        line[:inner],
        line[:-1] + b'"}',
        bytes(len(line) - 1) + b"}",
        line[:40] + bytes(len(line) - 41) + b"}",
        line[:60] + line[80:],
        line[inner:],
        line[:50] + b"\xff\xfe" + line[52:],
        line + line[:inner],
        line[:30] + b"\x0b\x85\r" + line[30:],
    ]


@pytest.mark.parametrize("torn", _torn_lines())
def test_a_torn_line_does_not_block_a_run_wherever_it_stands(
    tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "records.jsonl"
    records = RecordFile(path)
    records.append(record(1))
    with path.open("ab") as file:
        file.write(torn + b"\n")
    records.append(record(3))

    found = [r.round for r in records.read()]

    assert found == [1, 3]
    assert "a torn line is passed over" in caplog.text


@pytest.mark.parametrize("torn", _torn_lines())
def test_a_torn_last_line_gives_way_to_the_next(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "records.jsonl"
    records = RecordFile(path)
    records.append(record(1))
    with path.open("ab") as file:
        file.write(torn)

    records.append(record(2))

    assert [r.round for r in records.read()] == [1, 2]
    assert path.read_bytes().count(b"\n") == 2


def test_a_damaged_line_is_an_error_and_not_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"round": "none"}\n')

    with pytest.raises(CheckpointError, match="records"):
        RecordFile(path).read()


def test_no_file_means_no_records(tmp_path: Path) -> None:
    records = RecordFile(tmp_path / "records.jsonl")

    assert records.read() == []
    assert records.tail(0)[1] == 0


def test_the_next_round_is_the_one_after_the_last_completed() -> None:
    records = [
        record(1),
        record(2, "missed_quorum"),
        record(2),
        record(3, "missed_quorum"),
        record(9, run="other"),
    ]

    assert next_round(records, "r1") == 3
    assert next_round([], "r1") == 1


def test_a_runs_end_is_found() -> None:
    end = record(2, "finished", kind="run")

    assert ending([record(1), end], "r1") is end
    assert ending([record(1), end], "other") is None
