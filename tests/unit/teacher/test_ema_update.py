import hashlib

import pytest
import torch

from moma_core.errors import MalformedRequestError
from moma_core.teacher.ema_update import (
    IncomingUpdate,
    SyncHead,
    weights_to_bytes,
)


def test_an_update_is_read_once_and_nothing_of_it_is_kept() -> None:
    weights = {"a": torch.arange(6.0).view(2, 3)}
    content = weights_to_bytes(weights)
    digest = hashlib.sha256(content).digest()
    update = IncomingUpdate(SyncHead(b"", 1, len(content), digest), weights)
    update.add(content)

    read = update.weights()

    assert torch.equal(read["a"], weights["a"])
    with pytest.raises(MalformedRequestError, match="ended after 0 of"):
        update.weights()
