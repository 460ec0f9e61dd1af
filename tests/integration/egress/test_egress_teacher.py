"""What of a site reaches its teacher: pixels in one form and order, nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moma_client.egress.log import log_entries
from moma_client.egress.to_teacher import SendingPolicy, order_on_the_wire
from moma_core.data.batch import Batch
from moma_core.data.images import decode_rgb
from moma_core.errors import PolicyError
from moma_core.teacher.card.bounds import RequestBounds
from moma_core.teacher.ema_update import SyncHead
from moma_core.teacher.pixel_encoding import PixelEncoding
from moma_core.teacher.query import patch_digests
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import ScriptedTeacher, Site, honest, scripted
from tests.support.teacher.teacher_server import SIDE_PX

WHOSE = "Maria Mueller, slide S-0815, /data/patients/p-0042"


class Listener(ScriptedTeacher):
    """Keeps all that reaches it."""

    def __init__(self) -> None:
        super().__init__(self._hear)
        self.requests: list[pb.EmbedRequest] = []
        self.metadata: list[tuple[str, str]] = []

    def _hear(self, requests: Any, context: Any) -> Iterator[pb.EmbedResponse]:
        self.metadata += context.invocation_metadata()

        def heard() -> Iterator[pb.EmbedRequest]:
            for request in requests:
                self.requests.append(request)
                yield request

        yield from honest(heard(), context)


def _pictures(folder: Path, count: int) -> Batch:
    """A batch of patches from files that say in every way whose they are."""
    views = []
    for place in range(count):
        path = folder / f"p-0042 {place}.jpg"
        exif = Image.Exif()
        exif[0x010E] = exif[0x013B] = WHOSE  # description, artist
        image = Image.new("RGB", (SIDE_PX, SIDE_PX), (17 * place, 0, 0))
        image.save(path, exif=exif, comment=WHOSE, icc_profile=WHOSE.encode())
        assert WHOSE.encode() in path.read_bytes()
        views.append(torch.from_numpy(decode_rgb(path)).permute(2, 0, 1))
    rows = torch.arange(count)
    stacked = torch.stack(views)
    return Batch(stacked, stacked, rows * 0, 0, rows, rows * 0)


@pytest.fixture
def listener() -> Listener:
    return Listener()


def _ask(
    folder: Path, listener: Listener, batch: Batch, policy: SendingPolicy, **more: Any
) -> torch.Tensor:
    pki = Pki()
    with scripted(pki, listener) as port:
        site = Site(folder, pki, port)
        with site.teacher(egress=policy, **more) as teacher:
            ((_, answer),) = teacher.answer_batches([batch])
    return answer.embedding


@pytest.mark.parametrize("encoding", ["raw", "png", "webp", "jpeg:90"])
def test_what_leaves_is_an_array_and_nothing_of_the_file(
    tmp_path: Path, listener: Listener, encoding: str
) -> None:
    batch = _pictures(tmp_path, 5)
    policy = SendingPolicy(PixelEncoding.parse(encoding), log=tmp_path / "log")

    _ask(tmp_path / "site", listener, batch, policy)

    (request,) = listener.requests
    read = convert.query_from_wire(request, RequestBounds(SIDE_PX, 16)).pixels
    sent = request.SerializeToString()
    for word in (*WHOSE.split(), "Exif", "ICC", ".jpg"):
        assert word.encode() not in sent
    assert {field.name for field, _ in request.ListFields()} == {
        *("request_id", "patches", "height_px", "width_px", "format"),
        "pictures" if request.pictures else "pixels",
    }
    plain = batch.views.permute(0, 2, 3, 1).numpy()
    order = order_on_the_wire(_key(encoding), patch_digests(plain))
    atol = 12 if encoding.startswith("jpeg") else 0
    np.testing.assert_allclose(read.astype(int), plain[order].astype(int), atol=atol)


def _key(encoding: str) -> bytes:
    return b"run" + (encoding.encode() if encoding.startswith("jpeg") else b"")


def test_answers_come_back_in_the_order_of_the_batch(
    tmp_path: Path, listener: Listener
) -> None:
    batch = _pictures(tmp_path, 12)

    embedding = _ask(tmp_path / "site", listener, batch, SendingPolicy())

    reds = batch.views[:, 0].float().mean(dim=(1, 2))
    torch.testing.assert_close(embedding[:, 0], reds)


@pytest.mark.parametrize("by_content", [False, True], ids=["online", "cache"])
def test_the_order_on_the_wire_tells_nothing_of_the_order_at_the_site(
    tmp_path: Path, listener: Listener, by_content: bool
) -> None:
    batch = _pictures(tmp_path, 12)
    backwards = Batch(*(part.flip(0) for part in batch[:3]), 0, *batch[4:])

    for name, asked in (("one", batch), ("two", backwards)):
        _ask(
            tmp_path / name,
            listener,
            asked,
            SendingPolicy(),
            ids_by_content=by_content,
        )

    first, second = (request.pixels for request in listener.requests)
    assert first == second
    assert first != batch.views.permute(0, 2, 3, 1).numpy().tobytes()


def test_another_key_is_another_order() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(16, 1, 1, 1).repeat(3, axis=3)
    digests = patch_digests(pixels)

    orders = {tuple(order_on_the_wire(key, digests)) for key in (b"a", b"b", b"c")}

    assert len(orders) == 3


def test_no_call_carries_more_than_a_fixed_name_of_the_program(
    tmp_path: Path, listener: Listener
) -> None:
    _ask(tmp_path / "site", listener, _pictures(tmp_path, 2), SendingPolicy())

    ((name, value),) = listener.metadata
    assert name == "user-agent"
    assert value.startswith("moma-client grpc-")


def test_each_request_is_in_the_sites_own_log(
    tmp_path: Path, listener: Listener
) -> None:
    policy = SendingPolicy(log=tmp_path / "egress.jsonl")

    _ask(tmp_path / "site", listener, _pictures(tmp_path, 5), policy)

    (entry,) = log_entries(tmp_path / "egress.jsonl")
    assert (entry["channel"], entry["outcome"]) == ("teacher", "sent")
    assert (entry["patches"], entry["encoding"]) == (5, "rgb_uint8")
    assert entry["bytes"] == listener.requests[0].ByteSize()


def test_weights_do_not_leave_for_a_teacher_unless_the_site_says_so(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, Pki(), 1)
    policy = SendingPolicy(log=tmp_path / "egress.jsonl")

    with (
        site.teacher(egress=policy) as teacher,
        pytest.raises(PolicyError, match="weights may not leave"),
    ):
        teacher.egress.weights(SyncHead(bytes(16), 1, 1, bytes(32)), b"w")

    assert site.metric("egress_blocked_total", rule="weights") == 1
    assert site.metric("egress_bytes_total", channel="teacher") == 0
    (entry,) = log_entries(tmp_path / "egress.jsonl")
    assert entry["outcome"] == "blocked"
