"""What a site's program does before its session."""

from pathlib import Path

import pytest

from moma_client.site.app import held_alone
from moma_core.errors import ConfigError


def test_a_second_program_of_one_state_dir_is_refused_until_the_first_is_over(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"

    with (
        held_alone(state),
        pytest.raises(ConfigError, match="another moma-client takes part"),
        held_alone(state),
    ):
        pass

    with held_alone(state):
        assert (state / "client.lock").stat().st_size == 0
