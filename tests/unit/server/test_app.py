"""A server whose roles end together."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from moma_core.errors import ConfigError
from moma_server.app import run_server
from moma_server.cli.init import ServerSetup, init_server
from moma_server.config.server import ServerConfig


def test_a_role_that_fails_lets_another_finish_its_start_and_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping, said = threading.Event(), []

    async def teacher(*_: object) -> None:
        raise ConfigError("cannot read the teacher card")

    async def coordinator(*arguments: Any) -> None:
        await asyncio.to_thread(stopping.wait)  # its start takes a while
        said.append("started")
        await arguments[-1].wait()
        said.append("stopped")

    async def enrolment(*arguments: Any) -> None:
        try:
            await arguments[-1].wait()
            for _ in range(10):
                await asyncio.sleep(0)
        finally:
            stopping.set()

    async def other(*_: object) -> None:
        pass

    init_server(tmp_path, ServerSetup(metrics_port=0))
    monkeypatch.setattr("moma_server.teacher.role.serve_teacher", teacher)
    monkeypatch.setattr("moma_server.app._coordinate", coordinator)
    monkeypatch.setattr("moma_server.app.serve_enrolment", enrolment)
    monkeypatch.setattr("moma_server.app.serve_relay", other)

    with pytest.raises(ConfigError, match="teacher card"):
        run_server(ServerConfig.from_yaml(tmp_path / "server.yaml"))

    assert said == ["started", "stopped"]
