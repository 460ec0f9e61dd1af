from pathlib import Path
from typing import Any

import pytest

from moma_client.identity.pinned_teacher import PinnedTeacher
from moma_client.teacher.channel import TeacherAddress
from moma_client.teacher.remote_teacher import RemoteTeacherSettings
from tests.support.teacher.sealed import key_of

END_TO_END = PinnedTeacher(
    federation="test-federation",
    site="site-a",
    signing_key=Path("unread"),
    teacher="teacher-a",
    teacher_key=key_of("teacher-a").public,
    floor="x25519",
    card_memory=Path("unread"),
)


def address(text: str = "localhost:8443") -> TeacherAddress:
    nowhere = Path("unread")
    return TeacherAddress("teacher-a", text, nowhere, nowhere, nowhere)


@pytest.mark.parametrize("text", [":1", "localhost", "localhost:0", "localhost:70000"])
def test_an_address_without_host_or_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|invalid literal"):
        address(text)


@pytest.mark.parametrize(
    "settings",
    [{"in_flight": 0}, {"patches_per_request": 0}, {"answer_deadline_seconds": 0}],
)
def test_settings_under_which_nothing_moves_are_refused(
    settings: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=r"in flight|deadline"):
        RemoteTeacherSettings(address(), END_TO_END, **settings)
