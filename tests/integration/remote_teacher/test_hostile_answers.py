"""A coordinator in the middle that answers a site in its teacher's name.

It has no key of either, so that all it can say is a status of gRPC: nothing follows
from one but another try. What it sends again is put down to nobody.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from moma_client.cache.folder import CacheFolder
from moma_client.site.session import renew_request_ids
from moma_client.teacher.retry import RetryLimits
from moma_core.errors import (
    BudgetSpentError,
    ReplayError,
    TeacherUnavailableError,
    UnsignedRefusalError,
)
from moma_core.pki.key_files import load_or_create_secret
from moma_core.policy.budget import MOST_REPETITIONS
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedResponse
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub
from moma_server.teacher.query.billing import BillingService
from tests.support.federation.middle import in_the_middle
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import CachedSite, teaching
from tests.support.site.reference_patch_site import (
    GOLDEN_CARD,
    PATCH,
    OtherQuarters,
    vet,
)
from tests.support.site.remote_teacher import Site, batches, running
from tests.support.teacher.sealed import SiteSide
from tests.support.teacher.teacher_server import MeanColour, Served, request

Code = grpc.StatusCode
TWICE = RetryLimits(failures=2, first_pause_seconds=0.01)
SAID = "the budget is spent, and the request id was used before"
PATCHES = 6


def ask(site: Site, run: str) -> int:
    with site.teacher(run_key=run.encode(), retries=TWICE) as teacher:
        return len(list(teacher.answer_batches(batches([2] * 3))))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Served]:
    with running(tmp_path_factory.mktemp("teacher"), pki, MeanColour()) as running_:
        yield running_


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_whatever_status_stands_for_an_answer_the_site_pays_once(
    tmp_path: Path, pki: Pki, served: Served, code: grpc.StatusCode
) -> None:
    attacked = True

    def hook(method: str, answer: bytes, context: Any) -> bytes:
        if method == "Embed" and attacked:
            context.abort(code, SAID)
        return answer

    before = served.budget.charged("site-a")
    with in_the_middle(served, hook) as port:
        site = Site(tmp_path, pki, port)
        with pytest.raises(TeacherUnavailableError, match=f"{code.name}.*not signed"):
            ask(site, code.name)
        attacked = False

        assert ask(site, code.name) == 3
    assert served.budget.charged("site-a") == before + PATCHES


def test_a_status_that_says_who_is_not_admitted_is_a_hint(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    def hook(method: str, answer: bytes, context: Any) -> bytes:
        context.abort(Code.UNAUTHENTICATED, "the teacher approved no key of site-a")
        return answer

    with in_the_middle(served, hook) as port:
        site = Site(tmp_path, pki, port)
        with (
            pytest.raises(UnsignedRefusalError, match="not signed: whoever carries"),
            site.teacher() as teacher,
        ):
            teacher.describe()


def test_no_status_lets_a_teacher_pass_without_its_golden_patch(
    tmp_path: Path, pki: Pki
) -> None:
    def hook(method: str, answer: bytes, context: Any) -> bytes:
        if method == "Embed":
            context.abort(Code.FAILED_PRECONDITION, "the budget is spent")
        return answer

    with (
        teaching(tmp_path / "teacher", pki, backend=OtherQuarters()) as served,
        in_the_middle(served, hook) as port,
    ):
        site = CachedSite(tmp_path / "site", pki, port)
        with pytest.raises(TeacherUnavailableError, match="not signed"):
            vet(site, GOLDEN_CARD, TWICE)


def test_a_teacher_that_says_spent_to_its_golden_patch_is_asked_nothing_else(
    tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = BillingService.reserve

    async def lying(self: BillingService, site: str, query: Any, *more: Any) -> Any:
        if query.pixels.tobytes() == PATCH.tobytes():
            raise BudgetSpentError("the budget is spent")
        return await honest(self, site, query, *more)

    monkeypatch.setattr(BillingService, "reserve", lying)
    with teaching(tmp_path / "teacher", pki, backend=OtherQuarters()) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        with pytest.raises(BudgetSpentError, match="the teacher says: the budget is"):
            vet(site, GOLDEN_CARD)
        with pytest.raises(BudgetSpentError, match="no labelled patch"):
            site.fill(verify=lambda: vet(site, GOLDEN_CARD))

        assert served.budget.charged("site-a") == 0


def test_new_request_ids_are_made_once_a_run(tmp_path: Path, pki: Pki) -> None:
    site = CachedSite(tmp_path / "site", pki, 1)
    key = site.config.state_dir / "runs" / "run" / "request.key"
    key.parent.mkdir(parents=True)

    left = []
    for _ in range(2):
        key.write_bytes(bytes(32))
        # as another process of the site would, after a kill
        renew_request_ids(site.config, key.parent)
        left.append(key.exists())

    assert left == [False, True]


@pytest.mark.parametrize("killed_at", ["request.key", "asked"])
def test_a_renewal_of_request_ids_that_was_killed_is_finished_once(
    tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    site = CachedSite(tmp_path / "site", pki, 1)
    run = site.config.state_dir / "runs" / "run"
    run.mkdir(parents=True)
    cache = CacheFolder(site.config)
    keys = (run / "request.key", cache.request_key_file())
    for key in keys:
        load_or_create_secret(key)
    (cache.path / "a.asked").touch()
    honest = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(killed_at):
            raise KeyboardInterrupt
        honest(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        renew_request_ids(site.config, run)
    monkeypatch.setattr(Path, "unlink", honest)
    renew_request_ids(site.config, run)  # the next process hears the same refusal
    were_left = [key.exists() for key in keys]
    for key in keys:
        load_or_create_secret(key)
    renew_request_ids(site.config, run)

    assert were_left == [False, False]
    assert all(key.exists() for key in keys)


class Wire:
    """What a coordinator has that kept what it carried."""

    def __init__(self, served: Served, channel: grpc.Channel) -> None:
        self.stub: Any = TeacherServiceStub(channel)
        self.side = SiteSide(served.server.card(), "site-a")


def test_what_it_sends_again_neither_fills_the_log_nor_accuses_the_site(
    tmp_path: Path, pki: Pki
) -> None:
    with (
        running(tmp_path, pki, MeanColour(), grants={"site-a": 4}) as served,
        served.channel(pki.site("site-a"), grpc) as channel,
    ):
        wire = Wire(served, channel)
        fine, _ = wire.side.seal("Embed", request())
        denied, _ = wire.side.seal("Embed", request(patches=9))
        budget, _ = wire.side.seal("Budget", pb.BudgetRequest())
        for message in (fine, denied):
            list(wire.stub.Embed(iter([message])))
        wire.stub.Budget(budget)
        once = served.log_size()

        for _ in range(20):
            for message in (fine, denied):
                list(wire.stub.Embed(iter([message])))
            wire.stub.Budget(budget)

        assert served.log_size() - once == 8  # the free repetitions of the one
        assert served.denied("budget") == 1
        assert served.denied("replay") == 0
        assert served.denied("budget", site="") == 20
        assert served.denied("replay", site="") == 12 + 20
        assert served.budget.charged("site-a") == 1


def test_all_refusals_look_alike_to_it(tmp_path: Path, pki: Pki) -> None:
    with (
        running(tmp_path, pki, MeanColour(), grants={"site-a": 4}) as served,
        served.channel(pki.site("site-a"), grpc) as channel,
    ):
        wire = Wire(served, channel)
        spent, first = wire.side.seal("Embed", request(patches=9))
        broken, second = wire.side.seal("Embed", b"\xff no message", bytes(16))
        told: list[SealedResponse] = list(wire.stub.Embed(iter([spent, broken])))

        assert len({answer.ByteSize() for answer in told}) == 1
        assert not [answer for answer in told if b"budget" in answer.sealed]
        with pytest.raises(BudgetSpentError):
            wire.side.open("Embed", told[0], first)
        with pytest.raises(Exception, match="is not readable"):
            wire.side.open("Embed", told[1], second)


def test_a_signed_refusal_of_a_used_up_id_is_believed(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    site = Site(tmp_path, pki, served.port)
    for _ in range(1 + MOST_REPETITIONS):
        ask(site, "used up")

    with pytest.raises(ReplayError, match="the teacher says"):
        ask(site, "used up")
