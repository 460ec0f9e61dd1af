"""What a run queries of its teacher, in numbers."""

from dataclasses import asdict, dataclass
from typing import Literal

from moma_core.runtime.finding import Finding


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """What a run queries; None where it cannot be known.

    Args:
        mode: Outputs are kept in a cache (`bank`), queried in every epoch, or local.
        teacher: Name of the teacher; empty for one on this disk.
        away: Why the teacher did not answer; empty if it did.
        labelled: Number of patches to train on with a label.
        unlabelled: Number of patches to train on without.
        views: Views of each patch, V; 0 online.
        epochs: Epochs of the run; None: as many as show every view.
        answers: Outputs that the run uses, each counted once if it is kept.
        in_bank: Outputs that the cache holds, counted by slot: no patch is read, and
            one that moved or changed is queried all the same.
        queries: Patches to query, the rest.
        golden: Reference patches to query beside them, once.
        requests: Messages in which they are queried.
        sent_bytes: Size of these messages and the syncs, as protobuf, without HTTP/2
            and TLS.
        received_bytes: Size of the responses, likewise.
        syncs: EMA updates that are sent to the teacher.
        weights_bytes: Share of the sent bytes that is of the syncs.
        disk_bytes: Size of the cache with all outputs.
        granted: Patches granted over the life of the agreement.
        left: Patches granted and not charged yet.
        patches_per_second: Rate at which the teacher answers.
        rate_is_measured: Whether this site measured the rate, or it was given.
        site: Name of this site in the teacher's policy.
        steps_per_epoch: Optimiser steps of one pass over the patches.
        fewest_epochs: Epochs that the steps need which a student needs at least, where
            each queries anew and the run's are not known; 0: the plan is of a run.
        falls_back: Whether the labels alone teach moma, for an irrelevant teacher.
        findings: What is to be said of the site's task beside the teacher's, where
            its card is known.
    """

    mode: Literal["bank", "online", "local"]
    teacher: str
    away: str
    labelled: int
    unlabelled: int
    views: int = 0
    epochs: int | None = None
    answers: int = 0
    in_bank: int = 0
    queries: int = 0
    golden: int = 0
    requests: int | None = None
    sent_bytes: int | None = None
    received_bytes: int | None = None
    syncs: int = 0
    weights_bytes: int | None = 0
    disk_bytes: int | None = None
    granted: int | None = None
    left: int | None = None
    patches_per_second: float | None = None
    rate_is_measured: bool = False
    site: str = ""
    steps_per_epoch: int = 0
    fewest_epochs: int = 0
    falls_back: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def share_of_left(self) -> float | None:
        """Of the budget that is left; above 1 it does not suffice."""
        return self.charged_by_run / self.left if self.left else None

    @property
    def charged(self) -> int:
        """What the teacher charges at most for what is planned."""
        return self.queries + self.golden

    @property
    def charged_by_run(self) -> int:
        """What it charges of a whole run; where its epochs are not known, at least."""
        return self.queries * max(1, self.fewest_epochs) + self.golden

    @property
    def wanted_grant(self) -> int:
        """What `budget.sites` must have for this site, so that it suffices."""
        return (self.granted or 0) - (self.left or 0) + self.charged_by_run

    @property
    def expected_seconds(self) -> float | None:
        """At the rate, if there is one."""
        rate = self.patches_per_second
        return self.queries / rate if rate else None

    def as_json(self) -> dict[str, object]:
        """Returns every figure by name."""
        return {
            **asdict(self),
            "findings": [finding.as_json() for finding in self.findings],
            "share_of_left": self.share_of_left,
            "expected_seconds": self.expected_seconds,
        }
