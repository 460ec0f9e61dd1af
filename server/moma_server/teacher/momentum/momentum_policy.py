"""What a teacher's owner allows of momentum sessions."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentumPolicy:
    """What a teacher's owner allows who turned momentum sessions on.

    Args:
        lowest_decay: Of one step, 0 to 1.
        most_distance: Of what a site sends from the teacher's own weights, over their
            norm.
        syncs_per_minute: Of one site, and as many at once; opening counts as one.
        site_sessions: Open at once, of one site.
        sessions: Open at once, of all sites.
        most_bytes: Of all sessions.
        idle_seconds: After which a session that is not used ends.
        replaced_seconds: Unused for so long, a session makes way for another of its
            site, if that is at its own bound: a killed site leaves sessions behind.
        age_seconds: After which any session ends; its site may open a new one.
    """

    lowest_decay: float = 0.99
    most_distance: float = 10.0
    syncs_per_minute: float = 120.0
    site_sessions: int = 2
    sessions: int = 8
    most_bytes: int = 8 * 2**30
    idle_seconds: float = 900.0
    replaced_seconds: float = 60.0
    age_seconds: float = 86_400.0
