"""`moma-client egress`: what leaves this site, what left it, what was kept in."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moma_client.config.site import SiteConfig

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_SAMPLE = 64


def add_command(commands: "Commands") -> None:
    """Adds the command to the program's."""
    parser = commands.add_parser("egress", help="what leaves this site, and what left")
    parser.add_argument("--site", type=Path, required=True, metavar="CONFIG.YAML")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--preview", action="store_true", help="what a run would send; nothing is sent"
    )
    what.add_argument("--log", action="store_true", help="what left and what was kept")
    what.add_argument(
        "--encoding-report",
        action="store_true",
        help="what a lossy teacher.encoding does to embeddings; charges the budget",
    )
    what.add_argument(
        "--forget-cohorts",
        action="store_true",
        help="let figures be told of other patients than before",
    )
    parser.add_argument(
        "--patches", type=int, default=_SAMPLE, help="of the report's sample"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=_egress)


def _egress(arguments: argparse.Namespace) -> Iterator[str]:
    config = SiteConfig.from_yaml(arguments.site)
    if arguments.preview:
        yield from _preview(config, arguments.json)
    elif arguments.log:
        yield from _log(config, arguments.json)
    elif arguments.encoding_report:
        yield from _report(config, max(1, arguments.patches), arguments.json)
    else:
        yield from _forget(config)


def _preview(config: SiteConfig, as_json: bool) -> Iterator[str]:
    from moma_client.reports.egress_preview import preview, preview_lines

    found = preview(config)
    if as_json:
        yield json.dumps(found.as_json())
    else:
        yield from preview_lines(found)


def _log(config: SiteConfig, as_json: bool) -> Iterator[str]:
    from moma_client.egress.log import entry_line, log_entries, log_path

    is_empty = True
    for entry in log_entries(log_path(config.state_dir)):
        is_empty = False
        yield json.dumps(entry) if as_json else entry_line(entry)
    if is_empty and not as_json:
        yield "nothing left this site yet, and nothing was kept in"


def _report(config: SiteConfig, patches: int, as_json: bool) -> Iterator[str]:
    from dataclasses import asdict

    from moma_client.reports.encoding_loss import charged_patches, encoding_report

    charged = charged_patches(config, patches)
    if not as_json:
        yield f"asking the teacher: at most {charged} patches are charged"
    report = encoding_report(config, patches)
    if as_json:
        yield json.dumps({**asdict(report), "charged_at_most": charged})
    else:
        yield from report.lines()


def _forget(config: SiteConfig) -> Iterator[str]:
    from moma_client.egress.disclosed import DisclosureFile, disclosure_path

    splits = DisclosureFile(disclosure_path(config.state_dir)).forget_cohorts()
    for split in splits:
        yield f"the next figures on {split} may tell of other patients than the last"
    if not splits:
        yield "no figure was told yet"
