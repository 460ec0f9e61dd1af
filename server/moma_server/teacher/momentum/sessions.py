"""The momentum sessions of a teacher: who may have one, how many, and for how long.

The rules:

1. A session is its site's; to any other site its id is as unknown as one made up.
2. Sessions are bounded in number, of a site and in all, and in bytes. A session
   counts twice its copy: the copy, and an update on its way; and it counts until
   nobody works in it any more, also once it has ended.
3. It ends when its site closes it, leaves it idle, or when its time is over; sooner
   where its site is at its own bound and opens another.
4. A copy moves between two queries of its session, never within one, and always from
   the teacher's own weights.
5. What a site sends is bounded: how often, how large, and how far from the teacher.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from moma_core.errors import (
    ConfigError,
    PolicyError,
    SessionLostError,
    TeacherBusyError,
)
from moma_core.models.ema import MomentumState, updated_weights
from moma_core.policy.token_bucket import TokenBucket
from moma_core.teacher.ema_update import IncomingUpdate, SessionRequest, SyncHead
from moma_core.teacher.query import SESSION_ID_BYTES, PatchQuery
from moma_server.teacher.inference.backend import (
    Model,
    TeacherBackend,
    TorchBackend,
)
from moma_server.teacher.inference.batcher import Batcher
from moma_server.teacher.momentum.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentumPolicy:
    """What a teacher's owner allows who turned momentum sessions on.

    Args:
        lowest_decay: Lowest decay of one step, 0 to 1.
        most_distance: Distance of a site's weights from the teacher's own, over their
            norm.
        syncs_per_minute: Updates of one site, and as many at once; opening is one.
        sessions_per_site: Sessions of one site that are open at once.
        sessions: Sessions of all sites that are open at once.
        max_bytes: Bytes of all sessions.
        idle_seconds: Time after which a session that is not used ends.
        replaced_seconds: Time after which an unused session makes way for another of
            its site, if that is at its own bound: a killed site leaves sessions behind.
        age_seconds: Age at which any session ends; its site may open a new one.
    """

    lowest_decay: float = 0.99
    most_distance: float = 10.0
    syncs_per_minute: float = 120.0
    sessions_per_site: int = 2
    sessions: int = 8
    max_bytes: int = 8 * 2**30
    idle_seconds: float = 900.0
    replaced_seconds: float = 60.0
    age_seconds: float = 86_400.0


_SHORTEST_RETRY_SECONDS = 1.0


class QueryTarget(NamedTuple):
    """The model that a query is for.

    Args:
        weights: Name of its weights; empty for the teacher's own.
        model: Copy of a session; None: the teacher itself.
    """

    weights: bytes = b""
    model: Model | None = None


class MomentumSessions:
    """Opens, finds, moves and ends sessions; used by the event loop alone.

    Args:
        policy: What the teacher's owner allows; None: no sessions.
        backend: The teacher's model.
        batcher: Queue of the model, whose thread makes and moves the copies.
        clock: Gives seconds, and never goes back.

    Raises:
        ConfigError: The teacher cannot be copied, or not within the bytes.
    """

    def __init__(
        self,
        policy: MomentumPolicy | None,
        backend: TeacherBackend,
        batcher: Batcher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy or MomentumPolicy()
        self._teacher: TorchBackend | None = None
        self._session_bytes = 0
        if policy is not None:
            self._teacher = _copyable(backend)
            self._session_bytes = 2 * self._teacher.encoder_bytes
            if self._session_bytes > policy.max_bytes:
                raise ConfigError(
                    f"a momentum session of this teacher takes {self._session_bytes} "
                    f"bytes, all of them may take {policy.max_bytes}"
                )
        self._batcher = batcher
        self._clock = clock
        self._rate = TokenBucket(self._policy.syncs_per_minute, clock)
        self._open: dict[bytes, Session] = {}
        self._ending: list[Session] = []
        self._reading = asyncio.Lock()
        self._moves: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, site: str, request: SessionRequest) -> bytes:
        """Opens a session and returns its id.

        Raises:
            PolicyError: Sessions are off, or the decay is too low.
            TeacherBusyError: Sessions, memory or the site's rate are used up.
        """
        if self._teacher is None:
            raise PolicyError("this teacher has no momentum sessions")
        lowest, decay = self._policy.lowest_decay, request.terms.decay
        if decay < lowest:
            raise PolicyError(f"the decay {decay:g} is below the allowed {lowest:g}")
        self.sweep()
        self._make_way(site)
        self._check_room(site)
        self._check_rate(site)
        session = Session(site, request.terms, self._teacher.copied, self._clock())
        identity = secrets.token_bytes(SESSION_ID_BYTES)
        self._open[identity] = session
        return identity

    def close(self, site: str, identity: bytes) -> None:
        """Ends a session.

        Raises:
            SessionLostError: The site has no such session.
        """
        self._found(site, identity)
        self._end(identity)

    @asynccontextmanager
    async def turn(self, site: str, query: PatchQuery) -> AsyncIterator[QueryTarget]:
        """Yields the model of a query, which stays as it is until the block ends.

        Raises:
            SessionLostError: The site has no such session.
            MalformedRequestError: The copy cannot work on so few patches.
            TeacherBusyError: Too many queries wait for the session.
        """
        if not query.session:
            yield QueryTarget()
            return
        session = self.check(site, query)
        async with session.turn():
            self._found(site, query.session)  # it may have ended while this waited
            yield QueryTarget(session.weights, session.predict)
        session.used = self._clock()

    def check(self, site: str, query: PatchQuery) -> Session:
        """Returns the session of a query, if the query can be answered in it.

        Raises:
            SessionLostError: The site has no such session.
            MalformedRequestError: The copy cannot work on so few patches.
        """
        session = self._found(site, query.session)
        session.check_query(query)
        return session

    @contextmanager
    def updating(self, site: str, head: SyncHead) -> Iterator[IncomingUpdate]:
        """Yields the update that chunks are added to, one at a time for a session.

        Raises:
            SessionLostError: The site has no such session.
            TeacherBusyError: The site syncs too often, or twice at once.
            MalformedRequestError: The update goes back, or is too large.
        """
        session = self._found(site, head.session)
        if session.is_updating:
            message = "an update of this session is on its way already"
            raise TeacherBusyError(message, _SHORTEST_RETRY_SECONDS)
        self._check_rate(site)
        session.check_steps(head.steps)
        encoder = _copyable(self._teacher).encoder
        session.updates += 1
        try:
            yield IncomingUpdate(head, updated_weights(encoder, session.terms))
        finally:
            self._over(session)

    async def move(self, site: str, head: SyncHead, update: IncomingUpdate) -> None:
        """Moves a copy to a whole update; done to its end once it has begun.

        Raises:
            MalformedRequestError: The update is cut, changed or does not fit.
            PolicyError: It is too far from the teacher's weights.
            SessionLostError: The session ended in the meantime.
        """
        session = self._found(site, head.session)
        session.updates += 1  # a call that is given up leaves its move behind
        moving = asyncio.create_task(self._move(site, head, update))
        self._moves.add(moving)
        moving.add_done_callback(partial(self._moved, session))
        await asyncio.shield(moving)

    async def _move(self, site: str, head: SyncHead, update: IncomingUpdate) -> None:
        async with self._reading:  # one at a time: it takes as much memory again
            mean = await asyncio.to_thread(update.weights)
        session = self._found(site, head.session)
        async with session.turn():
            self._found(site, head.session)
            session.check_steps(head.steps)
            state = MomentumState(head.steps, mean)
            most = self._policy.most_distance
            await self._batcher.between_passes(partial(session.move, state, most))
            session.moved(head.steps, head.digest)

    def sweep(self) -> None:
        """Ends the sessions whose time is over; to be called now and then."""
        for identity, session in list(self._open.items()):
            if self._seconds_left(session) <= 0:
                self._end(identity)
        self._ending = [session for session in self._ending if session.is_busy]

    def clear(self) -> None:
        """Ends all sessions."""
        self._open.clear()

    def _end(self, identity: bytes) -> None:
        """Ends a session; where somebody still works in it, its room stays taken."""
        session = self._open.pop(identity)
        if session.is_busy:
            self._ending.append(session)

    def _over(self, session: Session) -> None:
        session.updates -= 1
        session.used = self._clock()

    def _moved(self, session: Session, moving: asyncio.Task[None]) -> None:
        self._over(session)
        self._moves.discard(moving)
        if not moving.cancelled():
            moving.exception()  # its caller got it, or is gone

    def _found(self, site: str, identity: bytes) -> Session:
        """Returns an open session; to another site it is as unknown as a guess."""
        session = self._open.get(identity)
        if session is None or session.site != site or self._seconds_left(session) <= 0:
            raise SessionLostError("the site has no open momentum session of this id")
        return session

    def _seconds_left(self, session: Session, idle: float | None = None) -> float:
        now, idle = self._clock(), idle or self._policy.idle_seconds
        left = session.opened + self._policy.age_seconds - now
        if session.is_busy:
            return left
        return min(left, session.used + idle - now)

    def _make_way(self, site: str) -> None:
        """Where a site is at its own bound, ends what it left unused the longest."""
        own = [key for key, session in self._open.items() if session.site == site]
        if len(own) < self._policy.sessions_per_site:
            return
        idle = self._policy.replaced_seconds
        left = {key: self._seconds_left(self._open[key], idle) for key in own}
        longest = min(own, key=left.__getitem__)  # a busy one is not unused
        if left[longest] <= 0:
            self._end(longest)

    def _check_room(self, site: str) -> None:
        policy, held = self._policy, [*self._open.values(), *self._ending]
        own = [session for session in held if session.site == site]
        most = min(policy.sessions, policy.max_bytes // self._session_bytes)
        if len(own) >= policy.sessions_per_site:
            message = f"the site has {len(own)} momentum sessions open, its most"
            wait = self._next_end(own, policy.replaced_seconds)
            raise TeacherBusyError(message, wait)
        if len(held) >= most:
            message = "the teacher has no room for another momentum session"
            raise TeacherBusyError(message, self._next_end(held))

    def _next_end(self, sessions: list[Session], idle: float | None = None) -> float:
        soonest = min(self._seconds_left(session, idle) for session in sessions)
        return max(_SHORTEST_RETRY_SECONDS, soonest)

    def _check_rate(self, site: str) -> None:
        wait = self._rate.take(site)
        if wait > 0:
            most = self._policy.syncs_per_minute
            message = f"the site syncs more often than {most:g} times a minute"
            raise TeacherBusyError(message, wait)


def _copyable(backend: TeacherBackend | None) -> TorchBackend:
    if not isinstance(backend, TorchBackend):
        raise ConfigError("momentum sessions need a teacher that runs in this process")
    return backend
