"""Sites that mask their updates with the real egress; the training alone is a stub."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from moma_client.egress.outcome import StudentOutcome
from moma_client.egress.to_coordinator import CoordinatorEgress
from moma_client.metrics import ClientMetrics
from moma_core.end_to_end.signatures import SigningKey
from moma_core.federation.masked_sum import start_digest
from moma_core.federation.messages import (
    pack_report,
    pack_task,
    unpack_report,
    unpack_task,
)
from moma_core.federation.schedule import with_epochs
from moma_core.federation.task import RoundReport, RoundTask, Weights
from moma_core.runtime.files import write_private
from moma_server.federation.run.round import Reply
from tests.support.site.tiny_site import local_config

_MOST_BYTES = 1 << 24


@dataclass
class MaskedSite:
    """One site on its disk; a second one in its folder is the site, restarted.

    Args:
        folder: Of the site.
        name: Of the site.
        partners: Fingerprints of the others.
        moves: How far it moves every weight of a round.
        smallest_group: Of its config.
        max_update_norm: Of its config.
        steps_per_epoch: Of its patches.
    """

    folder: Path
    name: str
    partners: Mapping[str, str]
    moves: float = 1.0
    smallest_group: int = 3
    max_update_norm: float = 1e6
    steps_per_epoch: int = 1
    plain: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    egress: CoordinatorEgress = field(init=False)
    _reports: list[RoundReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """Forgets all that does not lie on the disk, as a kill does."""
        config = local_config(
            self.folder,
            site=self.name,
            federation="moma",
            identity={"signing_key": str(self.folder / "signing.key")},
            coordinator={
                "masked_weights": {
                    "partners": dict(self.partners),
                    "smallest_group": self.smallest_group,
                    "max_update_norm": self.max_update_norm,
                }
            },
        )
        self.egress = CoordinatorEgress(config, ClientMetrics(CollectorRegistry()))

    def answer(self, task: RoundTask, _try: int = 1) -> RoundReport | Reply | None:
        """Returns what the coordinator gets, read from the bytes that travel."""
        task = unpack_task(pack_task(task), max_weights_bytes=_MOST_BYTES)
        task = with_epochs(task, self.steps_per_epoch, self.egress._bounds)
        if not self.egress.settles(self, task):
            self.egress.report(self, task, {"moma": self._trained(task)})
        envelope = pack_report(self._reports.pop())
        self.received.append(envelope.header.encode() + (envelope.weights or b""))
        return unpack_report(envelope, max_weights_bytes=_MOST_BYTES)

    def report(self, _task: RoundTask, report: RoundReport) -> None:
        """Takes what leaves; this is the node."""
        self._reports.append(report)

    def fail(self, _task: RoundTask) -> None:
        """Takes a failure; this is the node."""
        raise AssertionError("a masked site does not fail")

    def _trained(self, task: RoundTask) -> StudentOutcome:
        start = first_weights() if task.weights is None else task.weights
        draws = np.random.default_rng([task.round, *self.name.encode()])
        student: dict[str, NDArray[Any]] = {}
        for name, array in start.items():
            if array.dtype.kind == "f":
                noise = draws.normal(1.0, 0.1, size=array.shape)
                student[name] = (array + self.moves * noise).astype(array.dtype)
            else:
                student[name] = np.array(array + 10)
        if task.kind == "train":
            self.plain.append(student)
        own_start = first_weights() if task.weights is None else None
        outcome = StudentOutcome({}, 100, student, "ab" * 32, {}, start=own_start)
        return replace(outcome, began_from=start_digest(task))


def first_weights() -> dict[str, NDArray[Any]]:
    """Returns the weights with which every site begins."""
    draws = np.random.default_rng(7)
    return {
        "body.weight": draws.normal(size=(30, 100)).astype(np.float32),
        "body.num_batches_tracked": np.array(0, np.int64),
    }


def signing_keys(folder: Path, *names: str) -> dict[str, str]:
    """Makes each site's folder and key; returns the fingerprints by name."""
    keys = {name: SigningKey.create() for name in names}
    for name, key in keys.items():
        (folder / name).mkdir()
        write_private(folder / name / "signing.key", key.to_pem())
    return {name: str(key.public) for name, key in keys.items()}


def masked_sites(folder: Path, *names: str, **settings: Any) -> dict[str, MaskedSite]:
    """Returns sites that have pinned each other."""
    pinned = signing_keys(folder, *names)
    return {
        name: MaskedSite(
            folder / name,
            name,
            {other: key for other, key in pinned.items() if other != name},
            **settings,
        )
        for name in names
    }


def plain_mean(
    sites: Mapping[str, MaskedSite], number: int, start: Weights, max_norm: float
) -> NDArray[np.float64]:
    """Returns the mean that the clipped updates of round `number` must have."""
    before = start["body.weight"].astype(np.float64)
    clipped = []
    for site in sites.values():
        moved = site.plain[number - 1]["body.weight"] - before
        clipped.append(moved * min(1.0, max_norm / float(np.linalg.norm(moved))))
    mean: NDArray[np.float64] = before + np.mean(clipped, axis=0)
    return mean
