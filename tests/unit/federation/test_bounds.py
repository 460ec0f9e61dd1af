"""A message is built only when it cannot become larger than it may be."""

import json

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given
from hypothesis import strategies as st

from moma_core.errors import FederationError
from moma_core.federation.bounds import MessageBounds, most_parts
from tests.support.federation.flower_objects import (
    Objects,
    message,
    message_objects,
    objects_of,
    records,
    repeated_chunk,
    with_body,
)

MIB = 1 << 20
LIMIT = 16 * MIB


def check(parts: Objects, limit: int = LIMIT) -> None:
    MessageBounds(limit).check(parts)


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 5 * MIB + 1, LIMIT])
def test_a_message_with_weights_up_to_the_limit_is_built(size: int) -> None:
    name, parts = message_objects("task", "{}", b"\0" * size)  # its chunks repeat

    check(parts)

    built = inflate_object_from_contents(name, parts)
    assert len(built.content.array_records["weights"]["safetensors"].data) == size  # type: ignore[attr-defined]


def test_a_message_without_weights_is_built() -> None:
    name, parts = message_objects("task", "x" * 65_536)

    check(parts, limit=0)

    assert inflate_object_from_contents(name, parts).object_id == name


def test_weights_are_not_built_where_none_are_due() -> None:
    with pytest.raises(FederationError, match="at most 0 are"):
        check(message_objects("task", "{}", b"xyz")[1], limit=0)


@pytest.mark.parametrize("times", [17, 3001, 300_000, 2_000_000])
def test_an_array_that_repeats_its_chunk_is_not_built(times: int) -> None:
    _, parts = message_objects("task", "{}", b"x" * MIB)
    repeated_chunk(parts, times)

    with pytest.raises(FederationError):
        check(parts)


def _integers(count: int) -> RecordDict:
    return RecordDict({"report": ConfigRecord({"header": [1] * count})})


def _many_records() -> RecordDict:
    return RecordDict({f"r{n}": ConfigRecord({"header": str(n)}) for n in range(9)})


def _metrics() -> RecordDict:
    content = records("report", "{}")
    content["m"] = MetricRecord({"a": [1.0] * 1000})
    return content


def _two_arrays() -> RecordDict:
    one, two = (Array("uint8", (3,), "safetensors", b) for b in (b"abc", b"def"))
    return RecordDict({"weights": ArrayRecord({"a": one, "b": two})})


def _one_array_twice() -> RecordDict:
    one = Array("uint8", (3,), "safetensors", b"abc")
    return RecordDict({"weights": ArrayRecord({"a": one, "b": one})})


@pytest.mark.parametrize(
    "content",
    [
        _integers(200_000),
        _many_records(),
        _metrics(),
        _two_arrays(),
        _one_array_twice(),
    ],
    ids=["integers", "many-records", "metrics", "two-arrays", "one-array-twice"],
)
def test_records_of_another_form_are_not_built(content: RecordDict) -> None:
    with pytest.raises(FederationError, match="is not taken"):
        check(objects_of(message(content)))


def _array(parts: Objects) -> tuple[str, bytes]:
    (found,) = [(n, p) for n, p in parts.items() if p.startswith(b"Array ")]
    return found


@pytest.mark.parametrize(
    "indices", [[-1], [True], [1], ["0"], [0.0], {"0": 0}, None, [[0]]]
)
def test_an_array_names_its_chunks_by_number(indices: object) -> None:
    _, parts = message_objects("task", "{}", b"abc")
    name, content = _array(parts)
    fields = {"dtype": "uint8", "shape": [3], "stype": "safetensors"}
    body = json.dumps({**fields, "arraychunk_ids": indices}).encode()
    parts[name] = with_body(content.split(b"\0")[0], body)

    with pytest.raises(FederationError):
        check(parts)


@pytest.mark.parametrize(
    "part",
    [b"", b"no head", b"Array\0", b"Array  x y\0", b"\xff \xff 0\0", b"Array  9\0[[[["],
)
def test_a_part_that_is_none_is_not_taken(part: bytes) -> None:
    with pytest.raises(FederationError):
        check({"a" * 64: part})


def test_a_deeply_nested_body_is_not_taken() -> None:
    _, parts = message_objects("task", "{}", b"abc")
    name, content = _array(parts)
    parts[name] = with_body(content.split(b"\0")[0], b"[" * 100_000)

    with pytest.raises(FederationError, match="not whole"):
        check(parts)


@given(st.dictionaries(st.text("ab", max_size=2), st.binary(max_size=60), max_size=4))
def test_no_bytes_break_the_check(parts: Objects) -> None:
    try:
        check(parts)
    except FederationError:
        return
    assert all(
        part.startswith(b"ArrayChunk ") or b"\0" in part for part in parts.values()
    )


def test_more_objects_than_a_message_has_are_not_asked_for() -> None:
    ids = ["a"] * (most_parts(LIMIT) + 1)

    with pytest.raises(FederationError, match="parts is not taken"):
        MessageBounds(LIMIT).check_ids(ids)


def test_the_meter_counts_all_objects_of_a_message_together() -> None:
    pull = MessageBounds(MIB).metered(lambda _id: b"x" * MIB)
    pull("a")

    with pytest.raises(FederationError, match="bytes are not taken"):
        pull("b")
