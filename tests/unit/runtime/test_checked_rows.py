"""A file that decides who is let in is believed as it was written, or not at all."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from moma_core.end_to_end.pinned_sites import PinnedSites, approve
from moma_core.errors import MomaError, NotAuthorizedError
from moma_core.pki.identity import EnrolmentToken, PeerName
from moma_core.pki.revocations import Revocations, read_revocations, revoke, start
from moma_core.runtime.checked_rows import read_rows, write_rows
from moma_server.membership.tokens import TokenStore
from tests.support.teacher.sealed import key_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SERIAL = 2**158 + 12345
_ROWS = TypeAdapter(list[dict[str, str]])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.json"


def flips(path: Path) -> list[bytes]:
    """Returns a file's content with one bit flipped, in each byte two of them."""
    whole = path.read_bytes()
    return [
        whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
        for at in range(len(whole))
        for bit in (1, 1 << at % 7 + 1)
    ]


def test_no_flipped_bit_makes_other_rows(path: Path) -> None:
    rows = [{"name": "site-a", "serial": "1234"}]
    write_rows(path, rows)

    for flipped in flips(path):
        path.write_bytes(flipped)
        try:
            found = read_rows(path, _ROWS)
        except ValueError:
            continue
        assert found == rows  # a space that became a line's end


def test_a_file_without_a_digest_is_read_and_the_next_write_adds_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "revoked.json"
    entry = {"serial": "5", "name": "site-a", "revoked_at": NOW.isoformat()}
    path.write_text(json.dumps([entry]))

    revoke(path, serial=6, name="site-b", now=NOW)

    assert [entry.serial for entry in read_revocations(path)] == [5, 6]
    assert "sha256" in json.loads(path.read_text())


def test_no_flipped_bit_brings_a_revoked_certificate_back(tmp_path: Path) -> None:
    path = tmp_path / "revoked.json"
    start(path)
    revoke(path, serial=SERIAL, name="site-a", now=NOW)

    for flipped in flips(path):
        path.write_bytes(flipped)
        assert SERIAL in Revocations(path)


def test_no_flipped_bit_opens_a_used_token(tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "tokens.json")
    token = EnrolmentToken.create(PeerName("moma", "site", "site-a"), "00" * 32)
    store.create(token, lifetime=timedelta(hours=1), now=NOW)
    with store.spending(token.identifier, token.secret, now=NOW) as (_, spend):
        spend()

    for flipped in flips(tmp_path / "tokens.json"):
        (tmp_path / "tokens.json").write_bytes(flipped)
        with (
            pytest.raises(MomaError, match=r"is used|are damaged"),
            store.spending(token.identifier, token.secret, now=NOW),
        ):
            pass


def test_no_flipped_bit_pins_another_site(tmp_path: Path) -> None:
    path = tmp_path / "approved.json"
    approve(path, site="site-a", key=key_of("site-a").public, now=NOW)
    path.write_text(path.read_text().replace("site-a", "site-c"))

    with pytest.raises(NotAuthorizedError):
        PinnedSites(path).key_of("site-c")
