"""A site whose disk fills up in a round: the coordinator hears of it at once."""

from pathlib import Path
from typing import Any

import pytest

from moma_core.errors import CheckpointError
from moma_core.federation.task import RoundTask
from moma_core.training import trainer
from tests.support.machine.disks import fill, small_disk
from tests.support.site.egress_site import EgressSite

ROUND = RoundTask(
    kind="train", run="r1", round=1, rounds=2, local_epochs=1, mode="independent"
)


def test_a_checkpoint_that_finds_no_room_ends_the_round_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = trainer.save_checkpoint
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:

        def late(*values: Any) -> None:
            fill(disk)
            honest(*values)

        monkeypatch.setattr(trainer, "save_checkpoint", late)
        with EgressSite(disk / "site") as site:
            sent = site.asked(ROUND)
            site.wait_for_the_end()

        assert b"the site could not do the work" in sent
        assert isinstance(site.error, CheckpointError)
        assert str(site.error).startswith("cannot write the checkpoint ")
        assert str(site.error).endswith(
            "No space left on device; free some space there, then start again"
        )
        assert all(name not in sent.lower() for name in site.secrets())
