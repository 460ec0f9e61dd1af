"""Tasks and reports travel whole, and what breaks the contract is refused."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moma_core.audit.checkpoint import MOST_CHECKPOINTS, Checkpoint, TreeHead
from moma_core.errors import FederationError, UpdateRejectedError
from moma_core.federation.messages import (
    Envelope,
    pack_report,
    pack_task,
    unpack_report,
    unpack_task,
)
from moma_core.federation.task import (
    MOST_MASKED,
    Masking,
    RoundKey,
    RoundReport,
    RoundTask,
)
from tests.support.teacher.sealed import TEACHER, key_of

TASK = RoundTask(
    kind="train", run="r1", round=2, rounds=5, local_epochs=3, mode="fedavg"
)
LIMIT = 1 << 20
SIGNED = Checkpoint.sign(TreeHead("moma/teacher-a/1", 3, bytes(32), 1), key_of(TEACHER))


def changed(envelope: Envelope, **fields: Any) -> Envelope:
    return Envelope(json.dumps({**json.loads(envelope.header), **fields}), None)


def test_a_task_comes_back_as_it_was() -> None:
    weights = {"w": np.ones(2, np.float32)}
    task = RoundTask(
        kind="close",
        run="r1",
        round=5,
        rounds=5,
        local_epochs=0,
        mode="fedavg",
        weights=weights,
    )

    back = unpack_task(pack_task(task), max_weights_bytes=LIMIT)

    assert (back.kind, back.run, back.round, back.rounds) == ("close", "r1", 5, 5)
    assert (back.local_epochs, back.mode) == (0, "fedavg")
    assert back.weights is not None
    np.testing.assert_array_equal(back.weights["w"], weights["w"])


def test_as_many_checkpoints_as_are_handed_on_fit_a_task() -> None:
    longest = "f" * 63 + "/" + "t" * 63 + "/999999999"
    largest = SIGNED.model_copy(
        update={"origin": longest, "size": 2**53 - 1, "time_ms": 2**53 - 1}
    )
    task = replace(TASK, checkpoints=(largest,) * MOST_CHECKPOINTS)

    back = unpack_task(pack_task(task), max_weights_bytes=LIMIT)

    assert back.checkpoints == task.checkpoints


@pytest.mark.parametrize(
    "checkpoints",
    [
        [SIGNED.model_dump()] * (MOST_CHECKPOINTS + 1),
        [{**SIGNED.model_dump(), "origin": "x" * 100_000}],
        [{**SIGNED.model_dump(), "size": -1}],
        [{**SIGNED.model_dump(), "root": "../../etc/passwd"}],
        [{**SIGNED.model_dump(), "patient": "4711"}],
        [{"origin": SIGNED.origin}],
        [None],
    ],
)
def test_odd_checkpoints_are_not_read(checkpoints: list[Any]) -> None:
    envelope = changed(pack_task(TASK), checkpoints=checkpoints)

    with pytest.raises(FederationError):
        unpack_task(envelope, max_weights_bytes=LIMIT)


def test_a_task_and_a_report_from_before_there_were_checkpoints_are_read() -> None:
    task, report = (
        json.loads(pack_task(TASK).header),
        json.loads(pack_report(RoundReport()).header),
    )
    del task["checkpoints"], report["checkpoint"]

    old_task = Envelope(json.dumps(task), None)
    old_report = Envelope(json.dumps(report), None)

    assert unpack_task(old_task, max_weights_bytes=LIMIT).checkpoints == ()
    assert unpack_report(old_report, max_weights_bytes=LIMIT).checkpoint is None


def test_a_report_comes_back_as_it_was() -> None:
    report = RoundReport(patches=12, metrics={"macro_f1": 0.5}, checkpoint=SIGNED)

    back = unpack_report(pack_report(report), max_weights_bytes=LIMIT)

    assert back.patches == 12
    assert back.metrics == {"macro_f1": 0.5}
    assert back.weights is None
    assert back.refusal is None
    assert back.checkpoint == SIGNED


def test_the_key_names_run_round_and_kind() -> None:
    assert TASK.key == "r1-000002-train"


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "format-disk"},
        {"run": "../../etc/passwd"},
        {"run": ""},
        {"round": 0},
        {"round": 6},
        {"round": "two"},
        {"local_epochs": -1},
        {"local_epochs": 10**9},
        {"mode": "everything"},
        {"unknown": 1},
    ],
)
def test_a_task_that_breaks_the_contract_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(FederationError):
        unpack_task(changed(pack_task(TASK), **fields), max_weights_bytes=LIMIT)


@pytest.mark.parametrize(
    "fields",
    [
        {"patches": -1},
        {"patches": 10**15},
        {"metrics": {"loss": "low"}},
        {"metrics": {"patient 4711": 1.0}},
        {"metrics": {f"m{i}": 0.0 for i in range(65)}},
        {"refusal": "x" * 201},
        {"refusal": "two\nlines"},
        {"unknown": 1},
        {"checkpoint": {"origin": "moma/teacher-a/1"}},
        {"checkpoint": [SIGNED.model_dump()]},
    ],
)
def test_a_report_that_breaks_the_contract_is_refused(fields: dict[str, Any]) -> None:
    envelope = changed(pack_report(RoundReport()), **fields)

    with pytest.raises(FederationError, match="breaks its contract"):
        unpack_report(envelope, max_weights_bytes=LIMIT)


def test_a_metric_that_is_not_finite_never_leaves() -> None:
    with pytest.raises(FederationError, match="loss"):
        pack_report(RoundReport(metrics={"loss": math.nan}))


def test_a_header_too_long_to_parse_is_refused() -> None:
    with pytest.raises(FederationError, match="not read"):
        unpack_task(Envelope(" " * 70_000, None), max_weights_bytes=LIMIT)


def test_weights_beyond_the_limit_are_refused() -> None:
    report = RoundReport(weights={"w": np.zeros(1000, np.float32)})

    with pytest.raises(UpdateRejectedError, match="at most 1000"):
        unpack_report(pack_report(report), max_weights_bytes=1000)


KEY = RoundKey(site="site-a", key="ab" * 32, signature="cd" * 64)
MASKING = Masking(max_update_norm=1.0)
TRIED = Masking(max_update_norm=1.0, try_id="0" * 16)


def test_who_masks_nothing_writes_what_it_always_wrote() -> None:
    assert "masking" not in pack_task(TASK).header
    assert "round_key" not in pack_report(RoundReport(patches=1)).header


def test_the_keys_of_the_largest_group_fit_a_task() -> None:
    longest = KEY.model_copy(update={"site": "s" * 63})
    masking = TRIED.model_copy(update={"keys": (longest,) * MOST_MASKED})
    task = replace(TASK, kind="update", masking=masking)

    back = unpack_task(pack_task(task), max_weights_bytes=LIMIT)

    assert back.masking == masking


def test_a_task_of_a_try_has_a_key_of_its_own() -> None:
    keys = replace(TASK, kind="keys", masking=TRIED)
    other = TRIED.model_copy(update={"try_id": "1" * 16})

    assert keys.key == "r1-000002-keys-0000000000000000"
    assert replace(keys, masking=other).key != keys.key
    assert replace(TASK, masking=MASKING).key == TASK.key


def test_a_round_key_comes_back_as_it_was() -> None:
    report = RoundReport(round_key=KEY)

    back = unpack_report(pack_report(report), max_weights_bytes=LIMIT)

    assert back.round_key == KEY


@pytest.mark.parametrize(
    ("kind", "mode", "masking"),
    [
        ("keys", "fedavg", None),
        ("update", "fedavg", None),
        ("keys", "fedavg", MASKING),
        ("train", "fedavg", TRIED),
        ("close", "fedavg", TRIED),
        ("update", "fedavg", TRIED),
        ("keys", "fedavg", TRIED.model_copy(update={"keys": (KEY,)})),
        ("train", "independent", MASKING),
        ("train", "fedavg", MASKING.model_copy(update={"max_update_norm": math.nan})),
        ("train", "fedavg", MASKING.model_copy(update={"max_update_norm": 0.0})),
    ],
)
def test_a_task_that_contradicts_itself_about_masks_is_refused(
    kind: Any, mode: Any, masking: Masking | None
) -> None:
    fields = {} if masking is None else {"masking": masking.model_dump()}
    envelope = changed(pack_task(TASK), kind=kind, mode=mode, **fields)

    with pytest.raises(FederationError, match="breaks its contract"):
        unpack_task(envelope, max_weights_bytes=LIMIT)
