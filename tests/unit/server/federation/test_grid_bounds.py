"""A report is pulled while it is no larger than a report can be."""

import threading

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)

from moma_core.errors import FederationError
from moma_server.federation.engine import grid
from moma_server.federation.engine.grid import ReportRoom, bounded_pull, most_reports
from tests.support.federation.flower_objects import message_objects, repeated_chunk

MIB = 1 << 20
Objects = dict[str, bytes]


def pull(parts: Objects, limit: int, room: ReportRoom | None = None) -> Objects:
    return bounded_pull(limit, room or ReportRoom(1))(list(parts), parts.__getitem__)


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

    contents = pull(parts, 6 * MIB)

    assert contents == parts
    assert isinstance(inflate_object_from_contents(top, contents), RecordDict)


def test_a_larger_report_is_given_up() -> None:
    _, parts = objects(6 * MIB)

    with pytest.raises(FederationError, match="bytes are not taken"):
        pull(parts, 5 * MIB)


def test_where_no_weights_are_asked_for_a_handful_of_parts_is_taken() -> None:
    parts = {str(number): b"" for number in range(17)}

    with pytest.raises(FederationError, match="17 parts"):
        pull(parts, 0)


def test_a_chunk_cannot_stand_for_an_array_of_any_length() -> None:
    _, parts = message_objects("report", "{}", b"x" * MIB)
    repeated_chunk(parts, 1000)

    with pytest.raises(FederationError, match="repeats"):
        pull(parts, MIB)


def test_as_many_reports_are_held_as_memory_allows() -> None:
    assert most_reports(0) == 64
    assert most_reports(100 * MIB) == 40
    assert most_reports(1 << 30) == 3
    assert most_reports(1 << 40) == 1


def test_half_a_report_keeps_no_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message itself is there, as if all were; the rest never comes."""
    monkeypatch.setattr(grid, "_PAUSE_SECONDS", 0.01)
    room = ReportRoom(1)
    _, parts = message_objects("report", "{}", b"x" * MIB)
    *_, last = parts
    gives_up, tried = threading.Event(), threading.Event()

    def half(object_id: str) -> bytes:
        if gives_up.is_set():
            raise ObjectPullError(object_id, "the site has left")
        if object_id == last:
            return parts[object_id]
        tried.set()
        raise ObjectUnavailableError(object_id)

    def pull_half() -> None:
        with pytest.raises(ObjectPullError):
            bounded_pull(MIB, room)(list(parts), half)

    thread = threading.Thread(target=pull_half)
    thread.start()
    assert tried.wait(60)

    contents = pull(parts, MIB, room)  # an honest one's, while the other still waits

    assert thread.is_alive()
    assert contents == parts
    gives_up.set()
    room.leave()
    thread.join(60)
    assert not thread.is_alive()


def test_a_report_waits_for_room_and_a_slow_upload_takes_none() -> None:
    room = ReportRoom(1)
    _, parts = message_objects("report", "{}", b"x" * MIB)
    *_, last = parts
    has_come, is_slow, done = threading.Event(), threading.Event(), threading.Event()

    def slow(object_id: str) -> bytes:
        if object_id == last:  # the message itself, which is uploaded last
            is_slow.set()
            has_come.wait(60)
        return parts[object_id]

    def pull_slowly() -> None:
        bounded_pull(MIB, room)(list(parts), slow)
        done.set()

    thread = threading.Thread(target=pull_slowly)
    thread.start()
    assert is_slow.wait(60)

    pull(parts, MIB, room)  # another's, which takes the only room
    has_come.set()
    was_done = done.wait(0.2)
    room.leave()

    assert not was_done
    assert done.wait(60)
    thread.join()
