"""Pulling a report's objects: no more than a report can have, and none for long."""

import json
from collections.abc import Callable, Iterable

from flwr.app import Array
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_type_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import pull_objects

from moma_core.errors import FederationError
from moma_core.federation.meter import Meter, most_bytes, most_parts

_PULL_SECONDS = 300.0


def bounded_pull(
    max_weights_bytes: int,
) -> Callable[[list[str], Callable[[str], bytes]], dict[str, bytes]]:
    """Returns what stands in for Flower's `pull_objects` in the run's grid.

    A reply is seen a moment before its objects; Flower then waits a second. It also
    waits two hours when a site never completes its upload, and takes what comes.
    """

    def pull(
        object_ids: list[str], pull_object_fn: Callable[[str], bytes]
    ) -> dict[str, bytes]:
        if len(object_ids) > most_parts(max_weights_bytes):
            raise FederationError(f"a report of {len(object_ids)} parts is not taken")
        meter = Meter(most_bytes(max_weights_bytes))
        contents = pull_objects(
            object_ids,
            lambda object_id: meter.count(pull_object_fn(object_id)),
            initial_backoff=0.05,
            backoff_cap=1.0,
            max_time=_PULL_SECONDS,
        )
        if _chunks(contents.values()) > most_parts(max_weights_bytes):
            raise FederationError("a report that repeats its parts is not taken")
        return contents

    return pull


def _chunks(contents: Iterable[bytes]) -> int:
    """Counts the chunks that arrays are joined from; one chunk may stand often."""
    return sum(
        len(json.loads(get_object_body(content, Array))["arraychunk_ids"])
        for content in contents
        if get_object_type_from_object_content(content) == "Array"
    )
