import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from moma_core.errors import ConfigError, NotAuthorizedError
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.teacher.inference.fair_queue import QueueBounds
from moma_server.teacher.server import RELAYED, RelayedPolicy
from moma_server.teacher.settings import TeacherServerSettings
from tests.support.federation.pki import Pki
from tests.support.teacher.sealed import described
from tests.support.teacher.teacher_server import CARD, MeanColour, serving


def test_a_port_in_use_is_told_to_the_operator(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        settings = TeacherServerSettings(port=port)
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}"):
            async with serving(tmp_path, Pki(), MeanColour(), settings=settings):
                pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        asyncio.run(scenario(taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("site_bytes", "patches"), [(2**28, 10), (2**24, 5)], ids=["message", "queue"]
)
def test_a_site_is_told_how_few_large_patches_a_request_holds(
    tmp_path: Path, site_bytes: int, patches: int
) -> None:
    pki = Pki()
    backend = MeanColour(replace(CARD, input_size_px=1024))
    settings = TeacherServerSettings(queue=QueueBounds(site_bytes=site_bytes))

    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, backend, settings=settings) as served,
            served.stub(pki.site("site-a")) as stub,
        ):
            description = await stub.Describe(pb.DescribeRequest())

        _, bounds = described(description)
        assert bounds.max_patches == patches

    asyncio.run(scenario())


def test_a_teacher_serves_a_relay_sealed_services_alone() -> None:
    policy = RelayedPolicy(RELAYED)

    policy.authorize({}, "moma.v1.TeacherService")
    with pytest.raises(NotAuthorizedError, match="not served to a relay"):
        policy.authorize({}, "grpc.health.v1.Health")
