"""A teacher's policy beside the budget: how fast, how many different, how much of it.

Bounds hold for a new query; a repeated one was authorized before.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from moma_core.errors import ConfigError, CoverageError
from moma_core.policy.coverage import CoverageMap, pack, unpack
from moma_core.policy.outputs import OutputPolicy
from moma_core.policy.usage import (
    PatchRate,
    add_unique,
    keep_touched,
    take_tokens,
    touched_buckets,
    unique_patches,
)


@dataclass(frozen=True, slots=True)
class TeacherPolicy:
    """What a teacher's owner allows each site, beside its budget.

    Args:
        outputs: Which outputs are disclosed, and how exactly.
        rate: How fast patches may be queried; None: as fast as the model works.
        unique_patches: Different ones over the life of the agreement; None: the
            budget bounds them.
        coverage_limit: Share of the coverage map that a site's outputs may touch,
            in (0, 1]; None: it is measured where there is a map, and not bounded.
        momentum_sessions: Whether a site may have a copy that its student updates.
    """

    outputs: OutputPolicy = field(default_factory=OutputPolicy)
    rate: PatchRate | None = None
    unique_patches: int | None = None
    coverage_limit: float | None = None
    momentum_sessions: bool = False

    def __post_init__(self) -> None:
        if self.unique_patches is not None and self.unique_patches < 1:
            raise ConfigError(f"unique_patches is >= 1, got {self.unique_patches}")
        if self.coverage_limit is not None and not 0 < self.coverage_limit <= 1:
            raise ConfigError(f"coverage_limit is in (0, 1], got {self.coverage_limit}")

    def terms(self) -> dict[str, object]:
        """Returns the policy as plain values, as the log keeps it."""
        return asdict(self)

    def digest(self) -> str:
        """Returns the SHA-256 of the terms, hex: another policy has another one."""
        text = json.dumps(self.terms(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Usage:
    """How much a site has used of what the policy allows.

    Args:
        unique_patches: Different patches that it has queried.
        coverage: Share of the map that its outputs touched; None: there is no map.
    """

    unique_patches: int
    coverage: float | None


class PolicyEnforcer:
    """Holds each site to the policy, in the transaction that charges it.

    Args:
        policy: What the teacher's owner allows.
        coverage: Map of the teacher's embedding space.

    Raises:
        ConfigError: Coverage is bounded and there is no map.
    """

    def __init__(
        self, policy: TeacherPolicy, coverage: CoverageMap | None = None
    ) -> None:
        if policy.coverage_limit is not None and coverage is None:
            raise ConfigError("policy.coverage_limit needs a policy.coverage_map")
        self.policy = policy
        self._map = coverage

    def authorize(
        self, database: Connection, site: str, patches: Sequence[bytes], now: float
    ) -> None:
        """Authorizes a new query; the caller rolls back where it raises.

        Args:
            database: In a transaction that holds the site's account.
            site: The site that queries.
            patches: SHA-256 of each patch.
            now: Seconds since 1970, UTC.

        Raises:
            TeacherBusyError: It queries too fast; says when to retry.
            PolicyError: Too many at once.
            PatchLimitError: Too many different ones.
        """
        if self.policy.rate is not None:
            take_tokens(database, site, len(patches), self.policy.rate, now)
        limit = self.policy.unique_patches
        add_unique(database, site, patches, limit=limit, now=now)

    def answered(
        self,
        database: Connection,
        site: str,
        embedding: NDArray[np.float32],
        now: float,
    ) -> None:
        """Adds embeddings (N, D) to what the site has seen, before they are sent.

        Raises:
            CoverageError: With them the site would have seen more than is allowed; they
                must not be sent.
        """
        if self._map is None:
            return
        before = unpack(touched_buckets(database, site))
        after = before | self._map.touched(embedding)
        limit = self.policy.coverage_limit
        if limit is not None and self._map.ratio(after) > limit:
            raise CoverageError(
                f"the response would take the site to "
                f"{self._map.ratio(after):.3f} of the teacher's space, "
                f"{limit:g} is allowed"
            )
        keep_touched(database, site, pack(after), now)

    def usage(self, database: Connection, site: str) -> Usage:
        """Returns how much a site has used."""
        coverage = None
        if self._map is not None:
            coverage = self._map.ratio(unpack(touched_buckets(database, site)))
        return Usage(unique_patches(database, site), coverage)
