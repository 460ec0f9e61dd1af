"""The real client and the real teacher with the relay between them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import torch

from moma_client.teacher.momentum import MomentumPlan, RemoteMomentumTeacher
from moma_client.teacher.retry import RetryLimits
from moma_core.data.batch import Batch
from moma_core.errors import (
    NotAuthorizedError,
    TeacherUnavailableError,
    UnsignedRefusalError,
)
from moma_core.models.ema import MomentumTerms
from moma_server.teacher.inference.backend import TeacherBackend
from tests.support.federation.pki import Pki
from tests.support.machine.cuttable import cuttable
from tests.support.relay.ends import relayed_site
from tests.support.relay.relayed_teacher import linked, relay_at
from tests.support.relay.world import Relay
from tests.support.site.remote_teacher import WAIT_SECONDS, Site, batches, running
from tests.support.site.tiny import random_batches
from tests.support.teacher.moving_teacher import (
    FREELY,
    KeptCopies,
    card_of,
    tiny_student,
)
from tests.support.teacher.teacher_server import CARD, MeanColour

SIZES = [4] * 12
MORE_THAN_ONE_PARTYS = 12  # calls; one party of a direct connection may have 8


def until_equal(figure: Callable[[], int], value: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while figure() != value:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def settle(relay: Relay, links: int) -> None:
    until_equal(lambda: relay.links.get("teacher-a", 0), links)


@contextmanager
def behind_socket(folder: Path, pki: Pki, backend: TeacherBackend) -> Iterator[Path]:
    """Runs a teacher, and yields where it takes relayed calls."""
    socket = folder / "relayed.sock"
    with running(folder / "teacher", pki, backend, relayed_socket=socket):
        yield socket


@contextmanager
def relayed(
    folder: Path, pki: Pki, colours: MeanColour
) -> Iterator[tuple[Site, Relay]]:
    """Runs a teacher, a relay, and a site."""
    with (
        behind_socket(folder, pki, colours) as socket,
        relay_at(folder / "relay", pki) as relay,
        linked(folder / "link", pki, relay.port, socket),
    ):
        settle(relay, 1)
        yield relayed_site(folder, pki, relay.port), relay


def test_a_site_asks_its_teacher_through_the_relay(tmp_path: Path, pki: Pki) -> None:
    colours = MeanColour()
    with relayed(tmp_path, pki, colours) as (site, relay), site.teacher() as teacher:
        card = teacher.describe()
        followed = list(teacher.answer_batches(batches(SIZES)))
        budget = teacher.budget()

        assert relay.relayed_bytes("site-a", "to_teacher") > 48 * 8 * 8 * 3
    assert card == CARD
    assert [batch.step for batch, _ in followed] == list(range(12))
    for batch, answer in followed:
        expected = batch.views[:, :, 0, 0].float()
        torch.testing.assert_close(answer.embedding, expected)
    assert budget.charged_patches == colours.patches == 48


def test_a_lost_link_is_found_again_and_nothing_is_charged_twice(
    tmp_path: Path, pki: Pki
) -> None:
    colours = MeanColour()
    with (
        behind_socket(tmp_path, pki, colours) as socket,
        relay_at(tmp_path / "relay", pki) as relay,
        cuttable(relay.port) as wire,
        linked(tmp_path / "link", pki, wire.entrance, socket) as end,
    ):
        settle(relay, 1)
        site = relayed_site(tmp_path, pki, relay.port)
        steps = []
        with site.teacher(in_flight=3) as teacher:
            for batch, _ in teacher.answer_batches(batches(SIZES)):
                steps.append(batch.step)
                if batch.step in {3, 7}:
                    wire.cut()
            budget = teacher.budget()

        assert end.links == 3
    assert steps == list(range(12))
    assert budget.charged_patches == 48


def test_a_restarted_coordinator_loses_no_answer_and_charges_none_twice(
    tmp_path: Path, pki: Pki
) -> None:
    with (
        behind_socket(tmp_path, pki, MeanColour()) as socket,
        ExitStack() as coordinator,
    ):
        folder = tmp_path / "relay"
        relay = coordinator.enter_context(relay_at(folder, pki))
        with linked(tmp_path / "link", pki, relay.port, socket):
            settle(relay, 1)
            site = relayed_site(tmp_path, pki, relay.port)
            steps = []
            with site.teacher(in_flight=3) as teacher:
                for batch, _ in teacher.answer_batches(batches(SIZES)):
                    steps.append(batch.step)
                    if batch.step == 5:
                        coordinator.close()
                        coordinator.enter_context(relay_at(folder, pki, relay.port))
                budget = teacher.budget()

    assert steps == list(range(12))
    assert budget.charged_patches == 48


def test_many_open_calls_of_others_do_not_keep_a_site_waiting(
    tmp_path: Path, pki: Pki
) -> None:
    with (
        relayed(tmp_path, pki, MeanColour()) as (site, relay),
        relay.channel(pki.site("site-b"), grpc) as channel,
        ExitStack() as stack,
    ):
        over = threading.Event()
        stack.callback(over.set)
        for _ in range(MORE_THAN_ONE_PARTYS):
            embed = channel.stream_stream("/moma.v1.TeacherService/Embed")
            call = embed(
                (b"" for _ in iter(over.wait, True)),  # says nothing
                metadata=(("moma-teacher", "teacher-a"),),
            )
            stack.callback(call.cancel)
        until_equal(lambda: relay.server.forwarder.open_calls, MORE_THAN_ONE_PARTYS)

        site.address = replace(site.address, connect_deadline_seconds=15.0)
        with site.teacher(retries=RetryLimits(failures=0)) as teacher:
            assert teacher.describe() == CARD


def test_an_absent_teacher_is_away_and_an_unknown_one_is_refused(
    tmp_path: Path, pki: Pki
) -> None:
    with relay_at(tmp_path / "relay", pki) as relay:
        site = relayed_site(tmp_path, pki, relay.port)
        with (
            site.teacher() as teacher,
            pytest.raises(TeacherUnavailableError, match="teacher-a is not linked"),
        ):
            teacher.describe()
        site.address = replace(site.address, name="teacher-x")
        with (
            site.teacher() as teacher,
            pytest.raises(UnsignedRefusalError, match="no teacher teacher-x belongs"),
        ):
            teacher.describe()


def test_who_is_no_coordinator_is_no_relay(tmp_path: Path, pki: Pki) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = relayed_site(tmp_path, pki, served.port)

        with (
            site.teacher() as teacher,
            pytest.raises(NotAuthorizedError, match="another service listens there"),
        ):
            teacher.describe()


def test_the_calls_of_a_momentum_session_stay_with_its_replica(
    tmp_path: Path, pki: Pki
) -> None:
    encoder = tiny_student(5)
    card = replace(card_of(encoder), input_size_px=12)
    with ExitStack() as stack:
        enter = stack.enter_context
        replicas = [
            enter(
                running(
                    tmp_path / f"teacher-{number}",
                    pki,
                    KeptCopies(encoder, card),
                    momentum=FREELY,
                    relayed_socket=tmp_path / f"{number}.sock",
                )
            )
            for number in range(2)
        ]
        relay = enter(relay_at(tmp_path / "relay", pki))
        for number in range(len(replicas)):
            socket = tmp_path / f"{number}.sock"
            enter(linked(tmp_path / f"link-{number}", pki, relay.port, socket))
        settle(relay, 2)

        through = answers(relayed_site(tmp_path, pki, relay.port))
        directly = answers(Site(tmp_path / "direct", pki, replicas[0].port))

    assert len(through) == 6
    torch.testing.assert_close(through, directly)


def answers(site: Site) -> list[torch.Tensor]:
    """Returns what a teacher that follows a student answers to six batches."""
    student = tiny_student(7)
    student.architecture = "tiny convolution"
    plan = MomentumPlan(MomentumTerms(0.9, class_order=(2, 0, 1)), "published", 1, 10.0)
    found = []
    with site.teacher(patches_per_request=4) as remote:
        teacher = RemoteMomentumTeacher(remote, student, plan)
        for batch, answer in teacher.answer_batches(small_batches()):
            assert answer is not None
            found.append(answer.embedding)
            with torch.no_grad():
                for parameter in student.parameters():
                    parameter += 0.01 * (batch.step + 1)
    return found


def small_batches() -> Iterator[Batch]:
    return random_batches(6)
