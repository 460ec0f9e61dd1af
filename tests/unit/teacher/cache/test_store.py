import errno
import logging
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moma_core.errors import ConfigError
from moma_core.teacher.cache.header import PAGE_BYTES
from moma_core.teacher.cache.store import TeacherCache, record_bytes
from moma_core.teacher.protocol import TeacherOutput
from tests.support.site.teacher_caches import (
    CARD,
    KEY,
    ROWS,
    VIEWS,
    all_batches,
    assert_all_true,
    assert_true,
    identity,
    open_cache,
    truth,
    view_batch,
)

KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])


def _filled(folder: Path, key: bytes | None = None) -> Path:
    with closing(open_cache(folder, key)) as cache:
        for batch in all_batches():
            cache.write(batch, truth(batch))
        return cache.path


@KEYS
def test_what_was_written_comes_back_from_another_opening(
    tmp_path: Path, key: bytes | None
) -> None:
    _filled(tmp_path, key)

    with closing(open_cache(tmp_path, key)) as cache:
        assert_all_true(cache)


def test_a_view_that_was_never_written_is_missing(tmp_path: Path) -> None:
    with closing(open_cache(tmp_path)) as cache:
        known, batch = view_batch([3, 7], 1), view_batch([2, 3, 7, 8], 1)
        cache.write(known, truth(known))

        found = cache.read(batch)

        assert found.missing.tolist() == [0, 3]
        assert_true(known, TeacherOutput(*(part[1:3] for part in found.output[:2])))
        assert len(cache.read(view_batch([3], 2)).missing) == 1


def test_a_patch_whose_pixels_changed_is_missing(tmp_path: Path) -> None:
    _filled(tmp_path)

    with closing(open_cache(tmp_path)) as cache:
        found = cache.read(view_batch([4], 0, salt=1))

        assert found.missing.tolist() == [0]
        assert not found.output.embedding.any()


def test_float16_rounds_and_the_writer_is_told_how(tmp_path: Path) -> None:
    batch = view_batch(range(5), 0)
    answer = TeacherOutput(torch.randn(5, 200), torch.randn(5, 2))

    with closing(open_cache(tmp_path)) as cache:
        kept = cache.write(batch, answer)
        found = cache.read(batch).output

    assert torch.equal(kept.embedding, answer.embedding.half().float())
    assert torch.equal(found.embedding, kept.embedding)
    assert torch.equal(found.logits, kept.logits)


def test_float32_is_exact(tmp_path: Path) -> None:
    batch = view_batch(range(5), 0)
    answer = TeacherOutput(torch.randn(5, 200), 1e9 * torch.randn(5, 2))
    made_for = identity(precision="float32")

    with closing(TeacherCache(tmp_path, made_for, ROWS)) as cache:
        cache.write(batch, answer)
        found = cache.read(batch).output

    assert torch.equal(found.embedding, answer.embedding)
    assert torch.equal(found.logits, answer.logits)


def test_a_value_beyond_float16_is_refused_and_not_kept(tmp_path: Path) -> None:
    batch = view_batch([0], 0)
    answer = TeacherOutput(torch.full((1, 200), 70_000.0), torch.zeros(1, 2))

    with closing(open_cache(tmp_path)) as cache:
        with pytest.raises(ConfigError, match="70000 does not fit float16"):
            cache.write(batch, answer)

        assert cache.read(batch).missing.tolist() == [0]


def test_a_full_disk_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(open_cache(tmp_path)) as cache:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(ConfigError, match=r"cannot write .*No space left"):
            cache.write(view_batch([0], 0), truth(view_batch([0], 0)))


def test_a_source_that_grew_keeps_the_answers_of_its_first_rows(tmp_path: Path) -> None:
    _filled(tmp_path)

    with closing(TeacherCache(tmp_path, identity(), ROWS + 7)) as cache:
        assert_all_true(cache)
        assert len(cache.read(view_batch([ROWS + 6], 2)).missing) == 1


def test_the_file_is_flat_and_its_holes_take_no_room(tmp_path: Path) -> None:
    rows = 1_000_000

    with closing(TeacherCache(tmp_path, identity(), rows)) as cache:
        batch = view_batch([rows - 1], VIEWS - 1)
        cache.write(batch, truth(batch))
        status = cache.path.stat()
        found = cache.read(batch)

    size = record_bytes(identity(), sealed=False)
    assert size == 32 + 2 * 202 + 16
    assert status.st_size == PAGE_BYTES + rows * VIEWS * size
    assert status.st_blocks * 512 < 100_000
    assert not len(found.missing)


