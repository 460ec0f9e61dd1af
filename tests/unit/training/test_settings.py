"""What the training settings refuse, and what a release may not change."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from moma_core.training import devices
from moma_core.training.devices import loading_workers
from moma_core.training.settings import TrainingSettings, former_defaults, run_digest


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "2dc8a60f488996d18d64b35335dc290fdc306ae2da123ef4a7e1c400ac5fdb4a"),
        (
            {"batch_size": 16, "precision": "bf16-mixed"},
            "df32a4da79eaa7ed81522b8b9bb7302794a783e226fcd99d106dc981afc74da9",
        ),
    ],
)
def test_settings_of_the_release_before_have_the_digest_that_they_had(
    changes: dict[str, Any], digest: str
) -> None:
    settings = former_defaults(TrainingSettings(**changes))

    assert run_digest(settings, {"method": "moma"}) == digest


@pytest.mark.parametrize(
    ("changes", "is_another_run"),
    [
        ({"ema_decay": 0.9}, True),
        ({"balance": "sampler"}, True),
        ({"balance": "weights"}, False),
        ({"workers": 3}, False),
        ({"log_every_seconds": 1}, False),
    ],
)
def test_what_changes_the_student_changes_the_digest(
    changes: dict[str, Any], is_another_run: bool
) -> None:
    before = run_digest(TrainingSettings(), {})

    assert (run_digest(TrainingSettings(**changes), {}) != before) == is_another_run


def test_adamw_refuses_the_rate_that_is_right_for_sgd() -> None:
    with pytest.raises(ValidationError, match=r"0.05 is too high for adamw: write"):
        TrainingSettings(optimiser="adamw")


def test_a_micro_batch_is_no_larger_than_the_batch() -> None:
    with pytest.raises(ValidationError, match="micro_batch_size 80 is larger"):
        TrainingSettings(micro_batch_size=80)


@pytest.mark.parametrize(
    ("changes", "has_gpu", "cores", "workers"),
    [
        ({}, False, 8, 0),
        ({"accelerator": "cpu"}, True, 8, 0),
        ({}, True, 8, 7),
        ({}, True, 1, 1),
        ({}, True, 96, 16),
        ({"devices": 2}, True, 9, 4),
        ({"workers": 3}, False, 8, 3),
    ],
)
def test_auto_loads_with_the_cores_that_a_gpu_leaves(
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    has_gpu: bool,
    cores: int,
    workers: int,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(cores)))

    assert loading_workers(TrainingSettings(**changes)) == workers


def test_who_wrote_how_classes_are_balanced_is_taken_at_the_word() -> None:
    written = TrainingSettings(balance="weights")

    assert former_defaults(written) == written
    assert former_defaults(TrainingSettings()).balance == "none"
