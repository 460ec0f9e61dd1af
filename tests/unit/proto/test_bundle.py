"""The bundle has one hash everywhere, and no code."""

import hashlib
import io
import zipfile

from moma_proto.bundle import bundle_bytes, bundle_hash


def test_the_bundle_is_the_one_that_every_release_serves() -> None:
    # a change here is a new contract: sites refuse coordinators of the old one
    assert bundle_hash() == hashlib.sha256(bundle_bytes()).hexdigest()
    assert bundle_hash() == (
        "b917b31bfe8f06bbd59b8bacda17bd21ae3df6c29b10bfbd73cc91e95c5ccdf8"
    )


def test_the_bundle_holds_no_code_and_is_not_compressed() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle_bytes())) as bundle:
        entries = bundle.infolist()

    assert [entry.filename for entry in entries] == ["pyproject.toml", ".info/CONTENT"]
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
