"""What one party hands on to another as a file, and what stands on a way between."""

import dataclasses
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from moma_client.identity.state_owner import check_owner
from moma_client.student.files import read_card
from moma_client.student.slides.chunks import ChunkFolder, ChunkOutputs
from moma_client.student.slides.predict import _finished
from moma_core.dashboard.guard import _as_bearer
from moma_core.network.address import endpoint_of
from moma_core.network.proxy import ProxyRoute, _check_response
from moma_core.pki.identity import PeerName
from moma_server.teacher.build.model_files import config_beside
from tests.fuzz.target import Target, by_first_byte, from_file
from tests.unit.client.student.test_files import CARD

_MARK = "f" * 64
_EMPTY = ChunkOutputs(np.zeros((2, 3), np.float32), np.zeros((2, 0), np.float32), [""])


def students() -> Target:
    """The card of a student that another site exported."""
    whole = dataclasses.replace(CARD, temperature=1.5, resolution_mpp=0.5)
    return Target(
        from_file(lambda path: read_card(path.parent), "student.json"),
        (CARD.to_json().encode(), whole.to_json().encode()),
    )


def model_configs() -> Target:
    """The config.json that a hub puts beside weights."""
    config = {
        "architecture": "resnet18",
        "model_args": {"img_size": 224},
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "input_size": [3, 224, 224]},
    }
    return Target(
        from_file(config_beside, "config.json"), (json.dumps(config).encode(),)
    )


def _npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _kept(name: str, use: Callable[[ChunkFolder], object]) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            chunks = ChunkFolder(Path(folder), _MARK)
            (Path(folder) / name).write_bytes(content)
            return use(chunks)

    return read


def kept_predictions() -> Target:
    """What an earlier run, or somebody else, left in a folder of outputs."""
    grid = _npz(
        corners=np.zeros((2, 2), np.int64),
        sizes=np.array([64, 32, 0]),
        is_damaged=np.zeros(2, np.bool_),
        thumbnail=np.zeros((8, 8, 3), np.uint8),
        damaged=np.zeros((8, 8), np.bool_),
    )
    chunk = _npz(
        shares=_EMPTY.shares, embeddings=_EMPTY.embeddings, errors=np.array([""])
    )
    own = PeerName("moma", "site", "site-a")
    return Target(
        by_first_byte(
            from_file(
                lambda path: _finished(path.parent, _MARK, overwrites=False),
                "summary.json",
            ),
            _kept("grid.npz", ChunkFolder.grid),
            _kept("chunk-000000.npz", lambda chunks: chunks.is_done(0, _EMPTY)),
            from_file(lambda path: check_owner(path.parent, own), "site.json"),
        ),
        (
            b"\0" + json.dumps({"fingerprint": _MARK, "patches": 2}).encode(),
            b"\1" + grid,
            b"\2" + chunk,
            b"\3" + json.dumps({"site": str(own)}).encode(),
        ),
    )


def ways() -> Target:
    """What a proxy answers, the token that a browser sends, and an address."""
    route = ProxyRoute("proxy", 3128, "network.proxy", None)
    return Target(
        by_first_byte(
            lambda head: _check_response(head, route, "teacher.example:443"),
            lambda header: _as_bearer(header.decode("latin-1")),
            lambda text: endpoint_of(text.decode("utf-8", "replace")),
        ),
        (
            b"\0HTTP/1.1 200 Connection established\r\n\r\n",
            b"\0HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            b"\1Basic bmFtZTp0b2tlbg==",
            b"\2teacher.example:443",
            b"\2[::1]:443",
        ),
    )
