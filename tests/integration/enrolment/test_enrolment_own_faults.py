"""What is wrong with the coordinator's own files is its operator's to know alone."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moma_core.errors import MomaError
from moma_core.pki.certificates import create_key, life
from moma_core.pki.key_files import create_node_key
from moma_server.config.server import ServerConfig
from moma_server.membership import members, renewal
from moma_server.membership.members import member_folder, token_store
from tests.support.federation.enrolment_port import (
    OpenDesk,
    enrolled,
    link,
    make_coordinator,
    new_site,
    open_desk,
    refusals,
)
from tests.support.machine.disks import fill, small_disk
from tests.unit.pki.test_odd_certificates import odd_version


def _unreadable(path: Path) -> None:
    path.write_bytes(b"damaged")
    path.chmod(0o600)


FAULTS: dict[str, Callable[[ServerConfig], None]] = {
    "the CA's key is open": lambda c: (_key(c)).chmod(0o644),
    "the CA's key is gone": lambda c: (_key(c)).unlink(),
    "the CA's key is damaged": lambda c: _unreadable(_key(c)),
    "the CA's certificate is gone": lambda c: c.authority.certificate.unlink(),
    "the CA's certificate is damaged": lambda c: _unreadable(c.authority.certificate),
    "the revocations are gone": lambda c: c.authority.revoked.unlink(),
    "the revocations are damaged": lambda c: _unreadable(c.authority.revoked),
    "the tokens are damaged": lambda c: _unreadable(c.state_dir / "tokens.json"),
    "a member's file is damaged": lambda c: _unreadable(
        member_folder(c) / "site.site-a.1.pem"
    ),
}


def _key(config: ServerConfig) -> Path:
    assert config.authority.key is not None
    return config.authority.key


@pytest.mark.parametrize("fault", FAULTS)
def test_a_stranger_is_told_no_path_and_nothing_of_the_key(
    tmp_path: Path, desk: OpenDesk, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    asking, token = link(desk), desk.token()
    site = new_site(tmp_path / "site")
    enrolled(site, desk, desk.token())
    own = site.identity.certificate.read_bytes(), site.identity.key.read_bytes()
    FAULTS[fault](desk.config)

    told = []
    for call in (
        lambda: asking.enrol(token, create_key(), create_node_key().public),
        lambda: asking.renew(*own),
        asking.revoked,
    ):
        try:
            call()
        except MomaError as error:
            told.append(str(error).replace("spiffe://", ""))

    assert told
    for sentence in told:
        assert "/" not in sentence
        assert "authority.key" not in sentence
        assert "0644" not in sentence
    assert "Traceback" not in caplog.text or "certificate is" in fault


def test_a_certificate_of_an_odd_version_is_refused_and_written_down(
    desk: OpenDesk, caplog: pytest.LogCaptureFixture
) -> None:
    asking = link(desk)
    key = create_key()
    odd = odd_version(key)

    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(MomaError, match="cannot be read"),
    ):
        asking.renew(odd, key)

    assert "cannot be read" in refusals(desk)[0]["reason"]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("writer", ["token", "certificate", "journal"])
def test_a_disk_that_is_full_costs_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        config = make_coordinator(disk / "coordinator")
        with open_desk(config) as desk:
            token = desk.token()
            site = new_site(tmp_path / "site")
            filler: list[Path] = []
            _full_before(monkeypatch, writer, lambda: filler.append(fill(disk)))

            with pytest.raises(MomaError) as raised:
                enrolled(site, desk, token)
            monkeypatch.undo()
            filler[0].unlink()
            known = token_store(config).find(token.identifier)

            assert "/" not in str(raised.value).replace("spiffe://", "")
            assert known is not None
            assert known.state(datetime.now(UTC)) == "open"
            assert enrolled(site, desk, token)


def _full_before(
    monkeypatch: pytest.MonkeyPatch, writer: str, full: Callable[[], None]
) -> None:
    """Fills the disk in the moment before one of an enrolment's writes."""
    targets = {
        "certificate": (members, "file_certificate"),
        "token": (members.TokenStore, "_replace"),
        "journal": (_journal(), "note"),
    }
    owner, name = targets[writer]
    honest = getattr(owner, name)

    def late(*values: object, **named: object) -> object:
        full()
        return honest(*values, **named)

    monkeypatch.setattr(owner, name, late)


def _journal() -> type:
    from moma_server.enrolment.service import EnrolmentJournal

    return EnrolmentJournal


def test_a_certificate_of_a_clock_that_was_ahead_is_not_given_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_coordinator(tmp_path / "coordinator", hours=1)
    with open_desk(config) as desk:
        site = new_site(tmp_path / "site")
        enrolled(site, desk, desk.token())
        own = site.identity.certificate.read_bytes(), site.identity.key.read_bytes()
        present = datetime.now(UTC)

        monkeypatch.setattr(renewal, "utc_now", lambda: present + timedelta(minutes=55))
        ahead = link(desk).renew(*own)
        monkeypatch.setattr(renewal, "utc_now", lambda: present)
        second = link(desk).renew(*own)

    assert life(ahead)[0] > present + timedelta(minutes=50)  # its member refuses it
    assert life(second)[0] <= present + timedelta(minutes=5)
