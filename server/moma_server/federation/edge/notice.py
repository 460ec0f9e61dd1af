"""How the run stands, as the edge says it to each site: counts, and no other's name."""

from collections.abc import Collection

from moma_core.federation.run_state import RunState


class RunNotice:
    """The coordinator tells it, the edge's thread reads it."""

    def __init__(self) -> None:
        self._newest: tuple[RunState, frozenset[str]] | None = None

    def report(self, state: RunState, owed: Collection[str]) -> None:
        """Replaces what was told.

        Args:
            state: For all sites.
            owed: Sites for which a run that is over still has its last task.
        """
        self._newest = (state, frozenset(owed))

    def of(self, site: str) -> RunState | None:
        """Returns how the run stands for a site; None: nobody knows yet."""
        if self._newest is None:
            return None
        state, owed = self._newest
        if state.phase == "over" and site in owed:
            return state.model_copy(update={"phase": "closing"})
        return state
