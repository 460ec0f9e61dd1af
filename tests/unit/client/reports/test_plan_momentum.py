"""What a run with a teacher that follows would ask, held against what it asks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from moma_client.metrics import ClientMetrics
from moma_client.reports.plan import plan_queries
from moma_client.reports.plan_text import plan_lines
from moma_core.end_to_end.sealed_messages import SEALING_BYTES
from moma_core.teacher.ema_update import weights_to_bytes
from tests.support.federation.pki import Pki
from tests.support.site.momentum_site import (
    PATCHES,
    momentum_config,
    run,
    served_teacher,
    student_job,
)
from tests.support.site.remote_teacher import running
from tests.support.site.tiny_site import write_teacher
from tests.support.teacher.moving_teacher import FREELY

STEPS = 11  # ten of 16 patches, one of 12


@pytest.mark.parametrize(
    ("teacher", "baselines", "expected"),
    [
        ({}, (), (2 * PATCHES, 2 * STEPS, STEPS)),
        ({"schedule": "single_pass"}, (), (PATCHES, STEPS, STEPS)),
        ({"sync_every_steps": 3}, (), (PATCHES + 3 * 16, STEPS + 3, 3)),
        ({"batch_norm": "adapt"}, ("ce", "kd"), (3 * PATCHES, 3 * STEPS, STEPS)),
    ],
)
def test_a_plan_is_what_a_run_that_is_followed_then_asks(
    tmp_path: Path,
    pki: Pki,
    teacher: dict[str, Any],
    baselines: tuple[Any, ...],
    expected: tuple[int, int, int],
) -> None:
    card = write_teacher(tmp_path / "teacher")
    backend = served_teacher(tmp_path / "teacher", card)
    loose = replace(FREELY, most_distance=1e9)
    metrics = ClientMetrics(registry := CollectorRegistry())
    with running(tmp_path / "served", pki, backend, momentum=loose) as served:
        config = momentum_config(
            tmp_path / "site",
            pki,
            served.port,
            sections={"baselines": list(baselines)},
            **teacher,
        )
        plan = plan_queries(config, epochs=1, patches_per_second=None)
        for method in ("moma", *(name for name in baselines if name != "ce")):
            run(student_job(config, card, method), metrics)
        charged = served.budget.charged("site-a")

    sent = registry.get_sample_value(
        "moma_client_egress_bytes_total", {"channel": "teacher"}
    )
    assert (plan.queries, plan.requests, plan.syncs) == expected
    assert charged == plan.queries
    assert plan.sent_bytes == pytest.approx(sent, abs=4 * SEALING_BYTES)
    lines = "\n".join(plan_lines(plan))
    assert f"weights      sent {plan.syncs} times, " in lines


def test_the_weights_of_a_sync_are_those_of_the_whole_student(
    tmp_path: Path, pki: Pki
) -> None:
    card = write_teacher(tmp_path / "teacher")
    backend = served_teacher(tmp_path / "teacher", card)
    with running(tmp_path / "served", pki, backend, momentum=FREELY) as served:
        config = momentum_config(tmp_path / "site", pki, served.port)
        plan = plan_queries(config, epochs=1, patches_per_second=None)

    tensors: dict[str, torch.Tensor] = dict(backend.encoder.named_parameters())
    tensors |= dict(backend.encoder.named_buffers())
    assert plan.weights_bytes is not None
    assert plan.weights_bytes / STEPS == pytest.approx(
        len(weights_to_bytes(tensors)), abs=2 * SEALING_BYTES
    )


@pytest.mark.parametrize(("baselines", "queries"), [([], 0), (["kd"], PATCHES)])
def test_an_irrelevant_teacher_is_sent_no_weights(
    tmp_path: Path, pki: Pki, baselines: list[str], queries: int
) -> None:
    card = write_teacher(tmp_path / "teacher")
    backend = served_teacher(tmp_path / "teacher", card)
    sections = {
        "baselines": baselines,
        "task": {"organ": "prostate"},
        "distillation": {"fallback": "auto"},
    }
    with running(tmp_path / "served", pki, backend, momentum=FREELY) as served:
        config = momentum_config(tmp_path / "site", pki, served.port, sections=sections)
        plan = plan_queries(config, epochs=1, patches_per_second=None)

    assert (plan.queries, plan.syncs, plan.weights_bytes) == (queries, 0, 0)
