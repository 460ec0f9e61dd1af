from pathlib import Path

import pytest

from tests.support.machine.needs import needs_program, shared_data


def test_a_program_that_is_there_is_found() -> None:
    (shell,) = needs_program("sh")

    assert shell.is_file()


def test_a_missing_program_skips_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOMA_REQUIRE_ALL", raising=False)

    with pytest.raises(pytest.skip.Exception, match="not installed here: no-such"):
        needs_program("sh", "no-such")


def test_where_all_is_required_a_missing_program_fails_its_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOMA_REQUIRE_ALL", "1")

    with pytest.raises(pytest.fail.Exception, match="not installed here: no-such"):
        needs_program("no-such")


def test_shared_data_are_required_of_a_machine_that_has_their_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MOMA_REQUIRE_ALL", "1")
    monkeypatch.setenv("MOMA_SHARED_DATA", str(tmp_path))

    with pytest.raises(pytest.fail.Exception, match="the shared data set slides"):
        shared_data("slides")


def test_a_machine_without_shared_data_skips_what_reads_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MOMA_REQUIRE_ALL", "1")
    monkeypatch.delenv("MOMA_SHARED_DATA", raising=False)
    monkeypatch.setattr("tests.support.machine.needs._PROJECT", tmp_path / "project")

    with pytest.raises(pytest.skip.Exception, match="the shared data set slides"):
        shared_data("slides")
