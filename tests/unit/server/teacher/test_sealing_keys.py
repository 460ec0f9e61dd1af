"""Sealing keys come and go; messages that act at once are taken once."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from moma_core.end_to_end.hpke import SUITES
from moma_core.errors import (
    CertificateError,
    NotAuthorizedError,
)
from moma_server.teacher.end_to_end.identity import (
    CERTAIN_SECONDS,
    KEY_LIFETIME,
    OVERLAP,
    ROTATION_AGE,
    SealingKeys,
)
from tests.support.machine.clock import Clock, SecondsClock

SECOND = timedelta(seconds=1)


def test_a_key_is_replaced_then_used_no_more_then_gone(tmp_path: Path) -> None:
    clock, seconds, path = Clock(), SecondsClock(), tmp_path / "sealing.json"
    keys = SealingKeys(path, SUITES, clock, seconds)
    first = keys.offers()
    secret = keys.find(first[0].key.key_id).raw.hex()

    clock.now += ROTATION_AGE
    second = keys.offers()
    assert {offer.key for offer in first}.isdisjoint(offer.key for offer in second)
    assert keys.find(first[0].key.key_id).raw.hex() == secret

    clock.now = first[0].not_after + OVERLAP + SECOND
    with pytest.raises(NotAuthorizedError):
        keys.find(first[0].key.key_id)
    keys.offers()
    seconds.seconds += CERTAIN_SECONDS
    keys.offers()
    assert secret not in path.read_text()
    assert KEY_LIFETIME > ROTATION_AGE


def _two_generations(
    path: Path, clock: Clock, seconds: SecondsClock
) -> tuple[SealingKeys, str]:
    """Returns keys of which the older ones are over, and none is due."""
    keys = SealingKeys(path, SUITES, clock, seconds)
    old = keys.offers()[0]
    secret = keys.find(old.key.key_id).raw.hex()
    clock.now = old.not_after - SECOND
    newest = keys.offers()
    clock.now = old.not_after + OVERLAP + SECOND
    assert secret in path.read_text()
    assert clock.now < newest[0].not_after - ROTATION_AGE
    return keys, secret


def test_a_key_is_deleted_when_its_time_is_over_and_none_is_due(tmp_path: Path) -> None:
    clock, seconds, path = Clock(), SecondsClock(), tmp_path / "sealing.json"
    keys, secret = _two_generations(path, clock, seconds)
    newest = json.loads(path.read_text())[-1]

    keys.rotate_if_due()
    was_there = secret in path.read_text()  # the clock may be wrong
    seconds.seconds += CERTAIN_SECONDS
    keys.rotate_if_due()

    assert was_there
    assert secret not in path.read_text()
    assert json.loads(path.read_text())[-1] == newest


def test_keys_that_were_over_at_a_start_are_deleted_soon(tmp_path: Path) -> None:
    clock, seconds, path = Clock(), SecondsClock(), tmp_path / "sealing.json"
    _, secret = _two_generations(path, clock, seconds)

    keys = SealingKeys(path, SUITES, clock, seconds)
    seconds.seconds += CERTAIN_SECONDS
    keys.rotate_if_due()

    assert secret not in path.read_text()


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_keys_that_others_can_read_are_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "sealing.json"
    SealingKeys(path, SUITES, Clock())
    path.chmod(mode)

    with pytest.raises(CertificateError, match=f"mode {mode:04o}, so others can read"):
        SealingKeys(path, SUITES, Clock())


def test_replicas_share_their_keys_and_the_file_is_its_owners(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "sealing.json"
    one, other = (SealingKeys(path, SUITES, clock) for _ in range(2))
    clock.now += ROTATION_AGE

    assert one.offers() == other.offers()
    assert path.stat().st_mode & 0o077 == 0


def test_a_key_that_nobody_made_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(NotAuthorizedError, match="no sealing key"):
        SealingKeys(tmp_path / "sealing.json", SUITES, Clock()).find(b"k" * 16)
