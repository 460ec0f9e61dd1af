"""A replica is killed, or the relay, while it holds a request: nothing is lost.

Relay and replicas are processes of their own; the site is the real client. What is
under way when something dies is under way for sure: the models hold a request until
the test lets them go on.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moma_client.audit.receipts import read_receipts, verify_receipts
from moma_client.teacher.retry import RetryLimits
from moma_core.audit.reconcile import reconcile
from moma_core.policy.usage import unique_patches
from tests.support.federation.pki import Pki
from tests.support.machine.ports import free_port
from tests.support.machine.postgresql import postgresql
from tests.support.relay.ends import (
    hold,
    holding,
    ledger_of,
    relayed_site,
    release,
    write_database,
)
from tests.support.relay.party import party, write_authority
from tests.support.site.remote_teacher import batches
from tests.support.teacher.sealed import TEACHER, key_of

pytestmark = pytest.mark.timeout(900)  # processes start slowly on a busy machine

LOOPBACK = "127.0.0.1"
SIZES = [4] * 12
PATCHES = sum(SIZES)
STUBBORN = RetryLimits(
    failures=1000, first_pause_seconds=0.05, longest_pause_seconds=0.5
)
DIES_AFTER_STEP = 3
WAIT_SECONDS = 240.0


@contextmanager
def database(kind: str, folder: Path) -> Iterator[None]:
    """Gives the replicas of a folder a ledger of their own, or a PostgreSQL."""
    if kind == "sqlite":
        yield
        return
    with postgresql() as url:
        write_database(folder, url)
        yield


def held_process(folder: Path) -> int:
    """Waits until a model holds a request, and returns whose it is."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := holding(folder)):
        assert time.monotonic() < deadline, "nobody was asked"
        time.sleep(0.02)
    return found[0]


def answer_batches(
    folder: Path, pki: Pki, port: int, disaster: Callable[[], None]
) -> dict[int, torch.Tensor]:
    """Returns the embeddings of each step; a disaster comes in their middle."""
    site = relayed_site(folder, pki, port)
    site.end_to_end = replace(site.end_to_end, receipts=folder / "receipts.jsonl")
    answers: dict[int, torch.Tensor] = {}
    with (
        site.teacher(in_flight=3, retries=STUBBORN) as teacher,
        ThreadPoolExecutor(1) as beside,
    ):
        for batch, answer in teacher.answer_batches(batches(SIZES)):
            assert batch.step not in answers
            answers[batch.step] = answer.embedding
            if batch.step == DIES_AFTER_STEP:
                hold(folder)
                happening = beside.submit(disaster)
        happening.result(WAIT_SECONDS)
        teacher.fetch_receipts()  # of answers that were lost on their way
        assert teacher.budget().charged_patches == PATCHES
    return answers


def assert_nothing_lost(folder: Path, answers: dict[int, torch.Tensor]) -> None:
    """Holds answers, receipts, log and budget against each other."""
    for batch in batches(SIZES):
        expected = batch.views[:, :, 0, 0].float()
        torch.testing.assert_close(answers[batch.step], expected)
    path, key = folder / "receipts.jsonl", key_of(TEACHER).public
    ledger = ledger_of(folder)
    found = ledger.read(
        lambda base: reconcile(base, ledger, read_receipts(path), ledger.log.keys(base))
    )
    different = ledger.read(lambda base: unique_patches(base, "site-a"))
    charged = ledger.budget.charged("site-a")
    ledger.budget.close()
    assert (found.mismatches, found.reserved, found.first) == (0, 0, "")
    assert charged == different == verify_receipts(path, [key]).patches == PATCHES


# Gateways that share a PostgreSQL: tests/integration/teacher_service/test_postgresql.
@pytest.mark.parametrize(
    "kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]
)
def test_a_replica_killed_while_it_works_is_replaced_and_each_patch_charged_once(
    tmp_path: Path, kind: str
) -> None:
    pki, port = Pki(), free_port()
    write_authority(tmp_path, pki)
    with (
        database(kind, tmp_path),
        party("coordinator", tmp_path, LOOPBACK, port),
        party("teacher", tmp_path, LOOPBACK, port) as one,
        party("teacher", tmp_path, LOOPBACK, port) as other,
    ):
        replicas = {one.pid: one, other.pid: other}

        def kill_who_works() -> None:
            victim = replicas[held_process(tmp_path)]
            victim.kill()
            victim.wait(WAIT_SECONDS)
            release(tmp_path)

        answers = answer_batches(tmp_path, pki, port, kill_who_works)

        ended = [process.poll() for process in replicas.values()]
        assert sorted(ended, key=str) == [-signal.SIGKILL, None]
        assert_nothing_lost(tmp_path, answers)


def test_a_relay_killed_while_it_carries_and_started_anew_loses_nothing(
    tmp_path: Path,
) -> None:
    pki, port = Pki(), free_port()
    write_authority(tmp_path, pki)
    at = (tmp_path, LOOPBACK, port)
    with ExitStack() as first, ExitStack() as second:
        relay = first.enter_context(party("coordinator", *at))
        second.enter_context(party("teacher", *at))

        def kill_the_relay() -> None:
            held_process(tmp_path)
            os.kill(relay.pid, signal.SIGKILL)
            relay.wait(WAIT_SECONDS)
            second.enter_context(party("coordinator", *at))
            release(tmp_path)

        answers = answer_batches(tmp_path, pki, port, kill_the_relay)

        assert relay.poll() == -signal.SIGKILL
        assert_nothing_lost(tmp_path, answers)
