"""A site of a real federation that asks a question of its own making."""

from typing import Any

import grpc

from moma_client.config import SiteIdentity
from moma_core.trust.signing import SigningKey
from moma_proto.v1 import convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub
from tests.e2e.world import World
from tests.sealed import BlockingSealedStub, SiteSide


def sealed_stub(
    world: World, channel: grpc.Channel, site: str, key: SigningKey | None = None
) -> Any:
    """Returns the teacher's methods, as a site calls them that has read the card.

    Args:
        world: Its teacher serves.
        channel: To the teacher.
        site: Who asks.
        key: Signs; by default the site's own, from its folder.
    """
    stub: Any = TeacherServiceStub(channel)
    described = stub.Describe(pb.DescribeRequest(), timeout=20)
    section = world.teacher_config().teacher
    assert section is not None
    teacher = SigningKey.load(section.signing_key, section.identity.passphrase_file)
    side = SiteSide(
        convert.signed_card_from_wire(described),
        site,
        key=key or key_in(world, site),
        teacher_key=teacher,
    )
    return BlockingSealedStub(stub, side)


def key_in(world: World, site: str) -> SigningKey:
    """Returns a site's signing key."""
    path = world.folder / site / "config.yaml"
    identity = SiteIdentity.from_yaml(path).identity
    return SigningKey.load(identity.signing_key, identity.passphrase_file)
