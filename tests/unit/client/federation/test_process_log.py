"""What the node's process writes into its log of what a coordinator said."""

import subprocess
import sys

_SAYS = """
import logging
from moma_client.federation.process import _start_logging
_start_logging()
logging.getLogger("flwr").warning("it says %s", "\\x1b[2J\\n2026-01-01 ERROR forged")
"""


def test_a_coordinators_words_are_no_command_and_no_line_of_their_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SAYS], capture_output=True, text=True, check=True
    )

    first, second = done.stderr.splitlines()
    assert first.endswith(r"WARNING flwr: it says \x1b[2J")
    assert second == "  2026-01-01 ERROR forged"
