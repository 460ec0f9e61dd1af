"""The client's teacher link against the real server."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moma_core.end_to_end.sealed_messages import SEALING_BYTES
from moma_core.errors import (
    BudgetSpentError,
    StoppedError,
    TeacherUnavailableError,
    UnsignedRefusalError,
)
from moma_core.teacher.query import Pixels
from tests.support.federation.pki import Pki
from tests.support.machine.waiting import promised
from tests.support.site.remote_teacher import WAIT_SECONDS, Site, batches, running
from tests.support.teacher.teacher_server import CARD, MeanColour


@pytest.fixture
def colours() -> MeanColour:
    return MeanColour()


@pytest.fixture
def site(tmp_path: Path, pki: Pki, colours: MeanColour) -> Iterator[Site]:
    with running(tmp_path / "teacher", pki, colours) as served:
        yield Site(tmp_path / "site", pki, served.port)


class SlowColour(MeanColour):
    def predict(
        self, pixels: Pixels
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        time.sleep(0.03)
        return super().predict(pixels)


def site_threads() -> set[threading.Thread]:
    """Returns the threads that run, but for the server's pool, which only grows."""
    return {
        thread
        for thread in threading.enumerate()
        if not thread.name.startswith("asyncio_")
    }


def settle(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds; gRPC ends its own threads a little later."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_site_reads_the_card_and_its_budget(site: Site) -> None:
    with site.teacher() as teacher:
        card = teacher.describe()
        budget = teacher.budget()

    assert card == CARD
    assert budget == (1000, 0)


@pytest.mark.parametrize("in_flight", [1, 3, 20])
def test_every_batch_comes_once_in_order_with_its_own_answer(
    site: Site, in_flight: int
) -> None:
    sizes = [5, 1, 40, 16, 17, 2, 30]  # more than 16 take several requests

    with site.teacher(in_flight=in_flight) as teacher:
        followed = list(teacher.answer_batches(batches(sizes)))

    assert [len(batch.views) for batch, _ in followed] == sizes
    for expected, (batch, answer) in zip(batches(sizes), followed, strict=True):
        colour = expected.views[:, :, 0, 0].float()
        assert batch.step == expected.step
        torch.testing.assert_close(answer.embedding, colour)
        torch.testing.assert_close(answer.logits, colour[:, :2])
        assert answer.embedding.dtype == answer.logits.dtype == torch.float32
        assert not answer.embedding.requires_grad


def test_what_leaves_the_site_is_counted(site: Site) -> None:
    with site.teacher() as teacher:
        list(teacher.answer_batches(batches([4, 20])))

        assert teacher.budget().charged_patches == 24
        assert teacher.waited_seconds > 0
    assert site.metric("patches_total", source="teacher") == 24
    assert site.metric("teacher_wait_seconds_total") == teacher.waited_seconds
    pixels, messages = 24 * 8 * 8 * 3, 3
    sent = site.metric("egress_bytes_total", channel="teacher")
    assert pixels < sent < pixels + messages * SEALING_BYTES


def test_views_of_another_size_are_resized_to_the_cards(site: Site) -> None:
    with site.teacher() as teacher:
        ((_, answer),) = teacher.answer_batches(batches([7], side=12))

    torch.testing.assert_close(answer.embedding[:, 0], torch.arange(7.0))


def test_the_loop_reads_no_further_ahead_than_it_was_told(site: Site) -> None:
    taken = 0

    def counted() -> Iterator[object]:
        nonlocal taken
        for batch in batches([2] * 10):
            taken += 1
            yield batch

    with site.teacher(in_flight=3) as teacher:
        followed = teacher.answer_batches(counted())
        ahead = [taken - used for used, _ in enumerate(followed)]

    assert max(ahead) == 3


def test_asking_ahead_hides_the_teachers_latency(tmp_path: Path, pki: Pki) -> None:
    def waited(site: Site, in_flight: int, number: int) -> float:
        run = f"{in_flight} {number}".encode()
        with site.teacher(run, in_flight=in_flight) as teacher:
            for _ in teacher.answer_batches(batches([2] * 15)):
                time.sleep(0.04)
            return teacher.waited_seconds

    with running(tmp_path / "teacher", pki, SlowColour()) as served:
        site = Site(tmp_path / "site", pki, served.port)
        # other load disturbs one measurement, not each of them
        assert any(waited(site, 4, n) < 0.6 * waited(site, 1, n) for n in range(5))


def test_a_restart_of_the_teacher_is_survived_and_charged_once(
    tmp_path: Path, pki: Pki
) -> None:
    folder = tmp_path / "teacher"
    with ExitStack() as first_life, ThreadPoolExecutor(1) as loop:
        served = first_life.enter_context(running(folder, pki, MeanColour()))
        site = Site(tmp_path / "site", pki, served.port)
        with site.teacher(in_flight=4) as teacher:
            answering = teacher.answer_batches(batches([3] * 12))
            steps = [next(answering)[0].step for _ in range(5)]
            first_life.close()
            rest = loop.submit(list, answering)
            time.sleep(0.3)  # nobody answers
            # the second life shows another certificate of the same name
            with running(folder, pki, MeanColour(), port=served.port):
                steps += [batch.step for batch, _ in rest.result()]
                budget = teacher.budget()

    assert steps == list(range(12))
    assert budget.charged_patches == 36


def test_a_teacher_with_other_weights_after_a_restart_is_refused(
    tmp_path: Path, pki: Pki
) -> None:
    folder = tmp_path / "teacher"
    other = MeanColour(replace(CARD, digest="1" * 64))
    with ExitStack() as first_life:
        served = first_life.enter_context(running(folder, pki, MeanColour()))
        site = Site(tmp_path / "site", pki, served.port)
        with site.teacher(in_flight=1) as teacher:
            answering = teacher.answer_batches(batches([3] * 4))
            next(answering)
            first_life.close()

            with (
                running(folder, pki, other, port=served.port),
                pytest.raises(TeacherUnavailableError, match="card changed"),
            ):
                next(answering)


def test_the_end_of_the_budget_is_told_after_the_last_answer(
    tmp_path: Path, pki: Pki
) -> None:
    grants = {"site-a": 10}
    with running(tmp_path / "teacher", pki, MeanColour(), grants=grants) as served:
        site = Site(tmp_path / "site", pki, served.port)
        with site.teacher() as teacher:
            answering = teacher.answer_batches(batches([4] * 6))
            answered = [next(answering)[0].step for _ in range(2)]

            with pytest.raises(BudgetSpentError, match=r"the teacher says: .*10"):
                next(answering)

    assert answered == [0, 1]


def test_a_resumed_run_is_not_charged_again(site: Site) -> None:
    with site.teacher(b"run-1", in_flight=3) as teacher:
        answering = teacher.answer_batches(batches([4] * 8))
        for _ in range(4):
            next(answering)
        answering.close()
    with site.teacher(b"run-1") as teacher:
        resumed = list(teacher.answer_batches(batches([4] * 8)))
        charged = teacher.budget().charged_patches
    with site.teacher(b"run-2") as teacher:
        list(teacher.answer_batches(batches([4])))
        charged_by_another_run = teacher.budget().charged_patches - charged

    assert len(resumed) == 8
    assert charged == 32
    assert charged_by_another_run == 4


def test_the_operators_stop_ends_the_wait_for_an_answer(
    site: Site, colours: MeanColour
) -> None:
    colours.free.clear()  # the model hangs
    timer = threading.Timer(0.3, site.stop.set)
    with site.teacher() as teacher:
        answering = teacher.answer_batches(batches([2]))
        timer.start()
        since = time.monotonic()

        with pytest.raises(StoppedError):
            next(answering)

    assert time.monotonic() - since < promised(1.3)


def test_an_answer_that_does_not_come_in_time_is_asked_for_again(
    site: Site, colours: MeanColour
) -> None:
    colours.free.clear()
    timer = threading.Timer(0.6, colours.free.set)
    with site.teacher(answer_deadline_seconds=0.4) as teacher:
        timer.start()
        ((_, answer),) = teacher.answer_batches(batches([2]))
        charged = teacher.budget().charged_patches

    assert answer.embedding.shape == (2, 3)
    assert charged == 2


def test_nothing_is_left_running_when_the_loop_leaves_in_the_middle(
    site: Site,
) -> None:
    with site.teacher(b"warm-up") as teacher:  # the server starts threads too
        list(teacher.answer_batches(batches([2])))
    settle(
        lambda: not any(thread.name.startswith("link-") for thread in site_threads())
    )
    before = site_threads()

    with site.teacher(in_flight=4) as teacher:
        answering = teacher.answer_batches(batches([2] * 20))
        next(answering)
        extra = {thread.name for thread in site_threads() - before}
        answering.close()

    assert "teacher-responses" in extra
    settle(lambda: site_threads() <= before)


def test_a_site_that_was_revoked_is_told_so(tmp_path: Path, pki: Pki) -> None:
    credential = pki.site("site-a")
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        served.revoke(credential)
        site = Site(tmp_path / "site", pki, served.port, credential=credential)
        with (
            site.teacher() as teacher,
            pytest.raises(UnsignedRefusalError, match="site site-a is revoked"),
        ):
            teacher.describe()
