"""A teacher that withholds: what a student can still learn, and what is refused."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.metrics import ClientMetrics
from moma_client.student.launch import run_student
from moma_client.student.round import SiteCallback
from moma_core.distillation.methods.names import check_disclosed
from moma_core.errors import ConfigError
from moma_core.teacher.card.card import Output, TeacherCard
from tests.support.site.tiny_site import local_config, student_job, write_teacher


@pytest.fixture
def card(tmp_path: Path) -> TeacherCard:
    torch.manual_seed(0)
    return write_teacher(tmp_path / "teacher")


def _losses(config: SiteConfig, card: TeacherCard, folder: Path) -> dict[str, float]:
    registry = CollectorRegistry()
    context = RunContext(config, threading.Event(), ClientMetrics(registry))
    job = replace(student_job(config, card), folder=folder)
    run_student(job, SiteCallback(context, None, "moma"))
    return {
        term: registry.get_sample_value("moma_client_loss", {"term": term}) or 0
        for term in ("classification", "contrastive", "distillation", "total")
    }


def test_a_teacher_is_learned_from_as_far_as_it_tells(
    tmp_path: Path, card: TeacherCard
) -> None:
    config = local_config(tmp_path, teacher={"schedule": "frozen"})
    told: tuple[tuple[Output, ...], ...] = (
        ("embedding", "logits"),
        ("logits",),
        ("embedding",),
    )

    both, logits, embedding = (
        _losses(config, replace(card, outputs=each), tmp_path / "-".join(each))
        for each in told
    )
    assert both["total"] == pytest.approx(
        both["classification"] + both["contrastive"] + both["distillation"], rel=1e-4
    )
    assert logits["total"] == pytest.approx(
        logits["classification"] + logits["distillation"], rel=1e-4
    )
    assert embedding["distillation"] == 0
    assert embedding["contrastive"] > 0


@pytest.mark.parametrize(
    ("told", "is_learned"), [("embedding", True), ("logits", False)]
)
def test_class_centres_are_of_embeddings_and_need_no_logits(
    tmp_path: Path, card: TeacherCard, told: Output, is_learned: bool
) -> None:
    config = local_config(
        tmp_path,
        teacher={"schedule": "frozen"},
        distillation={
            "other_classes": "prototypes",
            "attention": "none",
            "bank_start": "empty",
        },
    )
    other = replace(card, task="another", outputs=(told,))

    found = _losses(config, other, tmp_path / "student")
    irrelevant = _losses(config, replace(other, organ="prostate"), tmp_path / "other")

    assert (found["distillation"] > 0) == is_learned
    assert irrelevant["distillation"] == 0


def test_a_method_is_refused_that_learns_from_what_is_withheld(
    card: TeacherCard,
) -> None:
    check_disclosed("kd", replace(card, outputs=("logits",)))
    check_disclosed("moma", replace(card, outputs=("logits",)))
    check_disclosed("ce", replace(card, outputs=("embedding",)))
    for method, told in (("kd", "embedding"), ("hint", "logits")):
        with pytest.raises(ConfigError, match=f"{method} needs the"):
            check_disclosed(method, replace(card, outputs=(told,)))
