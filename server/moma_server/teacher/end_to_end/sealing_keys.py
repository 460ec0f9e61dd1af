"""The keys that questions are sealed to: made here, offered for a while, then gone.

A key is offered until a newer one of its suite is there, and is used for a day beyond
its last moment, so that what was sealed just before still opens. Then the next look
deletes it: who finds the teacher's disk later cannot read what was recorded before.
Replicas of one teacher share the file.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from moma_core.end_to_end.hpke import SealingKey, SuiteName
from moma_core.errors import CertificateError, NotAuthorizedError
from moma_core.pki.key_files import read_private
from moma_core.runtime.files import Stamp, locked, stat_fingerprint, write_private
from moma_core.teacher.card.signed import SealingOffer

_logger = logging.getLogger(__name__)

KEY_LIFETIME = timedelta(days=14)
ROTATION_AGE = timedelta(days=7)
OVERLAP = timedelta(days=1)


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: SuiteName
    private: str
    made_at: AwareDatetime
    not_after: AwareDatetime


_KEPT = TypeAdapter(tuple[_Kept, ...])


@dataclass(frozen=True, slots=True)
class _Held:
    key: SealingKey
    kept: _Kept


class SealingKeys:
    """A teacher's sealing keys; follows the file as another replica changes it.

    Safe to ask from several threads.

    Args:
        path: The file, for its owner only; made where it is missing.
        suites: Those that are offered.
        clock: Gives the time, with a time zone.

    Raises:
        CertificateError: The file is damaged, or open to others; it is left alone.
    """

    def __init__(
        self,
        path: Path,
        suites: Sequence[SuiteName],
        clock: Callable[[], datetime],
    ) -> None:
        self._path = path
        self._suites = tuple(suites)
        self._clock = clock
        self._known: tuple[Stamp | None, tuple[_Held, ...]] = (None, ())
        self.offers()

    def offers(self) -> tuple[SealingOffer, ...]:
        """Returns the newest key of each suite; makes those that are due."""
        newest = self._newest(self.look())
        held = [newest[suite] for suite in self._suites]
        return tuple(SealingOffer(one.key.public, one.kept.not_after) for one in held)

    def look(self) -> tuple[_Held, ...]:
        """Makes the keys that are due, deletes those that are over, returns the rest.

        Raises:
            CertificateError: The file is damaged, or open to others; it is left alone.
        """
        keys = self._refresh()
        newest = self._newest(keys)
        is_due = any(self._is_due(newest.get(suite)) for suite in self._suites)
        return self._rotate() if is_due or any(map(self._is_over, keys)) else keys

    def find(self, key_id: bytes) -> SealingKey:
        """Returns the key that something was sealed to.

        Raises:
            NotAuthorizedError: There is none, or its time is over.
        """
        for held in (*self._known[1], *self._refresh()):
            if held.key.public.key_id != key_id:
                continue
            if self._is_over(held):
                end = held.kept.not_after.isoformat()
                raise NotAuthorizedError(f"the sealing key of the query ended at {end}")
            return held.key
        raise NotAuthorizedError(f"there is no sealing key {key_id.hex()[:32]!r} here")

    def _is_due(self, newest: _Held | None) -> bool:
        return newest is None or self._clock() >= newest.kept.made_at + ROTATION_AGE

    def _is_over(self, held: _Held) -> bool:
        return self._clock() > held.kept.not_after + OVERLAP

    def _newest(self, keys: tuple[_Held, ...]) -> dict[SuiteName, _Held]:
        return {one.kept.suite: one for one in keys}  # the file has the oldest first

    def _rotate(self) -> tuple[_Held, ...]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._path.parent):  # another replica may have been first
            keys = self._refresh()
            now, newest = self._clock(), self._newest(keys)
            made = [
                _Kept(
                    suite=suite,
                    private=SealingKey.create(suite).raw.hex(),
                    made_at=now,
                    not_after=(now + KEY_LIFETIME).replace(microsecond=0),
                )
                for suite in self._suites
                if self._is_due(newest.get(suite))
            ]
            left = [one.kept for one in keys if not self._is_over(one)]
            write_private(self._path, _KEPT.dump_json((*left, *made), indent=2))
        for key in made:
            _logger.info("a new sealing key of suite %s is offered", key.suite)
        return self._refresh()

    def _refresh(self) -> tuple[_Held, ...]:
        stamp = self._stamp()
        known_fingerprint, keys = self._known
        if stamp != known_fingerprint:
            keys = () if stamp is None else self._read()
            self._known = (stamp, keys)
        return keys

    def _read(self) -> tuple[_Held, ...]:
        try:
            kept = _KEPT.validate_json(read_private(self._path))
            return tuple(
                _Held(SealingKey(one.suite, bytes.fromhex(one.private)), one)
                for one in kept
            )
        except (ValidationError, ValueError):
            message = f"the sealing keys in {self._path} are damaged"
            raise CertificateError(message) from None

    def _stamp(self) -> Stamp | None:
        try:
            return stat_fingerprint(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CertificateError(f"cannot read the sealing keys: {error}") from None