@KEYS
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damage_anywhere_is_missing_and_never_served(
    tmp_path: Path, key: bytes | None, data: st.DataObject
) -> None:
    folder = tmp_path / os.urandom(8).hex()
    folder.mkdir()
    path = _filled(folder, key)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    with closing(open_cache(folder, key)) as cache:
        for batch in all_batches():
            found = cache.read(batch)
            expected, answer = truth(batch), found.output
            expected.embedding[found.missing] = expected.logits[found.missing] = 0
            assert torch.equal(answer.embedding, expected.embedding)
            assert torch.equal(answer.logits, expected.logits)
            cache.write(batch, truth(batch))
        assert_all_true(cache)


def test_a_record_moved_to_another_place_does_not_open(tmp_path: Path) -> None:
    path, size = _filled(tmp_path), record_bytes(identity(), sealed=False)
    content = bytearray(path.read_bytes())
    first, second = PAGE_BYTES, PAGE_BYTES + size
    content[second : second + size] = content[first : first + size]
    path.write_bytes(content)

    with closing(open_cache(tmp_path)) as cache:
        present = cache.present(np.array([0, 1, 2]))

    assert present.tolist() == [True, False, True]


def test_a_damaged_header_sets_the_file_aside_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _filled(tmp_path)
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)

    with closing(open_cache(tmp_path)) as cache:
        assert not cache.present(np.arange(ROWS * VIEWS)).any()

    assert f"the header of teacher cache {path.name} is damaged" in caplog.text
    assert (tmp_path / f"{path.name}.damaged-1").read_bytes() == content


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (identity(seed=6), "(seed 5 -> 6)"),
        (identity(replace(CARD, digest="b" * 64)), f"{'a' * 12} -> {'b' * 12})"),
        (identity(replace(CARD, input_size_px=16)), "(input_size_px 8 -> 16)"),
        (identity(replace(CARD, std=(1.0, 1.0, 1.0))), "(std (0.229, 0.224, 0.225) ->"),
        (identity(replace(CARD, embedding_length=99)), "(embedding_length 200 -> 99)"),
        (identity(precision="float32"), "(precision float16 -> float32)"),
        (replace(identity(), view_size_px=16), "(view_size_px 8 -> 16)"),
        (replace(identity(), recipe="flips False"), "(recipe flips True, rotation any"),
        (replace(identity(), views=4), "(views 3 -> 4)"),
    ],
)
def test_a_cache_of_other_terms_is_kept_and_the_change_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: object, says: str
) -> None:
    path = _filled(tmp_path)
    before = path.read_bytes()

    with caplog.at_level(logging.WARNING):
        cache = TeacherCache(tmp_path, changed, ROWS)
    cache.close()

    assert cache.path != path
    assert path.read_bytes() == before
    assert says in caplog.text
    assert f"teacher cache {path.name} is kept but does not fit any more" in caplog.text


def test_the_wrong_key_is_refused(tmp_path: Path) -> None:
    _filled(tmp_path, KEY)

    with pytest.raises(ConfigError, match="encrypted with another key"):
        open_cache(tmp_path, KEY[::-1])
    with pytest.raises(
        ConfigError, match=r"is encrypted: name teacher\.cache_key_file"
    ):
        open_cache(tmp_path)


def test_a_key_for_a_readable_cache_is_refused(tmp_path: Path) -> None:
    _filled(tmp_path)

    with pytest.raises(ConfigError, match="is not encrypted: move it away"):
        open_cache(tmp_path, KEY)


def test_a_sealed_cache_shows_nothing_and_no_two_writes_are_alike(
    tmp_path: Path,
) -> None:
    path, size = _filled(tmp_path, KEY), record_bytes(identity(), sealed=True)
    batch = view_batch([0], 0)
    written = truth(batch).embedding.half().numpy().tobytes()[:16]
    plain = _filled(tmp_path_beside(tmp_path)).read_bytes()

    records = set()
    with closing(open_cache(tmp_path, KEY)) as cache:
        for _ in range(100):
            cache.write(batch, truth(batch))
            records.add(path.read_bytes()[PAGE_BYTES : PAGE_BYTES + size])

    assert written in plain
    assert written not in path.read_bytes()
    assert len({record[:12] for record in records}) == 100
    assert path.stat().st_mode & 0o777 == 0o600


def tmp_path_beside(path: Path) -> Path:
    other = path / "plain"
    other.mkdir()
    return other


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write the teacher cache"):
        open_cache(tmp_path / "none")
