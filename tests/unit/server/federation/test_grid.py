"""Messages of the grid as answers: whatever a site sends, the round goes on."""

import io
from collections.abc import Iterable
from concurrent.futures import wait

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from moma_core.federation.messages import pack_report
from moma_core.federation.task import RoundReport, RoundTask
from moma_server.federation.engine.control import FlowerNode
from moma_server.federation.engine.grid import FlowerSites
from moma_server.federation.run.round import Reply
from tests.support.machine.waiting import WAIT_SECONDS

NODES = {
    "a": FlowerNode(7, online=True, connected_at=1e9),
    "b": FlowerNode(8, online=False),
}
TASK = RoundTask(
    kind="train",
    run="r1",
    round=1,
    rounds=1,
    local_epochs=1,
    mode="fedavg",
    weights={"w": np.ones(3, np.float32)},
)


@pytest.fixture(autouse=True)
def _in_a_server_app() -> None:
    """Flower writes its task's identity into every message."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 3, 5, 1


class MemoryGrid(Grid):
    """Flower's abstract grid, with one answer prepared."""

    def __init__(self, reply: RecordDict | Error | Exception | None = None) -> None:
        self.reply = reply
        self.pushed: list[Message] = []
        self.push_error: Exception | None = None

    def set_run(self, run: Run) -> None:
        """Nothing to know."""

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *_args: object, **_kwargs: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return [7]

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=7)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        if self.push_error is not None:
            raise self.push_error
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.pushed)}"
            self.pushed.append(message)
        return [self.pushed[-1].metadata.message_id]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        (message_id,) = message_ids
        if isinstance(self.reply, Exception):
            raise self.reply
        if self.reply is None:
            return []
        (question,) = [m for m in self.pushed if m.metadata.message_id == message_id]
        return [Message(self.reply, reply_to=question)]

    def send_and_receive(self, *_args: object, **_kwargs: object) -> list[Message]:
        raise NotImplementedError


def reach(grid: MemoryGrid) -> FlowerSites:
    return FlowerSites(grid, nodes=lambda: NODES, max_weights_bytes=10_000)


def answers(grid: MemoryGrid, polls: int = 5) -> list[Reply]:
    sites = reach(grid)
    sites.send("a", TASK, seconds=60)
    found: list[Reply] = []
    for _ in range(polls):
        found += sites.poll()
        if found:
            break
        wait(sites._pulls.values(), WAIT_SECONDS)
    sites.forget()
    return found


def report(header: str, weights: bytes | None = None) -> RecordDict:
    records = RecordDict({"report": ConfigRecord({"header": header})})
    if weights is not None:
        blob = Array("uint8", (len(weights),), "safetensors", weights)
        records["weights"] = ArrayRecord({"safetensors": blob})
    return records


def numpy_report(content: bytes) -> RecordDict:
    """A report whose weights claim to be what numpy wrote."""
    records = report(pack_report(RoundReport()).header)
    blob = Array("uint8", (1,), "numpy.ndarray", content)
    records["weights"] = ArrayRecord({"safetensors": blob})
    return records


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()


def vast_array() -> bytes:
    """Returns numpy's header of an array of 2^46 bytes, without the array."""
    file = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (1 << 46,)}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def test_a_task_travels_with_its_weights_and_an_end() -> None:
    grid = MemoryGrid()

    message_id = reach(grid).send("a", TASK, seconds=60)

    (message,) = grid.pushed
    assert message_id == "m0"
    assert message.metadata.dst_node_id == 7
    assert message.metadata.ttl == 60
    assert "r1" in str(message.content.config_records["task"]["header"])
    assert "safetensors" in message.content.array_records["weights"]


def test_a_report_is_read() -> None:
    weights = {"w": np.full(3, 2, np.float32)}
    envelope = pack_report(RoundReport(patches=4, weights=weights))

    (answer,) = answers(MemoryGrid(report(*envelope)))

    assert answer.report is not None
    assert answer.report.patches == 4
    assert answer.report.weights is not None
    np.testing.assert_array_equal(answer.report.weights["w"], weights["w"])


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        (ErrorCode.NODE_UNAVAILABLE, "away"),
        (ErrorCode.MESSAGE_UNAVAILABLE, "away"),
        (ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "away"),
        (ErrorCode.INVALID_FAB, "refused"),
        (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "failed"),
        (ErrorCode.UNKNOWN, "failed"),
        (4711, "failed"),
    ],
)
def test_an_error_is_told_in_our_words(code: int, trouble: str) -> None:
    (answer,) = answers(MemoryGrid(Error(code, "patient 4711 at C:\\slides")))

    assert answer.trouble == trouble
    assert answer.report is None
    assert "4711" not in answer.reason


@pytest.mark.parametrize(
    "reply",
    [
        RecordDict({}),
        report("{}"),
        report("no json"),
        report(pack_report(RoundReport()).header, b"no safetensors"),
        report(pack_report(RoundReport()).header, b"x" * 20_000),
        RecordDict({"report": ConfigRecord({"header": 7})}),
        KeyError("what Flower raises over an answer that is not whole"),
        numpy_report(b""),
        numpy_report(b"PK\x03\x04"),
        numpy_report(archive()),
        numpy_report(vast_array()),
    ],
    ids=[
        "empty",
        "no-fields",
        "no-json",
        "torn",
        "too-large",
        "number",
        "damaged",
        "no-bytes",
        "no-archive",
        "archive",
        "vast",
    ],
)
def test_whatever_a_site_sends_it_only_fails_itself(
    reply: RecordDict | Exception,
) -> None:
    (answer,) = answers(MemoryGrid(reply))

    assert answer.trouble == "failed"
    assert answer.report is None


def test_no_answer_yet_is_no_answer() -> None:
    assert answers(MemoryGrid(None)) == []


def test_a_task_that_cannot_be_sent_is_told() -> None:
    grid = MemoryGrid()
    grid.push_error = ObjectPushError("object", 1, "session")
    sites = reach(grid)

    lost = sites.send("a", TASK, seconds=60)
    stranger = sites.send("nobody", TASK, seconds=60)

    assert lost is None
    assert stranger is None


def test_only_registered_sites_whose_node_is_online_are_available() -> None:
    assert reach(MemoryGrid()).available() == ["a"]


def test_it_says_when_each_site_connected_last() -> None:
    assert reach(MemoryGrid()).connected_at() == {"a": 1e9, "b": 0.0}
