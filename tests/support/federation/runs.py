"""Whole runs over sites of fakes: what each sends, and what is kept of it."""

from pathlib import Path
from typing import Any

import numpy as np

from moma_core.federation.task import RoundReport, RoundTask, Weights
from moma_core.federation.weights import load_with_metadata
from moma_server.config.federation_plan import FederationPlan, RunOrder
from moma_server.federation.run.records import RecordFile, RoundRecord
from moma_server.federation.run.run import FederatedRun
from tests.support.federation.fake_sites import Behaviour, FakeClock, FakeSites


def moves_by(value: float, patches: int) -> Behaviour:
    def answer(task: RoundTask, _ask: int) -> RoundReport:
        if task.kind == "close":
            return RoundReport()
        start = {"w": np.zeros(2, np.float32)} if task.weights is None else task.weights
        return RoundReport(
            patches=patches, weights={"w": start["w"] + np.float32(value)}
        )

    return answer


def sends(weights: Weights | None = None, **fields: Any) -> Behaviour:
    """A site whose every report is of one model, whatever the round."""

    def answer(task: RoundTask, _ask: int) -> RoundReport:
        if task.kind == "close":
            return RoundReport()
        sent = {"w": np.ones(2, np.float32)} if weights is None else weights
        return RoundReport(**{"patches": 10, "weights": sent, **fields})

    return answer


def order(folder: Path, plan: FederationPlan, first_round: int = 1) -> RunOrder:
    (folder / "weights").mkdir(exist_ok=True)
    return RunOrder(
        plan=plan,
        run="r1",
        first_round=first_round,
        nodes=folder / "nodes.json",
        records=folder / "records.jsonl",
        weights=folder / "weights",
    )


def conduct(order: RunOrder, sites: FakeSites) -> list[str]:
    FederatedRun(
        order,
        sites=sites,
        registered=lambda: sorted(sites.behaviours),
        clock=sites.clock,
    ).run()
    return [f"{r.kind} {r.round} {r.outcome}" for r in RecordFile(order.records).read()]


def first_record(folder: Path) -> RoundRecord:
    return RecordFile(folder / "records.jsonl").read()[0]


def student(folder: Path, number: int) -> Weights:
    path = folder / "weights" / f"round-{number:06d}.safetensors"
    return load_with_metadata(path)[0]


def world(**behaviours: Behaviour) -> FakeSites:
    return FakeSites(FakeClock(), behaviours)
