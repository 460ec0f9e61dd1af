"""Names of requests: the same for what is repeated, another for everything else."""

import hashlib
import struct

from moma_core.teacher.query import REQUEST_ID_BYTES, PatchQuery, Pixels


def step_id(run_key: bytes, step: int, rows: slice) -> bytes:
    """Names some rows of a batch; equal for a run and its resumption."""
    position = struct.pack(">QII", step, rows.start, rows.stop)
    return hashlib.sha256(run_key + position).digest()[:REQUEST_ID_BYTES]


def content_id(key: bytes, pixels: Pixels) -> bytes:
    """Names what is asked: other patches have another id."""
    digest = PatchQuery(b"", pixels).digest()
    return hashlib.sha256(key + digest).digest()[:REQUEST_ID_BYTES]
