"""The keys and the card by which sites know a teacher, and whom it believes.

A sealing key is offered until a newer one of its suite is there, and is used for a day
beyond its last moment, so that what was sealed just before still opens. Then it is
deleted: who finds the teacher's disk later cannot read what was recorded before.
Replicas of one teacher share the files.

A wall clock may be wrong for a look, and a deleted key does not come back. So a key is
deleted only when it was over for ten minutes of the monotonic clock; and one that was
made by a clock far ahead counts, after as long, as made now.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from moma_core.end_to_end.hpke import SealingKey, SuiteName
from moma_core.end_to_end.pinned_sites import PinnedSites
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import CertificateError, NotAuthorizedError, TeacherError
from moma_core.pki.key_files import read_private
from moma_core.runtime.files import (
    Stamp,
    locked,
    make_folder,
    stat_fingerprint,
    write_private,
)
from moma_core.teacher.card.bounds import Description
from moma_core.teacher.card.signed import IssuedCard, SealingOffer, SignedCard
from moma_server.rpc.authorization import CertificateAuthorization
from moma_server.rpc.tls import TlsCredentials
from moma_server.teacher.end_to_end.replay_guard import ReplayGuard

_logger = logging.getLogger(__name__)

KEY_LIFETIME = timedelta(days=14)
ROTATION_AGE = timedelta(days=7)
OVERLAP = timedelta(days=1)

CERTAIN_SECONDS = 600.0
"""By the monotonic clock, before the wall clock is believed that a key is odd."""

_MOST_AHEAD = timedelta(minutes=5)  # by which the clocks of replicas may differ


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: SuiteName
    private: str
    made_at: AwareDatetime
    not_after: AwareDatetime


_KEPT = TypeAdapter(tuple[_Kept, ...])
_ISSUE = TypeAdapter(tuple[str, str])  # content and signature of a card


@dataclass(frozen=True, slots=True)
class _Held:
    key: SealingKey
    kept: _Kept


class SealingKeys:
    """A teacher's sealing keys; read again when another replica changes the file.

    Safe to use from several threads.

    Args:
        path: File of the keys, for its owner only; made where it is missing.
        suites: Suites of which a key is offered.
        clock: Gives the time, with a time zone.
        monotonic: Gives seconds, and never goes back.

    Raises:
        CertificateError: The file is damaged, or open to others; it is left alone.
    """

    def __init__(
        self,
        path: Path,
        suites: Sequence[SuiteName],
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._suites = tuple(suites)
        self._clock, self._monotonic = clock, monotonic
        self._odd: dict[_Kept, float] = {}  # since when, by the monotonic clock
        self._known: tuple[Stamp | None, tuple[_Held, ...]] = (None, ())
        self.offers()

    def offers(self) -> tuple[SealingOffer, ...]:
        """Returns the newest key of each suite; makes those that are due."""
        newest = self._newest(self.rotate_if_due())
        held = [newest[suite] for suite in self._suites]
        return tuple(SealingOffer(one.key.public, one.kept.not_after) for one in held)

    def rotate_if_due(self) -> tuple[_Held, ...]:
        """Makes the keys that are due, deletes those that are over, returns the rest.

        Raises:
            CertificateError: The file is damaged, or open to others; it is left alone.
        """
        keys = self._refresh()
        newest = self._newest(keys)
        is_due = any(self._is_due(newest.get(suite)) for suite in self._suites)
        return self._rotate() if is_due or self._surely_odd(keys) else keys

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

    def _is_ahead(self, held: _Held) -> bool:
        return held.kept.made_at > self._clock() + _MOST_AHEAD

    def _surely_odd(self, keys: tuple[_Held, ...]) -> frozenset[_Kept]:
        """Returns the keys that are over, or from times to come, and not by a slip."""
        now = self._monotonic()
        self._odd = {
            held.kept: self._odd.get(held.kept, now)
            for held in keys
            if self._is_over(held) or self._is_ahead(held)
        }
        return frozenset(
            kept for kept, since in self._odd.items() if now - since >= CERTAIN_SECONDS
        )

    def _mended(self, keys: tuple[_Held, ...]) -> list[_Kept]:
        """Returns the keys without those that are over, none made after now."""
        now, odd = self._clock(), self._surely_odd(keys)
        end = (now + KEY_LIFETIME).replace(microsecond=0)
        return [
            held.kept
            if held.kept not in odd
            else held.kept.model_copy(update={"made_at": now, "not_after": end})
            for held in keys
            if held.kept not in odd or not self._is_over(held)
        ]

    def _newest(self, keys: tuple[_Held, ...]) -> dict[SuiteName, _Held]:
        return {one.kept.suite: one for one in keys}  # the file has the oldest first

    def _rotate(self) -> tuple[_Held, ...]:
        make_folder(self._path.parent)
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
            content = _KEPT.dump_json((*self._mended(keys), *made), indent=2)
            write_private(self._path, content, "the sealing keys")
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


class TeacherIdentity:
    """What protects the messages of sites and teacher, whoever carries them.

    Args:
        folder: The teacher's own folder, where its replicas share what is kept.
        federation: Federation in which the teacher serves.
        signing: The teacher's signing key, whose fingerprint sites pin.
        suites: Suites of the sealing keys that are offered.
        pinned_sites: Sites whose signature counts.
        clock: Gives the time, with a time zone.

    Attributes:
        sealing: Keys to which sites seal their requests.
        replay_guard: Knows which messages were accepted.

    Raises:
        CertificateError: The sealing keys are damaged, or open to others.
    """

    def __init__(
        self,
        folder: Path,
        federation: str,
        signing: SigningKey,
        suites: Sequence[SuiteName],
        pinned_sites: PinnedSites,
        clock: Callable[[], datetime],
    ) -> None:
        self.federation = federation
        self.signing = signing
        self.pinned_sites = pinned_sites
        self.sealing = SealingKeys(folder / "sealing-keys.json", suites, clock)
        self.replay_guard = ReplayGuard(clock, folder / "taken-until.json")
        self._card_file = folder / "issued-card.json"
        self._clock = clock
        self._last: tuple[IssuedCard, SignedCard] | None = None

    def card(self, description: Description) -> SignedCard:
        """Returns the signed card; it is issued anew when something on it changed.

        The last issue is kept, so that a restart, or another replica, gives the same
        one, and each further one has a greater number whatever the clock says: a site
        refuses a card that is older than the newest that it has seen.
        """
        now = int(self._clock().timestamp())
        wanted = IssuedCard(self.federation, now, description, self.sealing.offers())
        if self._last is None or not _is_same(self._last[0], wanted):
            self._last = self._issued(wanted)
        return self._last[1]

    def _issued(self, wanted: IssuedCard) -> tuple[IssuedCard, SignedCard]:
        path = self._card_file
        make_folder(path.parent)
        with locked(path.parent):
            kept = self._kept()
            if kept is not None and _is_same(kept[0], wanted):
                return kept
            if kept is not None and kept[0].issued >= wanted.issued:
                wanted = replace(wanted, issued=kept[0].issued + 1)
            signed = wanted.signed(self.signing)
            texts = (signed.content.decode("ascii"), signed.signature.hex())
            write_private(path, _ISSUE.dump_json(texts))
        return wanted, signed

    def _kept(self) -> tuple[IssuedCard, SignedCard] | None:
        """Reads the last issue; one that another key signed does not count."""
        try:
            content, signature = _ISSUE.validate_json(self._card_file.read_bytes())
            signed = SignedCard(content.encode(), bytes.fromhex(signature))
            return IssuedCard.opened(signed, self.signing.public), signed
        except (OSError, ValidationError, ValueError, TeacherError):
            return None


def _is_same(one: IssuedCard, other: IssuedCard) -> bool:
    return replace(one, issued=other.issued) == other


@dataclass(frozen=True, slots=True)
class TeacherTrust:
    """Both layers: of the connection, and of the messages that it carries.

    Args:
        policy: Decides whose connections are served.
        credentials: The server's own certificate and key.
        end_to_end: Keys of the messages, and sites whose messages count.
    """

    policy: CertificateAuthorization
    credentials: TlsCredentials
    end_to_end: TeacherIdentity
