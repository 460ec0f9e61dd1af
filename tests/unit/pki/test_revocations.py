import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from moma_core.errors import CertificateError
from moma_core.pki import revocations
from moma_core.pki.revocations import (
    Revocations,
    learn,
    read_revocations,
    revoke,
    start,
)
from moma_core.runtime.files import write_private

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SERIAL = 2**159 - 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "revoked.json"
    start(path)
    return path


def test_a_revocation_is_seen_by_who_had_read_the_file_before(path: Path) -> None:
    revocations = Revocations(path)
    was_revoked = SERIAL in revocations

    revoke(path, serial=SERIAL, name="site-a", now=NOW)

    assert not was_revoked
    assert SERIAL in revocations
    assert SERIAL - 1 not in revocations


def test_the_file_says_whose_certificate_was_revoked_and_when(path: Path) -> None:
    revoke(path, serial=SERIAL, name="site-a", now=NOW)
    revoke(path, serial=SERIAL, name="site-a", now=NOW)  # changes nothing

    (entry,) = read_revocations(path)

    assert (entry.serial, entry.name, entry.revoked_at) == (SERIAL, "site-a", NOW)


def test_two_writers_lose_no_revocation(path: Path) -> None:
    with ThreadPoolExecutor(8) as writers:
        revoke_one = partial(revoke, path, name="site-a", now=NOW)
        list(writers.map(lambda serial: revoke_one(serial=serial), range(1, 25)))

    assert {entry.serial for entry in read_revocations(path)} == set(range(1, 25))


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", '[{"serial": "x"}]', '[{"serial": "1", "name": "site-a"}]'],
)
def test_a_damaged_file_refuses_everybody_until_it_is_mended(
    path: Path, content: str
) -> None:
    revocations = Revocations(path)
    sound = path.read_text()

    path.write_text(content)
    refused = SERIAL in revocations
    with pytest.raises(CertificateError, match="damaged"):
        revoke(path, serial=SERIAL, name="site-a", now=NOW)
    write_private(path, sound.encode())

    assert refused
    assert SERIAL not in revocations


def test_a_missing_file_refuses_everybody(path: Path) -> None:
    revocations = Revocations(path)

    path.unlink()

    assert SERIAL in revocations


def test_starting_anew_keeps_what_was_revoked(path: Path) -> None:
    revoke(path, serial=SERIAL, name="site-a", now=NOW)

    start(path)

    assert SERIAL in Revocations(path)
    assert json.loads(path.read_text())["rows"][0]["serial"] == str(SERIAL)


def test_lists_without_an_end_do_not_grow_the_file_and_the_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "MOST_LEARNT", 5)
    learn(path, range(1, 5), name="the list", now=NOW)

    with pytest.raises(CertificateError, match=r"with 2 more .* would hold over 5"):
        learn(path, range(4, 7), name="the list", now=NOW)

    assert {entry.serial for entry in read_revocations(path)} == set(range(1, 5))
    assert learn(path, range(1, 6), name="the list", now=NOW) == 1


def test_a_serial_that_no_certificate_has_does_not_damage_the_file(path: Path) -> None:
    assert learn(path, [0, 7, 2**160], name="the list", now=NOW) == 1
    assert {entry.serial for entry in read_revocations(path)} == {7}


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"serial": "0"}, "greater than 0"),
        ({"serial": str(2**159)}, "less than or equal"),
        ({"revoked_at": "0026-03-01T12:00:00Z"}, "greater than or equal"),
        ({"nam\u00e5": "x"}, "Unexpected keyword argument"),
    ],
)
def test_what_no_list_can_hold_is_refused_without_a_digest_too(
    path: Path, entry: dict[str, str], fault: str
) -> None:
    sound = {"serial": "5", "name": "site-a", "revoked_at": "2026-03-01T12:00:00Z"}
    path.write_text(json.dumps([sound | entry]))

    with pytest.raises(CertificateError, match=f"damaged: .*{fault}"):
        read_revocations(path)
