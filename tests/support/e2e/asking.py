"""A site of a real federation that asks a question of its own making."""

import os
from typing import Any

import grpc

from moma_client.config.site import SiteIdentity
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import MomaError
from moma_core.pki.key_files import open_key
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub
from tests.support.e2e.programs import LOOPBACK
from tests.support.e2e.world import World
from tests.support.teacher.sealed import BlockingSealedStub, SiteSide

SIDE_PX = 32
_ANSWER_SECONDS = 90.0


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


def ask(
    world: World,
    site: str,
    *,
    patches: int = 2,
    value: int = 7,
    request_id: bytes | None = None,
) -> str | None:
    """Asks one query; returns what the teacher refused, None where it answered."""
    place = world.folder / site
    identity = SiteIdentity.from_yaml(place / "config.yaml").identity
    credentials = grpc.ssl_channel_credentials(
        identity.authority.read_bytes(),
        open_key(identity.key, identity.passphrase_file),
        identity.certificate.read_bytes(),
    )
    request = pb.EmbedRequest(
        request_id=request_id or os.urandom(16),
        patches=patches,
        height_px=SIDE_PX,
        width_px=SIDE_PX,
        format=pb.PIXEL_FORMAT_RGB_UINT8,
        pixels=bytes([value]) * (patches * SIDE_PX**2 * 3),
    )
    address = f"{LOOPBACK}:{world.ports['teach']}"
    with grpc.secure_channel(address, credentials) as channel:
        grpc.channel_ready_future(channel).result(_ANSWER_SECONDS)
        try:
            stub = sealed_stub(world, channel, site)
            (_answer,) = stub.Embed(iter([request]), timeout=_ANSWER_SECONDS)
        except MomaError as error:
            return type(error).__name__
    return None
