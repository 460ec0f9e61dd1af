"""What the node's process writes into its log of what a coordinator said."""

import subprocess
import sys

_SAYS = """
import logging
from moma_client.federation.process import _start_logging
_start_logging()
logging.getLogger("flwr").warning("it says %s", "\\x1b[2J\\n2026-01-01 ERROR forged")
"""

_IS_TOLD_TO_END_AS_IT_ENDS = """
import os, signal, sys, threading
from types import SimpleNamespace
from moma_client.federation import process

def tell():
    threading.main_thread().join()  # the interpreter waits for this thread now
    os.kill(os.getpid(), signal.SIGTERM)

def serve(_settings):
    threading.Thread(target=tell).start()
    return 3

process.NodeSettings.from_json = lambda _text: SimpleNamespace(stop_seconds=60.0)
process._serve = serve
sys.exit(process.main(["{}"]))
"""


def test_a_process_that_is_told_to_end_while_it_ends_says_no_more() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _IS_TOLD_TO_END_AS_IT_ENDS],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:  # its parent is there: its input stays open
        assert process.stderr is not None
        said = process.stderr.read()

    assert (process.returncode, said) == (3, "")


def test_a_coordinators_words_are_no_command_and_no_line_of_their_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SAYS], capture_output=True, text=True, check=True
    )

    first, second = done.stderr.splitlines()
    assert first.endswith(r"WARNING flwr: it says \x1b[2J")
    assert second == "  2026-01-01 ERROR forged"
