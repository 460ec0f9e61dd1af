"""Patches that are decoded once: by whom, for how long, and when not."""

import errno
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from moma_core.data.images import decode_rgb
from moma_core.data.sources.factory import open_source
from moma_core.data.sources.pixel_cache import PixelCache
from moma_core.errors import ConfigError, DataError


class Decoder:
    """Counts what it decodes."""

    def __init__(self) -> None:
        self.files: list[str] = []

    def __call__(self, file: Path) -> NDArray[np.uint8]:
        self.files.append(file.name)
        return decode_rgb(file)


def _pictures(folder: Path, count: int, side: int = 16) -> list[Path]:
    paths = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(
            0, 256, (side, side, 3), dtype=np.uint8
        )
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_a_picture_is_decoded_once_by_all_who_read_it(tmp_path: Path) -> None:
    files = _pictures(tmp_path, 3)
    decode = Decoder()
    cache = PixelCache(tmp_path / "cache" / "a.pixels", 3, 1 << 20)
    first = [cache.pixels(row, file, decode) for row, file in enumerate(files)]

    for other in (cache, pickle.loads(pickle.dumps(cache))):
        again = [other.pixels(row, file, decode) for row, file in enumerate(files)]
        for one, two, file in zip(first, again, files, strict=True):
            assert np.array_equal(one, two)
            assert np.array_equal(two, decode_rgb(file))
            two[:] = 0  # whose caller may write to it
    assert len(decode.files) == 3
    assert (tmp_path / "cache" / "a.pixels").stat().st_mode & 0o777 == 0o600


def test_another_picture_under_the_same_name_is_decoded(tmp_path: Path) -> None:
    files = _pictures(tmp_path, 2)
    decode, path = Decoder(), tmp_path / "a.pixels"
    PixelCache(path, 2, 1 << 20).pixels(0, files[0], decode)
    files[1].replace(files[0])

    found = PixelCache(path, 2, 1 << 20).pixels(0, files[0], decode)

    assert np.array_equal(found, decode_rgb(files[0]))
    assert len(decode.files) == 2


def test_a_damaged_slot_is_decoded_anew(tmp_path: Path) -> None:
    (file,) = _pictures(tmp_path, 1)
    decode, path = Decoder(), tmp_path / "a.pixels"
    first = PixelCache(path, 1, 1 << 20).pixels(0, file, decode)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)

    again = PixelCache(path, 1, 1 << 20).pixels(0, file, decode)

    assert np.array_equal(again, first)
    assert len(decode.files) == 2


def test_what_does_not_fit_the_bound_is_decoded_each_time(tmp_path: Path) -> None:
    files = _pictures(tmp_path, 4)
    limit = 16 + 2 * (24 + 16 * 16 * 3)
    decode, path = Decoder(), tmp_path / "a.pixels"
    cache = PixelCache(path, 4, limit)

    for _ in range(2):
        for row, file in enumerate(files):
            cache.pixels(row, file, decode)

    assert decode.files == ["0.png", "1.png", "2.png", "3.png", "2.png", "3.png"]
    assert path.stat().st_size <= limit


def test_a_larger_picture_than_the_first_is_decoded_each_time(tmp_path: Path) -> None:
    (small,) = _pictures(tmp_path, 1)
    (tmp_path / "large").mkdir()
    (large,) = _pictures(tmp_path / "large", 1, side=32)
    decode, cache = Decoder(), PixelCache(tmp_path / "a.pixels", 2, 1 << 20)

    shapes = {
        cache.pixels(0, small, decode).shape,
        cache.pixels(1, large, decode).shape,
    }
    cache.pixels(1, large, decode)

    assert shapes == {(16, 16, 3), (32, 32, 3)}
    assert len(decode.files) == 3


def test_a_full_disk_costs_speed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = _pictures(tmp_path, 1)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    decode, cache = Decoder(), PixelCache(tmp_path / "c" / "a.pixels", 1, 1 << 20)

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            cache.pixels(0, file, decode)

    assert len(decode.files) == 3
    assert caplog.text.count("No space left on device") == 1
    assert list((tmp_path / "c").iterdir()) == []


def _folder(tmp_path: Path) -> Path:
    for split in ("train", "validation"):
        for name in ("a", "b"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            seed = len(split) + ord(name)
            pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "0.png")
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_source_that_keeps_its_patches_gives_the_same_ones(
    tmp_path: Path, kind: str
) -> None:
    section = {"kind": "image_folder", "root": _folder(tmp_path)}
    plain = open_source(section)
    kept = section | {"cache": kind, "cache_dir": tmp_path / "kept"}

    for _ in range(2):
        source = open_source(kept)
        for row in range(len(plain.index)):
            assert np.array_equal(source.read(row).pixels, plain.read(row).pixels)
            assert source.read(row).label == plain.read(row).label

    assert len(list((tmp_path / "kept").glob("*.pixels"))) == (kind == "disk")


def test_patches_in_memory_end_with_the_program(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from moma_core.data.sources.factory import open_source\n"
        f"source = open_source({{'kind': 'image_folder', 'cache': 'ram',"
        f" 'root': {str(_folder(tmp_path))!r}}})\n"
        "source.read(0)\n"
        "import os\n"
        "(path,) = Path('/dev/shm').glob(f'moma-*-{os.getpid()}-*.pixels')\n"
        "print(path, path.exists())\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    path, existed = done.stdout.split()
    assert existed == "True"
    assert not Path(path).exists()


def test_a_cache_on_a_disk_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cache: disk needs cache_dir"):
        open_source({"kind": "image_folder", "root": tmp_path, "cache": "disk"})


def test_what_cannot_be_decoded_is_no_pixels(tmp_path: Path) -> None:
    file = tmp_path / "0.png"
    file.write_bytes(b"no picture")
    cache = PixelCache(tmp_path / "a.pixels", 1, 1 << 20)

    for _ in range(2):
        with pytest.raises(DataError):
            cache.pixels(0, file, decode_rgb)
