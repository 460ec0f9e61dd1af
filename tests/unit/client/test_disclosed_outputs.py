"""A teacher that withholds: what a student can still learn, and what is refused."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry

from moma_client.metrics import ClientMetrics
from moma_client.student.launch import run_student
from moma_client.student.progress import SiteCallback
from moma_core.distillation.methods.names import check_disclosed
from moma_core.errors import ConfigError
from moma_core.teacher.card.card import Output, TeacherCard
from tests.unit.client.tiny_site import local_config, student_job, write_teacher


@pytest.fixture
def card(tmp_path: Path) -> TeacherCard:
    torch.manual_seed(0)
    return write_teacher(tmp_path / "teacher")


def test_a_teacher_is_learned_from_as_far_as_it_tells(
    tmp_path: Path, card: TeacherCard
) -> None:
    config = local_config(tmp_path, teacher={"schedule": "frozen"})

    def losses(*told: Output) -> dict[str, float]:
        registry = CollectorRegistry()
        metrics = ClientMetrics(registry)
        job = student_job(config, replace(card, outputs=told))
        job = replace(job, folder=tmp_path / "-".join(told))
        run_student(
            job, SiteCallback(threading.Event(), metrics, None, "moma"), metrics
        )
        return {
            term: registry.get_sample_value("moma_client_loss", {"term": term}) or 0
            for term in ("classification", "contrastive", "distillation", "total")
        }

    both, logits, embedding = (
        losses("embedding", "logits"),
        losses("logits"),
        losses("embedding"),
    )
    assert both["total"] == pytest.approx(
        both["classification"] + both["contrastive"] + both["distillation"], rel=1e-4
    )
    assert logits["total"] == pytest.approx(
        logits["classification"] + logits["distillation"], rel=1e-4
    )
    assert embedding["distillation"] == 0
    assert embedding["contrastive"] > 0


def test_a_method_is_refused_that_learns_from_what_is_withheld(
    card: TeacherCard,
) -> None:
    check_disclosed("kd", replace(card, outputs=("logits",)))
    check_disclosed("moma", replace(card, outputs=("logits",)))
    check_disclosed("ce", replace(card, outputs=("embedding",)))
    for method, told in (("kd", "embedding"), ("hint", "logits")):
        with pytest.raises(ConfigError, match=f"{method} needs the"):
            check_disclosed(method, replace(card, outputs=(told,)))
