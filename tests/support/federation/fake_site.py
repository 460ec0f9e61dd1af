"""A site as a process: the real node, and a training function that only counts.

Run with one argument, a JSON object: see `Script`.
"""

import dataclasses
import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moma_client.federation.node import FederationNode, NodeSettings
from moma_core.federation.task import RoundReport, RoundTask

if TYPE_CHECKING:
    from tests.support.federation.masked_sites import MaskedSite


@dataclasses.dataclass(frozen=True)
class Script:
    """What the site does; `journal` gets a line for each task begun and done.

    `partners` makes it one that masks its updates; the plain ones stay in its folder.
    """

    settings: str
    journal: str
    value: float = 1.0
    patches: int = 10
    seconds: float = 0.0
    fails: bool = False
    refusal: str | None = None
    partners: dict[str, str] | None = None


def answer(task: RoundTask, script: Script) -> RoundReport:
    """Moves the weights by `value`; the batch-norm count by the round."""
    if script.refusal is not None:
        return RoundReport(refusal=script.refusal)
    weights = None
    if task.mode == "fedavg" and task.kind == "train":
        start = task.weights or {"w": np.zeros((2, 2), np.float32)}
        weights = {"w": (start["w"] + np.float32(script.value)).astype(np.float32)}
    return RoundReport(
        patches=script.patches,
        metrics={"loss": 1.0 / (1 + task.round)},
        weights=weights,
    )


def _masked_site(script: Script) -> "MaskedSite | None":
    if script.partners is None:
        return None
    # It loads torch, for seconds of every other fake site.
    from tests.support.federation.masked_sites import MaskedSite

    folder = Path(script.journal).parent
    return MaskedSite(folder, folder.name, script.partners, script.value)


def main(script: Script) -> None:
    logging.basicConfig(level=logging.INFO)
    stop = threading.Event()
    masked = _masked_site(script)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    journal = Path(script.journal)

    def note(word: str, task: RoundTask) -> None:
        weights = task.weights or {}
        final = f" {weights['w'][0, 0]:.6f}" if "w" in weights else ""
        with journal.open("a") as file:
            file.write(f"{word} {task.kind} {task.round}{final}\n")

    with FederationNode(NodeSettings.from_json(script.settings)) as node:
        for task in node.tasks(stop):
            note("begun", task)
            if stop.wait(script.seconds if task.kind == "train" else 0):
                break
            if script.fails and task.kind == "train":
                node.fail(task)
            elif masked is not None:
                report = masked.answer(task)
                assert isinstance(report, RoundReport)
                for number, plain in enumerate(masked.plain):
                    np.save(masked.folder / f"plain-{number}.npy", plain["body.weight"])
                node.report(task, report)
            else:
                node.report(task, answer(task, script))
            note("done", task)


if __name__ == "__main__":
    main(Script(**json.loads(sys.argv[1])))
