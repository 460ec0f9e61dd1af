"""A remote teacher that follows the student, against one on the site's own disk."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moma_client.teacher.momentum import MomentumPlan, RemoteMomentumTeacher
from moma_core.data.batch import Batch
from moma_core.end_to_end.sealed_messages import SEALING_BYTES
from moma_core.errors import ConfigError, MalformedRequestError, PolicyError
from moma_core.models.backbone import Normalise
from moma_core.models.ema import MomentumTerms
from moma_core.models.encoder import Encoder
from moma_core.models.settings import BatchNorm, Schedule
from moma_core.teacher.local import MomentumTeacher
from moma_core.teacher.protocol import Teacher, TeacherOutput
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import Site, running
from tests.support.site.tiny import ConvEncoder, random_batches
from tests.support.teacher.moving_teacher import (
    FREELY,
    KeptCopies,
    card_of,
    tiny_student,
)

TERMS = MomentumTerms(0.9, class_order=(2, 0, 1))


@pytest.fixture
def backend() -> KeptCopies:
    encoder = tiny_student(5)
    return KeptCopies(encoder, replace(card_of(encoder), input_size_px=12))


def student() -> ConvEncoder:
    leads = tiny_student(7)
    leads.architecture = "tiny convolution"
    return leads


def plan(terms: MomentumTerms = TERMS, **changed: Any) -> MomentumPlan:
    values: dict[str, Any] = {
        "schedule": "published",
        "sync_every_steps": 1,
        "sync_deadline_seconds": 10.0,
    }
    return MomentumPlan(terms, **{**values, **changed})


def followed(
    teacher: Teacher, leads: Encoder, batches: Iterator[Batch]
) -> list[TeacherOutput]:
    """Returns the answers; after each, the student takes a step of its own."""
    answers = []
    for batch, answer in teacher.answer_batches(batches):
        assert answer is not None
        answers.append(answer)
        step_of(leads, batch.step)
    return answers


def step_of(leads: Encoder, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for tensor in (*leads.parameters(), *leads.buffers()):
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.data.add_(0.3 * noise)
        else:
            tensor.add_(1)


def locally(
    backend: KeptCopies, terms: MomentumTerms, schedule: Schedule, steps: int
) -> tuple[list[TeacherOutput], Encoder]:
    """Returns what the published teacher answers, and where it stands at the end."""
    leads = student()
    normalise = Normalise(backend.card.mean, backend.card.std)
    teacher = MomentumTeacher(
        copy.deepcopy(backend.encoder), leads, normalise, terms, schedule
    )
    return followed(teacher, leads, random_batches(steps)), teacher.encoder


def assert_alike(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, Tensor):
            largest = 1e-5 * float(other.abs().max())
            torch.testing.assert_close(one, other, rtol=1e-5, atol=largest)


@pytest.mark.parametrize("schedule", ["published", "single_pass"])
@pytest.mark.parametrize("batch_norm", ["moving", "adapt"])
def test_a_sync_a_step_equals_a_teacher_on_the_disk(
    tmp_path: Path,
    pki: Pki,
    backend: KeptCopies,
    schedule: Schedule,
    batch_norm: BatchNorm,
) -> None:
    terms, leads = replace(TERMS, batch_norm=batch_norm), student()
    with running(tmp_path / "teacher", pki, backend, momentum=FREELY) as served:
        site = Site(tmp_path / "site", pki, served.port)
        with site.teacher() as remote:
            teacher = RemoteMomentumTeacher(
                remote, leads, plan(terms, schedule=schedule)
            )
            answers = followed(teacher, leads, random_batches(6))
            charged = remote.budget().charged_patches

    expected, stands = locally(backend, terms, schedule, 6)
    for found, wanted in zip(answers, expected, strict=True):
        assert_alike(found[:2], wanted[:2])
    assert_alike(backend.copies[0].encoder.parameters(), stands.parameters())
    passes = 2 if schedule == "published" else 1
    assert charged == 6 * 6 * passes


@pytest.mark.parametrize("schedule", ["published", "single_pass"])
def test_a_sync_in_ten_steps_equals_a_teacher_on_the_disk_at_each_sync(
    tmp_path: Path, pki: Pki, backend: KeptCopies, schedule: Schedule
) -> None:
    leads, steps = student(), 30
    with running(tmp_path / "teacher", pki, backend, momentum=FREELY) as served:
        site = Site(tmp_path / "site", pki, served.port)
        with site.teacher() as remote:
            chosen = plan(schedule=schedule, sync_every_steps=10)
            teacher = RemoteMomentumTeacher(remote, leads, chosen)
            answers = followed(teacher, leads, random_batches(steps))
            charged = remote.budget().charged_patches

    expected, stands = locally(backend, TERMS, schedule, steps)
    for step in (9, 19, 29):
        assert_alike([answers[step].embedding], [expected[step].embedding])
        if schedule == "single_pass":
            assert_alike([answers[step].logits], [expected[step].logits])
    assert_alike(backend.copies[0].encoder.buffers(), stands.buffers())
    assert_alike(backend.copies[0].encoder.parameters(), stands.parameters())
    assert charged == 6 * (steps + (3 if schedule == "published" else 0))


def test_what_leaves_the_site_is_counted_weights_included(
    tmp_path: Path, pki: Pki, backend: KeptCopies
) -> None:
    leads, steps = student(), 4
    with running(tmp_path / "teacher", pki, backend, momentum=FREELY) as served:
        site = Site(tmp_path / "site", pki, served.port)
        with site.teacher() as remote:
            teacher = RemoteMomentumTeacher(
                remote, leads, plan(schedule="single_pass", sync_every_steps=2)
            )
            followed(teacher, leads, random_batches(steps))

    pixels = steps * 6 * 12 * 12 * 3
    held = sum(tensor.nbytes for tensor in (*leads.parameters(), *leads.buffers()))
    sent = site.metric("egress_bytes_total", channel="teacher")
    messages = 1 + steps + 2 * 2 + 1  # a session, queries, updates of two, the end
    assert pixels + 2 * held < sent < pixels + 2 * held + messages * SEALING_BYTES
    assert site.metric("patches_total", source="teacher") == steps * 6


def test_a_restarted_teacher_is_brought_to_where_it_was(
    tmp_path: Path, pki: Pki, backend: KeptCopies
) -> None:
    leads = student()

    def restarting(port: int) -> Iterator[Batch]:
        """Stops the teacher before the fourth step, and starts it again."""
        for batch in random_batches(7):
            if batch.step == 3:
                first.__exit__(None, None, None)
                second.__enter__()
            yield batch

    first = running(tmp_path / "teacher", pki, backend, momentum=FREELY)
    port = first.__enter__().port
    second = running(tmp_path / "teacher", pki, backend, momentum=FREELY, port=port)
    with Site(tmp_path / "site", pki, port).teacher() as remote:
        teacher = RemoteMomentumTeacher(remote, leads, plan(sync_every_steps=2))
        answers = followed(teacher, leads, restarting(port))
        charged = remote.budget().charged_patches
    second.__exit__(None, None, None)

    expected, _ = locally(backend, TERMS, "published", 7)
    for step in (1, 3, 5):
        assert_alike([answers[step].embedding], [expected[step].embedding])
    assert len(backend.copies) == 2
    assert charged == 6 * (7 + 3)


def test_a_session_that_is_lost_before_every_step_is_opened_anew(
    tmp_path: Path, pki: Pki, backend: KeptCopies
) -> None:
    leads = student()
    with running(tmp_path / "teacher", pki, backend, momentum=FREELY) as served:

        def losing() -> Iterator[Batch]:
            for batch in random_batches(4):
                served.server.sessions.clear()
                yield batch

        with Site(tmp_path / "site", pki, served.port).teacher() as remote:
            teacher = RemoteMomentumTeacher(remote, leads, plan())
            answers = followed(teacher, leads, losing())

    expected, _ = locally(backend, TERMS, "published", 4)
    for found, wanted in zip(answers, expected, strict=True):
        assert_alike(found[:2], wanted[:2])


def test_a_step_that_is_taken_again_is_answered_and_charged_as_the_first_time(
    tmp_path: Path, pki: Pki, backend: KeptCopies
) -> None:
    leads = student()
    with running(tmp_path / "teacher", pki, backend, momentum=FREELY) as served:
        site = Site(tmp_path / "site", pki, served.port)
        with site.teacher() as remote:
            teacher = RemoteMomentumTeacher(remote, leads, plan())
            batches = list(random_batches(4))
            followed(teacher, leads, iter(batches[:3]))
            first = next(iter(teacher.answer_batches(iter(batches[3:]))))[
                1
            ]  # and it fails
            kept = copy.deepcopy(teacher.momentum.state_dict())
            charged = remote.budget().charged_patches

        with site.teacher() as remote:
            resumed = RemoteMomentumTeacher(remote, leads, plan())
            resumed.momentum.load_state_dict(kept)
            again = next(iter(resumed.answer_batches(iter(batches[3:]))))[1]

            assert torch.equal(first.embedding, again.embedding)
            assert torch.equal(first.logits, again.logits)
            assert remote.budget().charged_patches == charged == 4 * 6 * 2


def test_a_batch_that_must_be_whole_and_does_not_fit_is_refused(
    tmp_path: Path, pki: Pki, backend: KeptCopies
) -> None:
    leads, terms = student(), replace(TERMS, batch_norm="adapt")
    with (
        running(tmp_path / "teacher", pki, backend, momentum=FREELY) as served,
        Site(tmp_path / "site", pki, served.port).teacher() as remote,
    ):
        teacher = RemoteMomentumTeacher(remote, leads, plan(terms))

        with pytest.raises(ConfigError, match=r"lower training\.batch_size"):
            next(teacher.answer_batches(random_batches(1, size=17)))

        assert remote.budget().charged_patches == 0


def test_the_teachers_refusals_reach_the_operator(
    tmp_path: Path, pki: Pki, backend: KeptCopies
) -> None:
    policy, leads = replace(FREELY, lowest_decay=0.99), student()
    with (
        running(tmp_path / "teacher", pki, backend, momentum=policy) as served,
        Site(tmp_path / "site", pki, served.port).teacher() as remote,
    ):
        low = RemoteMomentumTeacher(remote, leads, plan())
        with pytest.raises(PolicyError, match=r"decay 0\.9 is below the allowed"):
            next(low.answer_batches(random_batches(1)))

        leads.architecture = "resnet50"
        terms = replace(TERMS, decay=0.999)
        other = RemoteMomentumTeacher(remote, leads, plan(terms))
        with pytest.raises(MalformedRequestError, match="the student's 'resnet50'"):
            next(other.answer_batches(random_batches(1)))
