"""A task's message at the site: whatever comes in it breaks nothing."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from moma_client.federation.client_app import envelope_of
from moma_core.errors import FederationError
from moma_core.federation.messages import pack_task, unpack_task
from moma_core.federation.task import RoundTask

TASK = RoundTask(
    kind="train", run="r1", round=1, rounds=1, local_epochs=1, mode="fedavg"
)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00v\x00{'shape': (1 << 46,)}"],
    ids=["no-bytes", "archive", "array"],
)
def test_weights_that_are_no_safetensors_are_a_broken_contract(content: bytes) -> None:
    blob = Array("uint8", (1,), "numpy.ndarray", content)
    records = RecordDict(
        {
            "task": ConfigRecord({"header": pack_task(TASK).header}),
            "weights": ArrayRecord({"safetensors": blob}),
        }
    )

    envelope = envelope_of(records)

    with pytest.raises(FederationError, match="safetensors"):
        unpack_task(envelope, max_weights_bytes=1000)


def test_a_message_without_a_task_is_a_broken_contract() -> None:
    with pytest.raises(FederationError, match="not as agreed"):
        envelope_of(RecordDict({}))
