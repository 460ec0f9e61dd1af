"""What was disclosed to the coordinator so far, on the site's disk.

It is written before a report leaves, and outlives every kill: what left is always in
it, and what is in it has perhaps not left.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from moma_core.config import Section
from moma_core.errors import ConfigError
from moma_core.runtime.canonical_json import canonical_json
from moma_core.runtime.files import make_folder, write_private


class DisclosedCohort(Section):
    """The people of one split on whom figures were disclosed.

    Args:
        digest: Digest of the cohort, hex.
        counted: What was counted, for a person to read.
        values: The figures that were disclosed last, by key.
    """

    digest: str
    counted: str
    values: dict[str, float]


class MaskedGroup(Section):
    """The group in whose sum a masked update of a run left last.

    Args:
        round: Number of the round.
        update: Digest of the update before it was masked, hex.
        sites: Names of the group, this site's among them.
    """

    round: int
    update: str
    sites: tuple[str, ...]

    @property
    def sites_digest(self) -> str:
        """Digest of the group's names, hex."""
        return hashlib.sha256(canonical_json(self.sites)).hexdigest()


class DisclosureState(Section):
    """All that must be remembered of what was disclosed.

    Args:
        cohorts: The people on whom figures were disclosed, by split.
        evaluations: Number of reports with figures, by run.
        blocked: Number of items that were suppressed, by rule.
        masked: In whose sum the last masked update left, by run.
        updates: Digest of the group in whose sum an update left, by the update's, over
            all runs: where all is set alike, another run makes the same update.
        keys: Number of keys for tries of a sum that were given, by run.
    """

    cohorts: dict[str, DisclosedCohort] = Field(default_factory=dict)
    evaluations: dict[str, int] = Field(default_factory=dict)
    blocked: dict[str, int] = Field(default_factory=dict)
    masked: dict[str, MaskedGroup] = Field(default_factory=dict)
    updates: dict[str, str] = Field(default_factory=dict)
    keys: dict[str, int] = Field(default_factory=dict)

    def with_masked(self, run: str, group: MaskedGroup) -> "DisclosureState":
        """Returns it with an update that leaves for the sum of a group."""
        changed = {
            "masked": {**self.masked, run: group},
            "updates": {**self.updates, group.update: group.sites_digest},
        }
        return self.model_copy(update=changed)

    def cohort(self, split: str) -> str | None:
        """Returns the digest of a split's cohort, if figures on it were disclosed."""
        disclosed = self.cohorts.get(split)
        return None if disclosed is None else disclosed.digest


class DisclosureFile:
    """Keeps a `DisclosureState` on disk.

    Args:
        path: The file; its folder is made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> DisclosureState:
        """Returns what was disclosed.

        Raises:
            ConfigError: The file cannot be read. Without it nobody knows what was
                disclosed, so nothing more is.
        """
        try:
            return DisclosureState.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return DisclosureState()
        except (OSError, ValidationError):
            raise ConfigError(
                f"cannot read {self._path}, which says what this site disclosed: "
                f"restore it; without it figures on a changed cohort could be disclosed"
            ) from None

    def write(self, disclosed: DisclosureState) -> None:
        """Keeps the state; on return it survives a kill and a power cut.

        Raises:
            DiskError: It cannot be written.
        """
        make_folder(self._path.parent)
        write_private(self._path, disclosed.model_dump_json().encode())

    def forget_cohorts(self) -> list[str]:
        """Allows figures on other people than before; returns the splits."""
        disclosed = self.read()
        self.write(disclosed.model_copy(update={"cohorts": {}}))
        return sorted(disclosed.cohorts)


def disclosure_path(state_dir: Path) -> Path:
    """Returns where a site keeps what it has disclosed."""
    return state_dir / "egress-told.json"


def added(counts: Mapping[str, int], name: str, by: int = 1) -> dict[str, int]:
    """Returns counts in which one is larger."""
    return {**counts, name: counts.get(name, 0) + by}
