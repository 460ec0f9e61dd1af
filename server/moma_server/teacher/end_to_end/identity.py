"""Whom a teacher believes, and with which keys it speaks."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from moma_core.end_to_end.pinned_sites import PinnedSites
from moma_core.end_to_end.signatures import SigningKey
from moma_server.rpc.authorization import CertificateAuthorization
from moma_server.rpc.tls import TlsCredentials
from moma_server.teacher.end_to_end.card_issuer import CardIssuer
from moma_server.teacher.end_to_end.replay_guard import ReplayGuard
from moma_server.teacher.end_to_end.sealing_keys import SealingKeys


@dataclass(frozen=True, slots=True)
class TeacherIdentity:
    """What stands between a site and the teacher, whoever carries their messages.

    Args:
        federation: Ours.
        signing: The teacher's key, whose fingerprint sites pin.
        sealing: What questions are sealed to.
        pinned_sites: Whose signature counts.
        issuer: Of the card.
        clock: Gives the time, with a time zone.
        replay_guard: Which messages were taken.
    """

    federation: str
    signing: SigningKey
    sealing: SealingKeys
    pinned_sites: PinnedSites
    issuer: CardIssuer
    clock: Callable[[], datetime]
    replay_guard: ReplayGuard


@dataclass(frozen=True, slots=True)
class TeacherTrust:
    """Both layers: of the connection, and of what is said over it.

    Args:
        policy: Whose connection is let in.
        credentials: The server's own, of its connections.
        end_to_end: Of the messages.
    """

    policy: CertificateAuthorization
    credentials: TlsCredentials
    end_to_end: TeacherIdentity
