import asyncio
import socket
from pathlib import Path

import pytest

from moma_core.errors import ConfigError
from moma_server.teacher.service import TeacherServerSettings
from tests.pki import Pki
from tests.teacher_server import MeanColour, serving


def test_a_request_that_no_batch_can_hold_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="300 patches does not fit a batch of 256"):
        TeacherServerSettings(max_patches_per_request=300, max_batch_patches=256)


def test_a_port_in_use_is_told_to_the_operator(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        settings = TeacherServerSettings(port=port)
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}"):
            async with serving(tmp_path, Pki(), MeanColour(), settings=settings):
                pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        asyncio.run(scenario(taken.getsockname()[1]))
