"""Whose signature counts is the teacher's owner's to say, and nobody else's."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from moma_core.end_to_end.pinned_sites import PinnedSites, approve, forget
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import ConfigError, NotAuthorizedError

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEY = SigningKey.create().public


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "approved.json"
    approve(path, site="site-a", key=KEY, now=NOW)
    return path


def test_an_approved_site_counts_until_it_is_forgotten(path: Path) -> None:
    pinned_sites = PinnedSites(path)
    assert pinned_sites.key_of("site-a") == KEY

    forget(path, "site-a")

    with pytest.raises(NotAuthorizedError, match="approved no key"):
        pinned_sites.key_of("site-a")


def test_a_site_that_nobody_approved_has_no_key(path: Path) -> None:
    with pytest.raises(NotAuthorizedError):
        PinnedSites(path).key_of("site-b")


def test_another_key_takes_no_sites_place(path: Path) -> None:
    with pytest.raises(ConfigError, match="forget that one first"):
        approve(path, site="site-a", key=SigningKey.create().public, now=NOW)

    assert PinnedSites(path).key_of("site-a") == KEY


@pytest.mark.parametrize("content", [None, b"", b"[{}]", b"not JSON"])
def test_a_missing_or_damaged_list_serves_nobody(
    path: Path, content: bytes | None
) -> None:
    pinned_sites = PinnedSites(path)
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    for each in (pinned_sites, PinnedSites(path)):
        with pytest.raises(NotAuthorizedError):
            each.key_of("site-a")


def test_a_new_teacher_has_no_approvals_yet_and_that_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        pinned_sites = PinnedSites(tmp_path / "approved.json")
        for _ in range(3):
            with pytest.raises(NotAuthorizedError, match="approved no key"):
                pinned_sites.key_of("site-a")
    with pytest.raises(ConfigError, match="site-a is not approved"):
        forget(tmp_path / "approved.json", "site-a")

    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "no approvals yet" in record.message


def test_approvals_that_were_there_and_are_gone_are_an_error(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pinned_sites = PinnedSites(path)
    path.unlink()

    with pytest.raises(NotAuthorizedError):
        pinned_sites.key_of("site-a")

    assert [record.levelno for record in caplog.records] == [logging.ERROR]
