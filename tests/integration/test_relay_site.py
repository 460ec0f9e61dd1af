"""The real client and the real teacher with the relay between them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moma_client.momentum_teacher import MomentumPlan, RemoteMomentumTeacher
from moma_core.data.batch import Batch
from moma_core.errors import NotAdmittedError, PolicyError, TeacherUnavailableError
from moma_core.models.momentum import MomentumTerms
from tests.cuttable import cuttable
from tests.moving_teacher import FREELY, KeptCopies, card_of, tiny_student
from tests.pki import Pki
from tests.relay_world import Relay
from tests.relayed_teacher import linked, relay_at
from tests.remote_teacher import WAIT_SECONDS, Site, batches, running
from tests.teacher_server import CARD, MeanColour
from tests.tiny import random_batches

SIZES = [4] * 12


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


def settle(relay: Relay, links: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while relay.links.get("teacher-a", 0) != links:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def relayed_site(folder: Path, pki: Pki, port: int) -> Site:
    site = Site(folder / "site", pki, port)
    site.address = replace(site.address, is_relayed=True)
    return site


@contextmanager
def relayed(
    folder: Path, pki: Pki, colours: MeanColour, replicas: int = 1
) -> Iterator[tuple[Site, Relay]]:
    """Runs a teacher with one link or more, a relay, and a site."""
    with (
        running(folder / "teacher", pki, colours) as served,
        relay_at(folder / "relay", pki) as relay,
        ExitStack() as stack,
    ):
        for number in range(replicas):
            link = linked(folder / f"link-{number}", pki, relay.port, served)
            stack.enter_context(link)
        settle(relay, replicas)
        yield relayed_site(folder, pki, relay.port), relay


def test_a_site_asks_its_teacher_through_the_relay(tmp_path: Path, pki: Pki) -> None:
    colours = MeanColour()
    with relayed(tmp_path, pki, colours) as (site, relay), site.teacher() as teacher:
        card = teacher.describe()
        followed = list(teacher.follow(batches(SIZES)))
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
        running(tmp_path / "teacher", pki, colours) as served,
        relay_at(tmp_path / "relay", pki) as relay,
        cuttable(relay.port) as wire,
        linked(tmp_path / "link", pki, wire.entrance, served) as end,
    ):
        settle(relay, 1)
        site = relayed_site(tmp_path, pki, relay.port)
        steps = []
        with site.teacher(in_flight=3) as teacher:
            for batch, _ in teacher.follow(batches(SIZES)):
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
        running(tmp_path / "teacher", pki, MeanColour()) as served,
        ExitStack() as coordinator,
    ):
        folder = tmp_path / "relay"
        relay = coordinator.enter_context(relay_at(folder, pki))
        with linked(tmp_path / "link", pki, relay.port, served):
            settle(relay, 1)
            site = relayed_site(tmp_path, pki, relay.port)
            steps = []
            with site.teacher(in_flight=3) as teacher:
                for batch, _ in teacher.follow(batches(SIZES)):
                    steps.append(batch.step)
                    if batch.step == 5:
                        coordinator.close()
                        coordinator.enter_context(relay_at(folder, pki, relay.port))
                budget = teacher.budget()

    assert steps == list(range(12))
    assert budget.charged_patches == 48


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
            pytest.raises(PolicyError, match="no teacher teacher-x belongs"),
        ):
            teacher.describe()


def test_who_is_no_coordinator_is_no_relay(tmp_path: Path, pki: Pki) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        site = relayed_site(tmp_path, pki, served.port)

        with (
            site.teacher() as teacher,
            pytest.raises(NotAdmittedError, match="is not served here"),
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
                )
            )
            for number in range(2)
        ]
        relay = enter(relay_at(tmp_path / "relay", pki))
        for number, served in enumerate(replicas):
            enter(linked(tmp_path / f"link-{number}", pki, relay.port, served))
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
        for batch, answer in teacher.follow(small_batches()):
            assert answer is not None
            found.append(answer.embedding)
            with torch.no_grad():
                for parameter in student.parameters():
                    parameter += 0.01 * (batch.step + 1)
    return found


def small_batches() -> Iterator[Batch]:
    return random_batches(6)
