"""One momentum session: its site, its copy, and whose turn it is."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from moma_core.errors import (
    MalformedRequestError,
    PolicyError,
    SessionLostError,
    TeacherBusyError,
)
from moma_core.models.ema import MomentumState, MomentumTerms
from moma_core.teacher.query import PatchQuery, Pixels
from moma_server.teacher.inference.backend import ModelOutput, SessionModel

_LONGEST_QUEUE = 8
_RETRY_SECONDS = 1.0


class Session:
    """A copy and its state; queries and moves take turns.

    The copy is made when it is first used. The methods `predict` and `move` run in the
    model's thread, all others in the event loop.

    Args:
        site: Site that opened it.
        terms: How the copy moves.
        make: Makes the copy.
        now: Time by the sessions' clock, seconds.

    Attributes:
        steps: Steps of the copy since the teacher's own weights.
        weights: Digest that names the copy's weights: a query that is repeated while
            they are the same, in this session or a later one, is the same query.
        opened: Time at which it was opened.
        used: Time at which it was last used.
        updates: How much holds an update: the call that brings it, its move.
        is_sound: Whether the copy stands where `steps` says.
    """

    def __init__(
        self,
        site: str,
        terms: MomentumTerms,
        make: Callable[[MomentumTerms], SessionModel],
        now: float,
    ) -> None:
        self.site, self.terms = site, terms
        self.steps = 0
        self.weights = _name_of(terms, 0, b"")
        self.opened = self.used = now
        self.updates = 0
        self.is_sound = True
        self._make = make
        self._copy: SessionModel | None = None
        self._lock = asyncio.Lock()
        self._waiting = 0

    @property
    def is_updating(self) -> bool:
        """Whether an update is on its way."""
        return self.updates > 0

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for it, or it works."""
        return self.is_updating or self._waiting > 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until those before are done; weights stay as they are in a turn.

        Raises:
            TeacherBusyError: Too many wait already.
            SessionLostError: The copy was left half moved.
        """
        if self._waiting >= _LONGEST_QUEUE:
            message = f"{_LONGEST_QUEUE} requests wait for the session already"
            raise TeacherBusyError(message, _RETRY_SECONDS)
        self._waiting += 1
        try:
            async with self._lock:
                if not self.is_sound:
                    raise SessionLostError("the session's last update failed")
                yield
        finally:
            self._waiting -= 1

    def check_query(self, query: PatchQuery) -> None:
        """Refuses a query that the copy cannot work on.

        Raises:
            MalformedRequestError: One patch has no statistics of its own.
        """
        if self.terms.batch_norm == "adapt" and len(query) < 2:
            raise MalformedRequestError(
                "where batch norms adapt, a request holds two patches or more, got 1"
            )

    def check_steps(self, steps: int) -> None:
        """Refuses to go back.

        Raises:
            MalformedRequestError: The copy has made more steps.
        """
        if steps < self.steps:
            raise MalformedRequestError(
                f"the session stands at step {self.steps} and does not go back "
                f"to {steps}"
            )

    def predict(self, pixels: Pixels) -> ModelOutput:
        """Returns the outputs of the copy."""
        return self._made().predict(pixels)

    def move(self, state: MomentumState, most_distance: float) -> None:
        """Moves the copy.

        Raises:
            PolicyError: The site's weights are too far from the teacher's.
        """
        copy = self._made()
        distance = copy.distance_to(state.mean)
        if not distance <= most_distance:
            raise PolicyError(
                f"the update is {distance:.3g} times the teacher's norm away from "
                f"its weights, at most {most_distance:g} is allowed"
            )
        self.is_sound = False
        copy.move_to(state)
        self.is_sound = True

    def moved(self, steps: int, digest: bytes) -> None:
        """Notes where the copy stands now."""
        self.steps, self.weights = steps, _name_of(self.terms, steps, digest)

    def _made(self) -> SessionModel:
        if self._copy is None:
            self._copy = self._make(self.terms)
        return self._copy


def _name_of(terms: MomentumTerms, steps: int, digest: bytes) -> bytes:
    order = terms.class_order
    values = f"{terms.decay!r} {terms.batch_norm} {order} {steps} "
    return hashlib.sha256(values.encode() + digest).digest()
