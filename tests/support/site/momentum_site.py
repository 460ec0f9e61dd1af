"""A site whose remote teacher follows its student, small enough to train in seconds."""

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.egress.outcome import StudentOutcome
from moma_client.metrics import ClientMetrics, silent_metrics
from moma_client.student.factory import SiteTeacher, StudentJob
from moma_client.student.launch import run_student
from moma_client.student.round import SiteCallback
from moma_core.config import validated
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.distillation.methods.names import Method
from moma_core.distillation.scenario import SiteTask, choose_scenario
from moma_core.distillation.step import StepLosses
from moma_core.federation.task import RoundTask
from moma_core.models.backbone import Backbone
from moma_core.models.weights import load_weights
from moma_core.teacher.card.card import TeacherCard
from tests.support.federation.pki import Pki
from tests.support.site.tiny_site import local_config
from tests.support.teacher.moving_teacher import KeptCopies
from tests.support.teacher.sealed import TEACHER_KEY

PATCHES = 84 + 11 * 8  # of an epoch: all unlabelled ones, 8 a step, and 8 labelled
FIRST = RoundTask(
    kind="train", run="run", round=1, rounds=1, local_epochs=1, mode="independent"
)
KILLED = 9


def served_teacher(folder: Path, card: TeacherCard) -> KeptCopies:
    """Returns the teacher that `write_teacher` wrote, ready to be served."""
    network = Backbone(card.architecture, len(card.class_names))
    load_weights(network, folder / "weights.safetensors")
    return KeptCopies(network, card)


def momentum_config(
    folder: Path, pki: Pki, port: int, *, sections: Any = None, **teacher: Any
) -> SiteConfig:
    """Returns the config of `site-a`; `teacher` overwrites keys of its section."""
    folder.mkdir(parents=True, exist_ok=True)
    files = pki.write(folder / "keys", pki.site("site-a"))
    values = local_config(folder, **(sections or {})).model_dump(mode="json")
    values["federation"] = pki.federation
    values["identity"] |= {
        "certificate": str(files.certificate),
        "key": str(files.key),
        "authority": str(files.ca),
        "signing_key": str(files.signing_key),
    }
    values["training"]["checkpoint_every_steps"] = 4
    values["teacher"] = {
        "mode": "momentum",
        "weights_may_leave": True,
        "name": "teacher-a",
        "address": f"localhost:{port}",
        "key": TEACHER_KEY,
        **teacher,
    }
    return validated(SiteConfig, values, folder / "config.yaml")


def student_job(
    config: SiteConfig,
    card: TeacherCard,
    method: Method = "moma",
    task: RoundTask = FIRST,
) -> StudentJob:
    site = SiteTask(config.task.organ, config.task.task, CLASS_NAMES)
    folder = config.state_dir / "runs" / task.run / method
    scenario = choose_scenario(site, card, None)
    teacher = SiteTeacher(config, card, scenario)
    return StudentJob(config, method, (teacher,), folder, b"key", task)


def run(job: StudentJob, metrics: ClientMetrics | None = None) -> StudentOutcome:
    metrics = metrics or silent_metrics()
    watch = SiteCallback(
        RunContext(job.config, threading.Event(), metrics), None, job.method
    )
    return run_student(job, watch)


def run_and_be_stopped(job: StudentJob, after_step: int) -> None:
    """Runs a job whose operator stops it in the middle."""
    watch = _Stopper(
        RunContext(job.config, threading.Event(), silent_metrics()), None, job.method
    )
    watch.last_step = after_step
    run_student(job, watch)


class _Stopper(SiteCallback):
    """Is an operator who stops the program after a step."""

    last_step = 0

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        super().after_step(step, steps, losses)
        if step == self.last_step:
            self.context.stop.set()


def run_and_be_killed(job: StudentJob, after_step: int) -> int:
    """Runs a job in a process that ends in the middle, and returns its exit code."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_run_and_die, args=(job, after_step))
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


class _Reaper(SiteCallback):
    """Ends its own process after a step: nothing is closed, nothing is saved."""

    def __init__(self, after_step: int, job: StudentJob) -> None:
        context = RunContext(job.config, threading.Event(), silent_metrics())
        super().__init__(context, None, job.method)
        self._after_step = after_step

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        if step == self._after_step:
            os._exit(KILLED)


def _run_and_die(job: StudentJob, after_step: int) -> None:
    run_student(job, _Reaper(after_step, job))
