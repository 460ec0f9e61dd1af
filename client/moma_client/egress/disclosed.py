"""What the coordinator was told so far, on the site's disk; it outlives every kill.

It is written before a report is handed over: what left is always in it, and what is in
it has perhaps not left.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from moma_core.config import Section
from moma_core.errors import ConfigError
from moma_core.runtime.files import write_private


class DisclosedCohort(Section):
    """The people of one split of whom figures were told.

    Args:
        digest: Of the cohort, hex.
        counted: What was counted.
        values: What was told last, by key.
    """

    digest: str
    counted: str
    values: dict[str, float]


class DisclosureState(Section):
    """All that must be remembered.

    Args:
        cohorts: By split.
        evaluations: Reports with figures, by run.
        blocked: Items that were kept in, by rule.
    """

    cohorts: dict[str, DisclosedCohort] = Field(default_factory=dict)
    evaluations: dict[str, int] = Field(default_factory=dict)
    blocked: dict[str, int] = Field(default_factory=dict)

    def cohort(self, split: str) -> str | None:
        """Returns the digest of the cohort of which figures were told, if any were."""
        disclosed = self.cohorts.get(split)
        return None if disclosed is None else disclosed.digest


class DisclosureFile:
    """Keeps it.

    Args:
        path: The file; its folder is made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> DisclosureState:
        """Returns what was told.

        Raises:
            ConfigError: The file cannot be read. Without it nobody knows what was told,
                so nothing more is.
        """
        try:
            return DisclosureState.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return DisclosureState()
        except (OSError, ValidationError):
            raise ConfigError(
                f"cannot read {self._path}, which says what was told of this site: "
                f"restore it; without it figures could be told of a changed cohort"
            ) from None

    def write(self, disclosed: DisclosureState) -> None:
        """Keeps it; on return it survives a kill and a power cut.

        Raises:
            ConfigError: It cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_private(self._path, disclosed.model_dump_json().encode())
        except OSError as error:
            raise ConfigError(f"cannot write {self._path}: {error}") from error

    def forget_cohorts(self) -> list[str]:
        """Lets figures be told of other people than before; returns the splits."""
        disclosed = self.read()
        self.write(disclosed.model_copy(update={"cohorts": {}}))
        return sorted(disclosed.cohorts)


def disclosure_path(state_dir: Path) -> Path:
    """Returns where a site keeps what it has told."""
    return state_dir / "egress-told.json"


def added(counts: Mapping[str, int], name: str, by: int = 1) -> dict[str, int]:
    """Returns counts in which one is larger."""
    return {**counts, name: counts.get(name, 0) + by}
