"""The README's commands do what they say: blocks marked `<!-- run -->` are run."""

from pathlib import Path

from tests.support.machine.shell import marked_blocks, run_blocks

_README = Path(__file__).resolve().parents[2] / "README.md"
_SECONDS = 240  # for all blocks together, on a busy machine


def test_the_readmes_marked_commands_run_one_after_another(tmp_path: Path) -> None:
    script = "\n".join(block for _, block in marked_blocks(_README))

    status, said = run_blocks(script, tmp_path, seconds=_SECONDS)

    assert status == 0, said
