"""The ClientApp that is installed on the site; it runs what the session finishes.

The node's process has put the task where the session finds it; the app waits for the
session's report. Flower's mods (clipping, noise, secure aggregation) belong here.
"""

import time
from pathlib import Path

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from moma_client.federation.inbox import TaskStore
from moma_core.errors import FederationError
from moma_core.federation.messages import Envelope, pack_report

_LOOK_SECONDS = 0.1

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answers the stored task with the session's report, hours later if need be."""
    store = TaskStore(Path(str(context.node_config["folder"])))
    stored = store.task()
    if stored is None:
        return failure(message)
    while not store.is_reported(stored.task):
        time.sleep(_LOOK_SECONDS)
    report = store.report(stored.task)
    if report is None:
        return failure(message)
    return Message(_to_records(pack_report(report)), reply_to=message)


def failure(message: Message) -> Message:
    """Answers that the work was not done; why stays in the site's log."""
    reason = "the site could not do the work"
    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
    return Message(error, reply_to=message)


def refusal(message: Message) -> Message:
    """Answers that the message is of a bundle that the site does not have."""
    reason = "the site serves only the bundle of its installed release"
    return Message(Error(ErrorCode.INVALID_FAB, reason), reply_to=message)


def envelope_of(records: RecordDict) -> Envelope:
    """Returns a task message's header and weights.

    Raises:
        FederationError: The message's parts are not as agreed.
    """
    try:
        header = records.config_records["task"]["header"]
        blob = records.array_records.get("weights")
        # the bytes themselves: `numpy()` would parse what the sender calls an array
        weights = None if blob is None else blob["safetensors"].data
    except (KeyError, ValueError, TypeError) as error:
        raise FederationError("the task's parts are not as agreed") from error
    if not isinstance(header, str):
        raise FederationError("the task's header is no text")
    return Envelope(header, weights)


def _to_records(envelope: Envelope) -> RecordDict:
    records = RecordDict({"report": ConfigRecord({"header": envelope.header})})
    if envelope.weights is not None:
        size = len(envelope.weights)
        blob = Array("uint8", (size,), "safetensors", envelope.weights)
        records["weights"] = ArrayRecord({"safetensors": blob})
    return records
