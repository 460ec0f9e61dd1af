"""The teacher cache: a teacher's outputs for V views of each patch, in one file.

A header page, then a record for each view at a place that is known beforehand. Reads
go through a memory map, writes through the file, so that a full disk is an error and
no crash. A record opens whole or not at all (`cache/records.py`); what does not open is
queried again. So a kill at any byte loses what was under way and nothing else.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moma_core.data.augment.views import view_seed
from moma_core.data.batch import Batch
from moma_core.errors import ConfigError
from moma_core.runtime.files import writing
from moma_core.teacher.cache.header import PAGE_BYTES, CacheIdentity
from moma_core.teacher.cache.open import opened_header, records_of
from moma_core.teacher.cache.records import PlainRecords, SealedRecords
from moma_core.teacher.protocol import TeacherOutput

_ADDRESS_BYTES = 32
_WHAT = "the teacher cache"


@dataclass(frozen=True, slots=True)
class Found:
    """What a cache knows of a batch.

    Args:
        output: Of all rows; those of `missing` are zero.
        missing: (M,) int64 places in the batch.
    """

    output: TeacherOutput
    missing: Tensor


class TeacherCache:
    """Outputs that were queried once; many processes may read and write one file.

    Args:
        folder: Exists; the file is named by the identity's digest.
        identity: What the cache is for.
        rows: Of the source; a file of fewer rows grows.
        key: Seals the records; None leaves them readable.

    Raises:
        ConfigError: The file cannot be read or written, or wants another key.
    """

    def __init__(
        self, folder: Path, identity: CacheIdentity, rows: int, key: bytes | None = None
    ) -> None:
        self._identity = identity
        self.path = cache_path(folder, identity)
        header = opened_header(self.path, identity, key)
        self._records = records_of(header, key)
        self._type = np.dtype("<f2" if identity.precision == "float16" else "<f4")
        self._cache = identity.digest()
        self._record_bytes = record_bytes(identity, sealed=bool(header.salt))
        with writing(self.path, _WHAT):
            self._file = os.open(self.path, os.O_RDWR)
        size = PAGE_BYTES + rows * identity.views * self._record_bytes
        if os.fstat(self._file).st_size < size:
            with writing(self.path, _WHAT):
                os.truncate(self._file, size)  # a hole: it takes room as it fills
        self._map = np.memmap(
            self.path,
            np.uint8,
            mode="r",
            offset=PAGE_BYTES,
            shape=(rows * identity.views, self._record_bytes),
        )

    def read(self, batch: Batch) -> Found:
        """Returns what is known of these very pixels."""
        identity = self._identity
        values = np.zeros((len(batch.rows), _values(identity)), np.float32)
        missing = []
        for place, (slot, address) in enumerate(self._addresses(batch)):
            content = self._records.opened(slot, self._map[slot].tobytes())
            if content is None or content[:_ADDRESS_BYTES] != address:
                missing.append(place)
            else:
                values[place] = np.frombuffer(content, self._type, -1, _ADDRESS_BYTES)
        return Found(self._output(values), torch.tensor(missing, dtype=torch.long))

    def write(self, batch: Batch, output: TeacherOutput) -> TeacherOutput:
        """Keeps outputs, and returns them as they are kept.

        Raises:
            DiskError: The disk does not take them.
            ConfigError: A value does not fit the precision.
        """
        values = torch.cat([output.embedding, output.logits], dim=1).numpy()
        with np.errstate(over="ignore"):
            kept = values.astype(self._type)  # (N, D + C)
        if not np.isfinite(kept).all():
            raise ConfigError(
                f"an output of {np.abs(values).max():g} does not fit float16: set "
                f"teacher.cache_precision to float32"
            )
        for (slot, address), row in zip(self._addresses(batch), kept, strict=True):
            self._put(slot, self._records.closed(slot, address + row.tobytes()))
        return self._output(kept.astype(np.float32))

    def present(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns which of these places hold a whole record, (N,), unrendered.

        Args:
            slots: (N,), `row * views + number`.
        """
        held = np.zeros(len(slots), np.bool_)
        for place, slot in enumerate(slots.tolist()):
            record = self._map[slot]
            if record.any():  # a hole needs no checksum
                held[place] = self._records.opened(slot, record.tobytes()) is not None
        return held

    def slots(self, rows: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        """Returns the places, (N,), of one view of each of these rows."""
        return rows * self._identity.views + number

    def flush(self) -> None:
        """Makes what was written survive a loss of power.

        Raises:
            DiskError: It does not.
        """
        with writing(self.path, _WHAT):
            os.fsync(self._file)

    def close(self) -> None:
        """Closes the file; the cache is of no use after it."""
        del self._map
        os.close(self._file)

    def _put(self, slot: int, record: bytes) -> None:
        start = PAGE_BYTES + slot * self._record_bytes
        with writing(self.path, _WHAT):
            if os.pwrite(self._file, record, start) < len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _addresses(self, batch: Batch) -> Iterator[tuple[int, bytes]]:
        """Yields each view's place in the file, and the digest of what it shows."""
        identity = self._identity
        shape = repr(tuple(batch.views.shape[1:])).encode()
        for view, row, number in zip(
            batch.views.contiguous().numpy(),
            batch.rows.tolist(),
            batch.view_numbers.tolist(),
            strict=True,
        ):
            seed = view_seed(identity.seed, row, number)
            hasher = hashlib.sha256(self._cache + seed.to_bytes(8, "big") + shape)
            hasher.update(view.data)
            yield row * identity.views + number, hasher.digest()

    def _output(self, values: NDArray[np.float32]) -> TeacherOutput:
        both = torch.from_numpy(values)
        length = self._identity.embedding_length
        return TeacherOutput(
            both[:, :length].contiguous(), both[:, length:].contiguous()
        )


def cache_path(folder: Path, identity: CacheIdentity) -> Path:
    """Returns where a cache lies."""
    return folder / f"{identity.digest().hex()[:16]}.cache"


def record_bytes(identity: CacheIdentity, *, sealed: bool) -> int:
    """Returns a record's size: the address, the embedding, the logits, the seal."""
    value_bytes = 2 if identity.precision == "float16" else 4
    records = SealedRecords if sealed else PlainRecords
    return records.overhead_bytes + _ADDRESS_BYTES + value_bytes * _values(identity)


def _values(identity: CacheIdentity) -> int:
    return identity.embedding_length + identity.class_count
