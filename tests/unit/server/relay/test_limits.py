"""What may be called through the relay, and how much may be held."""

import pytest

from moma_core.errors import TeacherBusyError
from moma_server.relay.limits import ByteQuota, is_relayed


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.health.v1.Health/Check",
        "/moma.v1.TeacherServiceX/Embed",
        "/moma.v1.TeacherService/Embed/../x",
        "moma.v1.TeacherService/Embed",
        "",
    ],
)
def test_a_method_that_is_not_on_the_list_is_not_relayed(method: str) -> None:
    assert not is_relayed(method)


def test_a_quota_refuses_before_its_limit_and_counts_nothing() -> None:
    shared = ByteQuota(100)
    one, other = ByteQuota(80, shared), ByteQuota(80, shared)

    with one.holding(70):
        with pytest.raises(TeacherBusyError), other.holding(40):
            pass
        with pytest.raises(TeacherBusyError), one.holding(11):
            pass
        assert (one.now, other.now, shared.now) == (70, 0, 70)

    assert (one.now, shared.now, shared.most) == (0, 0, 70)
