"""What a server does beside its calls does not end unseen."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
import yaml

from moma_core.errors import DiskError
from moma_core.metrics_http.registry import Registry
from moma_server.cli.init import ServerSetup, init_server
from moma_server.config.server import ServerConfig
from moma_server.metrics.certificates import CertificateMetrics
from moma_server.relay.role import serve_relay
from moma_server.relay.server import RelayServer
from moma_server.rpc.background import BackgroundTasks
from moma_server.teacher.inference.fair_queue import FairQueue
from moma_server.teacher.role import serve_teacher
from moma_server.teacher.server import TeacherServer
from moma_server.teacher.settings import TeacherServerSettings
from tests.support.federation.pki import Pki
from tests.support.machine.waiting import WAIT_SECONDS, until
from tests.support.teacher.reference_patch_teacher import write_golden_teacher
from tests.support.teacher.teacher_server import (
    MeanColour,
    in_background,
    request,
    serving,
)


async def _fail(*_: Any) -> None:
    raise KeyError("a bug")


def test_cancelled_tasks_have_ended() -> None:
    async def scenario() -> None:
        tasks, never = BackgroundTasks(), asyncio.Event()
        for name in ("one", "other"):
            tasks.start(_waited(never), name)
        waiting = in_background(tasks.wait())
        await asyncio.sleep(0)
        assert not waiting.done()

        tasks.cancel()

        await asyncio.wait_for(waiting, WAIT_SECONDS)

    asyncio.run(scenario())


async def _waited(event: asyncio.Event) -> None:
    await event.wait()


def test_a_queue_that_breaks_ends_the_teacher_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("a bug")

    async def scenario() -> None:
        pki = Pki()
        async with (
            serving(tmp_path, pki, MeanColour()) as served,
            served.stub(pki.site("site-a")) as stub,
        ):
            monkeypatch.setattr(FairQueue, "take", broken)
            answer = in_background(_first(stub.Embed(iter([request()]))))

            with pytest.raises(KeyError, match="a bug"):
                async with asyncio.timeout(WAIT_SECONDS):
                    await served.server.wait_for_termination()

            monkeypatch.undo()
            async with asyncio.timeout(WAIT_SECONDS):
                await served.server.stop(grace_seconds=2)
                with pytest.raises(Exception, match="shutting down"):
                    await answer

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "error", "sentence"),
    [
        (
            "moma_server.teacher.end_to_end.identity.SealingKeys.rotate_if_due",
            DiskError("cannot write the sealing keys: No space left on device"),
            "the sealing keys cannot be rotated",
        ),
        (
            "moma_core.audit.ledger.Ledger.sign_anew",
            sqlalchemy.exc.TimeoutError("QueuePool limit"),
            "the log cannot be signed anew",
        ),
    ],
    ids=["a full disk", "a busy database"],
)
def test_what_passes_is_tried_again(
    method: str,
    error: Exception,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(_: object) -> None:
        raise error

    async def scenario() -> None:
        settings = TeacherServerSettings(sweep_seconds=0.01, checkpoint_seconds=0.01)
        async with serving(tmp_path, Pki(), MeanColour(), settings=settings) as served:
            monkeypatch.setattr(method, fails)
            ended = in_background(served.server.wait_for_termination())

            await until(lambda: caplog.text.count(sentence) >= 2)

            assert not ended.done()
            monkeypatch.undo()
        await asyncio.wait_for(ended, WAIT_SECONDS)

    asyncio.run(scenario())


async def _first(answers: Any) -> Any:
    return await anext(aiter(answers))


@pytest.mark.parametrize("task", ["_sweep", "_rotate_keys", "_sign_anew"])
def test_a_teachers_role_ends_with_each_of_its_tasks(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_server(tmp_path, ServerSetup())
    write_golden_teacher(tmp_path / "teacher")
    config = _at_a_free_port(tmp_path / "server.yaml", ("teacher",))
    registry = Registry()
    monkeypatch.setattr(TeacherServer, task, _fail)

    role = serve_teacher(
        config,
        config.own_teacher(),
        registry,
        asyncio.Event(),
        CertificateMetrics(registry),
    )

    with pytest.raises(KeyError, match="a bug"):
        asyncio.run(asyncio.wait_for(role, WAIT_SECONDS))


def test_a_relays_role_ends_with_its_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_server(tmp_path, ServerSetup(roles=("coordinator",), relay_port=8446))
    path = ("coordinator", "relay")
    config = _at_a_free_port(tmp_path / "server.yaml", path)
    assert config.coordinator is not None
    monkeypatch.setattr(RelayServer, "_sweep", _fail)

    role = serve_relay(config, config.coordinator, Registry(), asyncio.Event())

    with pytest.raises(KeyError, match="a bug"):
        asyncio.run(asyncio.wait_for(role, WAIT_SECONDS))


def _at_a_free_port(config: Path, section: tuple[str, ...]) -> ServerConfig:
    values = yaml.safe_load(config.read_text())
    found = values
    for key in section:
        found = found[key]
    found["listen"] = {"host": "127.0.0.1", "port": 0}
    config.write_text(yaml.safe_dump(values))
    return ServerConfig.from_yaml(config)
