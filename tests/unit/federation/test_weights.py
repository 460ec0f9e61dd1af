"""Weights as bytes: whole, finite, of a known type, no larger than agreed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moma_core.errors import CheckpointError, UpdateRejectedError
from moma_core.federation.weights import (
    StoredWeights,
    check_weights,
    load_metadata,
    load_with_metadata,
    save_weights,
    weights_from_bytes,
    weights_to_bytes,
)

WEIGHTS = {
    "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bn.num_batches_tracked": np.array(3, np.int64),
}


def test_weights_come_back_as_they_were() -> None:
    content = weights_to_bytes(WEIGHTS)

    back = weights_from_bytes(content, max_bytes=len(content))

    assert back.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape


def test_a_transposed_array_keeps_its_values() -> None:
    turned = {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T}

    back = weights_from_bytes(weights_to_bytes(turned), max_bytes=1 << 20)

    np.testing.assert_array_equal(back["w"], turned["w"])


def test_weights_beyond_the_limit_are_not_parsed() -> None:
    with pytest.raises(UpdateRejectedError, match="at most 10"):
        weights_from_bytes(weights_to_bytes(WEIGHTS), max_bytes=10)


@pytest.mark.parametrize("cut", [0, 4, 20, -1])
def test_damaged_bytes_are_refused(cut: int) -> None:
    content = weights_to_bytes(WEIGHTS)[:cut]

    with pytest.raises(UpdateRejectedError, match="not whole"):
        weights_from_bytes(content, max_bytes=1 << 20)


def test_a_type_that_is_no_number_is_refused() -> None:
    with pytest.raises(UpdateRejectedError, match="bool"):
        check_weights({"mask": np.array([True])})


def test_a_file_carries_weights_and_text(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights_to_bytes(WEIGHTS, {"round": "3"}))

    weights, metadata = load_with_metadata(path)

    np.testing.assert_array_equal(weights["conv.weight"], WEIGHTS["conv.weight"])
    assert metadata == {"round": "3"}
    assert load_metadata(path) == {"round": "3"}


def test_a_saved_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"

    save_weights(path, WEIGHTS)

    np.testing.assert_array_equal(
        load_with_metadata(path)[0]["conv.weight"], WEIGHTS["conv.weight"]
    )


@pytest.mark.parametrize("read", [load_with_metadata, StoredWeights])
@pytest.mark.parametrize("place", ["a tensor", "the metadata"])
def test_a_saved_file_with_a_changed_bit_is_named(
    tmp_path: Path, place: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, WEIGHTS, {"round": "3"})
    content = bytearray(path.read_bytes())
    content[-1 if place == "a tensor" else content.index(b'"3"') + 1] ^= 0x01
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
        read(path)


def test_what_was_read_of_a_file_can_be_saved_again(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, WEIGHTS, {"round": "3"})

    save_weights(path, WEIGHTS, load_metadata(path))

    assert load_with_metadata(path)[1] == load_metadata(path) == {"round": "3"}


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing of the kind")

    for path in (damaged, tmp_path / "missing.safetensors"):
        with pytest.raises(CheckpointError, match=path.name):
            load_with_metadata(path)[0]
        with pytest.raises(CheckpointError, match=path.name):
            load_metadata(path)


def test_a_million_empty_tensors_are_not_made() -> None:
    names = (
        f'"{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
        for n in range(30_000)
    )
    header = ("{" + ",".join(names) + "}").encode()
    content = len(header).to_bytes(8, "little") + header

    with pytest.raises(UpdateRejectedError, match="name their tensors"):
        weights_from_bytes(content, max_bytes=1 << 30)


@pytest.mark.parametrize("name", ["", "patient 4711", "a\nb", "é", "x" * 201])
def test_a_tensor_is_named_as_models_name_theirs(name: str) -> None:
    content = weights_to_bytes({name: np.zeros(1, np.float32)})

    with pytest.raises(UpdateRejectedError, match="no proper name") as error:
        weights_from_bytes(content, max_bytes=1 << 20)

    assert "4711" not in str(error.value)
