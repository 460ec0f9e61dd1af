"""A report is pulled while it is no larger than a report can be."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_body,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from moma_core.errors import FederationError
from moma_server.federation.engine.grid import bounded_pull

MIB = 1 << 20


def objects(size: int) -> tuple[str, dict[str, bytes]]:
    """Returns a report with weights of `size` random bytes, as its objects."""
    weights = np.random.default_rng(7).bytes(size)
    records = RecordDict(
        {
            "report": ConfigRecord({"header": "{}"}),
            "weights": ArrayRecord(
                {"safetensors": Array("uint8", (size,), "safetensors", weights)}
            ),
        }
    )
    parts = get_all_nested_objects(records)
    return records.object_id, {name: part.deflate() for name, part in parts.items()}


def test_a_report_of_the_largest_weights_is_pulled_whole() -> None:
    top, parts = objects(6 * MIB)

    contents = bounded_pull(6 * MIB)(list(parts), parts.__getitem__)

    assert contents == parts
    assert isinstance(inflate_object_from_contents(top, contents), RecordDict)


def test_a_larger_report_is_given_up() -> None:
    _, parts = objects(6 * MIB)

    with pytest.raises(FederationError, match="bytes are not taken"):
        bounded_pull(5 * MIB)(list(parts), parts.__getitem__)


def test_where_no_weights_are_asked_for_a_handful_of_parts_is_taken() -> None:
    parts = {str(number): b"" for number in range(17)}

    with pytest.raises(FederationError, match="17 parts"):
        bounded_pull(0)(list(parts), parts.__getitem__)


def test_a_chunk_cannot_stand_for_an_array_of_any_length() -> None:
    _, parts = objects(MIB)
    (name,) = [name for name, content in parts.items() if content.startswith(b"Array ")]
    fields = json.loads(get_object_body(parts[name], Array))
    fields["arraychunk_ids"] *= 1000
    body = json.dumps(fields).encode()
    head = parts[name].split(b"\x00", 1)[0].rsplit(b" ", 1)[0]
    parts[name] = head + b" %d\x00" % len(body) + body

    with pytest.raises(FederationError, match="repeats"):
        bounded_pull(MIB)(list(parts), parts.__getitem__)
