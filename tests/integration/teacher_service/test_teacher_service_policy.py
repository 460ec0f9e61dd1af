"""The teacher's policy over the wire: rate, unique patches, coverage, outputs, log."""

import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from sqlalchemy import select

from moma_core.audit.entry import PolicyEntry, decode
from moma_core.audit.tables import leaves
from moma_core.errors import (
    CoverageError,
    PatchLimitError,
    PolicyError,
    TeacherBusyError,
)
from moma_core.policy.coverage import CoverageMap
from moma_core.policy.outputs import BELOW_TOP, OutputPolicy
from moma_core.policy.policy import PolicyEnforcer, TeacherPolicy
from moma_core.policy.usage import PatchRate
from moma_proto.v1 import audit_pb2
from moma_proto.v1.audit_pb2_grpc import AuditServiceStub
from moma_server.teacher.settings import TeacherServerSettings
from tests.support.federation.pki import Pki
from tests.support.teacher.teacher_server import (
    CARD,
    MeanColour,
    Served,
    ask,
    refusal,
    request,
    serving,
)

pytestmark = pytest.mark.anyio

COLOURS = np.linspace(0, 255, 256, dtype=np.float32)
WIDTH = CARD.embedding_length


def settings(
    coverage: CoverageMap | None = None, **policy: Any
) -> TeacherServerSettings:
    rules = PolicyEnforcer(TeacherPolicy(**policy), coverage)
    return TeacherServerSettings(max_patches_per_request=16, rules=rules)


def policy_entries(served: Served) -> list[PolicyEntry]:
    """Returns the log's entries about the policy, oldest first."""
    with served.budget.engine.begin() as database:
        rows = database.scalars(select(leaves.c.leaf).order_by(leaves.c.place)).all()
    entries = [decode(row).entry for row in rows]
    return [entry for entry in entries if isinstance(entry, PolicyEntry)]


def colour_map() -> CoverageMap:
    """Of a teacher whose embedding is a grey value, in every place."""
    noise = np.random.default_rng(0).normal(scale=1e-3, size=(256, WIDTH))
    embedding = np.tile(COLOURS[:, None], WIDTH) + noise
    return CoverageMap.of_reference(embedding.astype(np.float32), CARD.digest, seed=0)


async def test_who_asks_too_fast_is_told_when_to_come_again(tmp_path: Path) -> None:
    slow = settings(rate=PatchRate(per_minute=1, burst=2))
    async with (
        serving(tmp_path, (pki := Pki()), MeanColour(), settings=slow) as served,
        served.stub(pki.site()) as stub,
    ):
        await ask(stub, request(1, patches=2))
        error = await refusal(stub, request(2))
        too_many = await refusal(stub, request(3, patches=3))

        assert type(error) is TeacherBusyError
        assert 0 < error.retry_after_seconds <= 60
        assert type(too_many) is PolicyError
        assert served.budget.charged("site-a") == 2
        assert served.denied("rate") == 1


async def test_different_patches_are_bounded_and_equal_ones_are_not(
    tmp_path: Path,
) -> None:
    few = settings(unique_patches=2)
    async with (
        serving(tmp_path, (pki := Pki()), MeanColour(), settings=few) as served,
        served.stub(pki.site()) as stub,
    ):
        await ask(stub, request(1), request(2))
        error = await refusal(stub, request(3))
        await ask(stub, request(1, patches=3))

        assert type(error) is PatchLimitError
        assert "0 of 2 are left" in str(error)
        assert served.denied("unique") == 1
        assert served.metric("unique_patches", site="site-a", teacher="teacher-a") == 2
        assert served.budget.charged("site-a") == 5


async def test_an_answer_that_would_show_too_much_is_not_told_and_not_charged(
    tmp_path: Path,
) -> None:
    bounded = settings(colour_map(), coverage_limit=0.5)
    async with (
        serving(tmp_path, (pki := Pki()), MeanColour(), settings=bounded) as served,
        served.stub(pki.site()) as stub,
    ):
        await ask(stub, request(0))
        error = await refusal(stub, request(255))
        again = await ask(stub, request(0))

        assert type(error) is CoverageError
        assert "0.5 is allowed" in str(error)
        assert len(again) == 1
        assert served.denied("coverage") == 1
        assert served.budget.charged("site-a") == 2
        labels = {"site": "site-a", "teacher": "teacher-a"}
        assert 0 < served.metric("embedding_coverage_ratio", **labels) <= 0.5
        assert (
            served.metric("embedding_coverage_limit_ratio", teacher="teacher-a") == 0.5
        )


async def test_what_the_policy_withholds_does_not_travel(tmp_path: Path) -> None:
    sparing = settings(outputs=OutputPolicy(embedding=False, top_k=1))
    async with (
        serving(tmp_path, (pki := Pki()), MeanColour(), settings=sparing) as served,
        served.stub(pki.site()) as stub,
    ):
        (answer,) = await ask(stub, request(7))

        logits = np.frombuffer(answer.logits, np.float32)
        assert answer.embedding == b""
        assert sorted(logits)[-1] == 0
        assert set(logits) <= {0, -BELOW_TOP}
        assert b"top-1-logits" in answer.receipt.leaf


async def test_every_change_of_the_policy_is_an_entry_that_the_teacher_signed(
    tmp_path: Path,
) -> None:
    pki = Pki()
    changes = []
    for limit in (5, 5, 6):
        few = settings(unique_patches=limit)
        async with serving(tmp_path, pki, MeanColour(), settings=few) as served:
            changes = policy_entries(served)

    told = [json.loads(entry.change) for entry in changes if entry.subject == "policy"]
    assert [change["unique_patches"] for change in told] == [5, 6]
    assert {entry.subject for entry in changes} == {"policy", "budgets", "sites"}


async def test_no_site_is_shown_the_entries_that_name_others(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, (pki := Pki()), MeanColour()) as served,
        served.channel(pki.site()) as channel,
    ):
        stub: Any = AuditServiceStub(channel)
        shown = []
        for place in range(4):
            asked = audit_pb2.InclusionProofRequest(place=place)
            try:
                proof = await stub.InclusionProof(asked)
                shown.append(decode(proof.receipt.leaf).entry.kind)
            except grpc.aio.AioRpcError as error:
                shown.append(error.code().name)

    assert shown == ["open", "policy", "NOT_FOUND", "NOT_FOUND"]


async def test_the_card_says_what_is_told(tmp_path: Path) -> None:
    sparing = settings(outputs=OutputPolicy(logits=False))
    async with serving(tmp_path, Pki(), MeanColour(), settings=sparing) as served:
        content = json.loads(served.server.card().content)

    assert content["card"]["outputs"] == ["embedding"]
