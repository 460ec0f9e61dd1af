"""Fills a site's cache in children of its own, one for each line on its input.

It imports once and forks: a child asks the teacher a moment after it was asked for.
"""

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import torch

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.metrics import silent_metrics
from moma_client.site.prefetch import CachePrefetch
from tests.support.site.cached_site import CARD, ROUND, WHOLE


def _fill(config: SiteConfig) -> None:
    context = RunContext(config, threading.Event(), silent_metrics())
    filling = CachePrefetch(context, CARD, verify=lambda: None)
    folder = config.state_dir / "runs" / ROUND.run
    filling.prepare(replace(WHOLE, run=ROUND.run), folder)


def main() -> None:
    torch.set_num_threads(1)
    config = SiteConfig.from_yaml(Path(sys.argv[1]))
    _say(0)  # ready
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            _fill(config)
            os._exit(0)
        _say(child)
        _say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
