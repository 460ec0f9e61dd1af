"""What a site's program does before its session."""

from pathlib import Path

import pytest

from moma_client.identity.state_owner import check_owner
from moma_client.site.app import held_alone
from moma_core.errors import ConfigError
from moma_core.pki.identity import PeerName

OWN = PeerName("moma", "site", "site-a")


def test_a_second_program_of_one_state_dir_is_refused_until_the_first_is_over(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"

    with (
        held_alone(state, OWN),
        pytest.raises(ConfigError, match="another moma-client takes part"),
        held_alone(state, OWN),
    ):
        pass

    with held_alone(state, OWN):
        assert (state / "client.lock").stat().st_size == 0


@pytest.mark.parametrize(
    "other", [PeerName("moma", "site", "site-b"), PeerName("other", "site", "site-a")]
)
def test_the_state_dir_of_another_site_is_refused(
    tmp_path: Path, other: PeerName
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "runs").mkdir()  # of an earlier release, which left no mark
    with held_alone(state, OWN):
        pass

    with (
        pytest.raises(ConfigError, match=f"is of {OWN}, the config of {other}"),
        held_alone(state, other),
    ):
        pass

    with held_alone(state, OWN):  # nothing has changed
        pass


@pytest.mark.parametrize(
    "content", ["", "[]", '{"site": "a"}', '{"site": 3}', "[" * 100_000]
)
def test_a_damaged_mark_of_a_state_dir_is_a_sentence(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "site.json").write_text(content)

    with pytest.raises(ConfigError, match=r"cannot read .*site\.json"):
        check_owner(tmp_path, OWN)
