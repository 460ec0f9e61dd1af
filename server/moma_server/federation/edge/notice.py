"""How the run stands, as the edge says it to each site: counts, and no other's name."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from moma_core.federation.run_state import OwnState, RunState


class _NoticeContent(NamedTuple):
    """What was reported last; see `RunNotice.report`."""

    state: RunState
    owed: frozenset[str]
    own: Mapping[str, OwnState]


class RunNotice:
    """The coordinator tells it, the edge's thread reads it."""

    def __init__(self) -> None:
        self._newest: _NoticeContent | None = None

    def report(
        self, state: RunState, owed: Collection[str], own: Mapping[str, OwnState]
    ) -> None:
        """Replaces what was told.

        Args:
            state: For all sites.
            owed: Sites for which a run that is over still has its last task.
            own: What each site alone is told of its round under way.
        """
        self._newest = _NoticeContent(state, frozenset(owed), dict(own))

    def of(self, site: str) -> RunState | None:
        """Returns how the run stands for a site; None: nobody knows yet."""
        if self._newest is None:
            return None
        state, owed, own = self._newest
        if state.phase == "over" and site in owed:
            return state.model_copy(update={"phase": "closing"})
        if state.phase == "round":
            return state.model_copy(update={"own": own.get(site)})
        return state
