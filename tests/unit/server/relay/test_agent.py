"""What a teacher does with a coordinator that breaks the rules of their stream."""

import asyncio
from pathlib import Path

import pytest

from moma_core.errors import MalformedRequestError, TeacherUnavailableError
from moma_proto.v1 import relay_pb2 as pb
from moma_server.relay.agent import TeacherEnd
from moma_server.relay.limits import HeldBytes, RelayBounds, is_relayed
from moma_server.relay.local_calls import LocalCalls
from moma_server.relay.mux_stream import Frame

EMBED = "/moma.v1.TeacherService/Embed"


class Coordinator:
    """Says what a test wants over a stream without a network."""

    def __init__(self, *frames: pb.RelayFrame, stays: bool = False) -> None:
        self._frames = list(frames)
        self._stays = stays
        self.heard: list[Frame] = []

    async def read(self) -> Frame | None:
        if self._frames:
            return self._frames.pop(0)
        if self._stays:
            await asyncio.Event().wait()
        await asyncio.sleep(0.2)
        return None

    async def write(self, frame: Frame, /) -> None:
        self.heard.append(frame)


def opening(call_id: int, method: str = EMBED) -> pb.RelayFrame:
    return pb.RelayFrame(call_id=call_id, open=pb.RelayOpen(method=method))


def chunk(call_id: int, size: int) -> pb.RelayFrame:
    return pb.RelayFrame(call_id=call_id, chunk=pb.RelayChunk(content=b"x" * size))


def serve(
    folder: Path, coordinator: Coordinator, bounds: RelayBounds | None = None
) -> None:
    """Runs the teacher's end until its stream is over."""

    async def scenario() -> None:
        limits = bounds or RelayBounds()
        calls = LocalCalls(folder / "nobody.sock", limits)
        try:
            end = TeacherEnd(limits, calls, HeldBytes(limits.held_bytes))
            await end.run(coordinator)
        finally:
            calls.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.health.v1.Health/Check",
        "/moma.v1.TeacherServiceX/Embed",
        "/moma.v1.TeacherService/Embed/../x",
        "moma.v1.TeacherService/Embed",
        "",
    ],
)
def test_a_method_that_is_not_on_the_list_is_not_called(
    tmp_path: Path, method: str
) -> None:
    coordinator = Coordinator(opening(1, method))

    serve(tmp_path, coordinator)

    assert not is_relayed(method)
    (answer,) = coordinator.heard
    assert isinstance(answer, pb.TeacherFrame)
    assert (answer.call_id, answer.status.code) == (1, 7)  # PERMISSION_DENIED


def test_a_server_that_is_away_is_told_as_unavailable(tmp_path: Path) -> None:
    coordinator = Coordinator(
        opening(1),
        pb.RelayFrame(call_id=1, half_close=pb.RelayHalfClose()),
        stays=True,
    )

    with pytest.raises(TeacherUnavailableError, match="fell silent"):
        serve(
            tmp_path,
            coordinator,
            RelayBounds(keep_alive_seconds=0.5, silence_seconds=3.0),
        )

    statuses = [
        frame.status.code
        for frame in coordinator.heard
        if isinstance(frame, pb.TeacherFrame) and frame.HasField("status")
    ]
    assert statuses == [14]


@pytest.mark.parametrize(
    "frames",
    [
        [opening(2), opening(2)],
        [opening(2), opening(1)],
        [opening(1), chunk(1, 2**20 + 1)],
        [opening(1), *[chunk(1, 2**20)] * 4],
        [
            opening(1),
            pb.RelayFrame(call_id=1, half_close=pb.RelayHalfClose()),
            chunk(1, 1),
        ],
        [opening(1), pb.RelayFrame(call_id=1, credit=pb.RelayCredit(bytes=1))],
        [pb.RelayFrame(call_id=1)],
    ],
    ids=["twice", "older", "long", "overrun", "late", "credit", "empty"],
)
def test_who_breaks_the_rules_is_cut_off(
    tmp_path: Path, frames: list[pb.RelayFrame]
) -> None:
    with pytest.raises(MalformedRequestError):
        serve(tmp_path, Coordinator(*frames, stays=True))


def test_calls_beyond_the_bound_are_turned_away_and_a_flood_is_cut_off(
    tmp_path: Path,
) -> None:
    bounds = RelayBounds(calls=2)
    few = Coordinator(*(opening(n) for n in range(1, 5)))
    serve(tmp_path, few, bounds)
    codes = [
        frame.status.code
        for frame in few.heard
        if isinstance(frame, pb.TeacherFrame) and frame.call_id in {3, 4}
    ]
    assert codes == [8, 8]  # RESOURCE_EXHAUSTED

    with pytest.raises(MalformedRequestError, match="too many calls"):
        serve(tmp_path, Coordinator(*(opening(n) for n in range(1, 20))), bounds)


def test_frames_of_no_open_call_are_ignored(tmp_path: Path) -> None:
    coordinator = Coordinator(
        chunk(9, 5), pb.RelayFrame(call_id=9, cancel=pb.RelayCancel())
    )

    serve(tmp_path, coordinator)

    assert coordinator.heard == []
