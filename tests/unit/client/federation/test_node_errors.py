"""What the installed app raises stays at the site: no text of it is sent."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message

from moma_client.federation.client_app import failure, refusal
from moma_client.federation.inbox import TaskStore
from moma_core.errors import CheckpointError
from moma_core.federation.task import RoundTask
from tests.support.site.egress_site import ORIGIN, Wire, serve_stored

TASK = RoundTask(
    kind="train", run="r1", round=1, rounds=1, local_epochs=1, mode="independent"
)


def _message() -> Message:
    content = RecordDict({"task": ConfigRecord({"header": "of Maria Mueller"})})
    return make_message(Metadata(**json.loads(ORIGIN)), content=content)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (failure, "the site could not do the work"),
        (refusal, "the site serves only the bundle of its installed release"),
    ],
)
def test_an_error_reply_is_a_fixed_sentence(
    answer: Callable[[Message], Message], sentence: str
) -> None:
    reply = answer(_message())

    assert reply.error.reason == sentence
    assert not reply.has_content()


def test_a_failure_says_no_more_than_that(tmp_path: Path) -> None:
    store, wire = TaskStore(tmp_path), Wire()
    store.put_task(TASK, ORIGIN)
    store.put_failure(TASK)

    serve_stored(wire, store, tmp_path)

    assert b"the site could not do the work" in wire.sent


def test_a_damaged_report_is_not_sent_and_neither_is_why(tmp_path: Path) -> None:
    store, wire = TaskStore(tmp_path), Wire()
    store.put_task(TASK, ORIGIN)
    store.put_failure(TASK)
    whole = (tmp_path / "report.safetensors").read_bytes()
    (tmp_path / "report.safetensors").write_bytes(whole[:12] + b"Maria Mueller")

    with pytest.raises(CheckpointError):
        serve_stored(wire, store, tmp_path)

    assert wire.sent == b""
