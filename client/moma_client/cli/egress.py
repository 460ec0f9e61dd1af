"""`moma-client egress`: what leaves this site, what left it, what was suppressed."""

import argparse
import json
from collections.abc import Iterator

from moma_client.cli.options import add_command, add_teacher, config_of
from moma_client.config.site import SiteConfig
from moma_core.runtime.cli import Subparsers, add_switch

_SAMPLE = 64


def add_egress(commands: Subparsers, *options: argparse.ArgumentParser) -> None:
    """Adds the command to the program's."""
    text = "show what leaves this site, and what left it"
    parser = add_command(commands, "egress", _egress, text, *options)
    what = parser.add_mutually_exclusive_group(required=True)
    add_switch(what, "--preview", "what a run would send; nothing is sent")
    add_switch(what, "--log", "what left this site and what was suppressed")
    text = "what a lossy teacher.encoding does to embeddings; charges the budget"
    add_switch(what, "--encoding-report", text)
    text = "let the next figures be of other patients than the last ones"
    add_switch(what, "--forget-cohorts", text)
    parser.add_argument(
        "--patches",
        type=int,
        default=_SAMPLE,
        help=f"patches in the sample of --encoding-report; {_SAMPLE} by default",
    )
    add_teacher(parser)


def _egress(arguments: argparse.Namespace) -> Iterator[str]:
    config = SiteConfig.from_yaml(arguments.site)
    if arguments.preview:
        yield from _preview(config, arguments.json)
    elif arguments.log:
        yield from _log(config, arguments.json)
    elif arguments.encoding_report:
        count = max(1, arguments.patches)
        yield from _report(config_of(arguments), count, arguments.json)
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
        yield "nothing left this site yet, and nothing was suppressed"


def _report(config: SiteConfig, patches: int, as_json: bool) -> Iterator[str]:
    from dataclasses import asdict

    from moma_client.reports.encoding_loss import charged_patches, encoding_report

    charged = charged_patches(config, patches)
    if not as_json:
        yield f"querying the teacher: at most {charged} patches are charged"
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
        yield "no figure left this site yet"
