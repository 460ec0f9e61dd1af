"""Names of requests: the same for what is repeated, another for everything else."""

import hashlib
import struct
from collections.abc import Sequence

from moma_core.teacher.query import REQUEST_ID_BYTES, question_digest


def step_id(run_key: bytes, step: int, rows: slice) -> bytes:
    """Names some rows of a batch; equal for a run and its resumption."""
    position = struct.pack(">QII", step, rows.start, rows.stop)
    return hashlib.sha256(run_key + position).digest()[:REQUEST_ID_BYTES]


def content_id(key: bytes, digests: Sequence[bytes]) -> bytes:
    """Names what is asked by the digests of its patches: others have another id."""
    return hashlib.sha256(key + question_digest(digests)).digest()[:REQUEST_ID_BYTES]
