"""`moma-client audit`: what the site holds in its hands about its queries."""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moma_client.cli.options import add_command, add_teacher, config_of
from moma_client.config.site import SiteConfig
from moma_client.config.teacher import RemoteTeacherSection
from moma_core.audit.checkpoint import Checkpoint
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import ConfigError
from moma_core.runtime.cli import Command, Subparsers, add_path, counted

if TYPE_CHECKING:
    from moma_client.identity.pinned_teacher import PinnedTeacher


def add_audit(
    commands: Subparsers,
    site: argparse.ArgumentParser,
    as_json: argparse.ArgumentParser,
) -> None:
    """Adds the command and its actions."""
    audit = commands.add_parser(
        "audit", help="check the receipts of this site's queries, and the teacher's log"
    )
    actions = audit.add_subparsers(title="actions", metavar="ACTION", required=True)

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        options = [site, as_json] if name == "verify" else [site]
        action = add_command(actions, name, command, text, *options)
        add_teacher(action)
        return action

    add("verify", _verify, "check each receipt, offline")
    add("fetch", _fetch, "get the receipts that a crash kept from the file")
    export = add(
        "export", _export, "copy the receipts, for moma-server audit reconcile"
    )
    add_path(export, "--out", "file to write", required=True)
    text = "print the newest signed state of the teacher's log"
    add("checkpoint", _checkpoint, text)
    compare = add("compare", _compare, "check that others were shown the same log")
    text = "what audit checkpoint printed at another site; repeatable"
    theirs = "THEIRS.JSON"
    add_path(
        compare, "--checkpoint", text, action="append", required=True, metavar=theirs
    )


def _section(config: SiteConfig) -> RemoteTeacherSection:
    if not config.teacher.is_remote:
        raise ConfigError("a teacher on this disk gives no receipts")
    return config.teacher


def _receipts(config: SiteConfig) -> Path:
    from moma_client.audit.receipts import receipts_path

    return receipts_path(config.state_dir, _section(config).name)


def _path(config: SiteConfig) -> Path:
    path = _receipts(config)
    if not path.exists():
        raise ConfigError(
            f"there are no receipts yet: {path}; a run, or `audit fetch`, writes them"
        )
    return path


def _verify(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.audit.receipts import verify_receipts

    config = config_of(arguments)
    section = _section(config)
    keys = [VerifyingKey.parse(key) for key in (section.key, *section.former_keys)]
    path = _receipts(config)
    if not path.exists():
        yield from _nothing_yet(section, as_json=arguments.json)
        return
    found = verify_receipts(path, keys)
    newest = found.newest
    if arguments.json:
        values = {"receipts": found.receipts, "patches_charged": found.patches}
        size = 0 if newest is None else newest.size
        yield json.dumps(values | {"teacher": section.name, "log_size": size})
        return
    yield (
        f"verified: {counted(found.receipts, 'receipt', 'receipts')} of "
        f"{section.name}, {counted(found.patches, 'patch', 'patches')} charged"
    )
    if newest is not None:
        size_text = counted(newest.size, "entry", "entries")
        yield f"  newest state of its log: {newest.root} at {size_text}"


def _nothing_yet(section: RemoteTeacherSection, *, as_json: bool) -> Iterator[str]:
    """Yields what there is to verify before the first query."""
    if as_json:
        nothing = {"receipts": 0, "patches_charged": 0, "log_size": 0}
        yield json.dumps(nothing | {"teacher": section.name})
    else:
        yield f"there are no receipts of {section.name} yet: a run writes them"


def _fetch(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.identity.revocations import look_once
    from moma_client.teacher.connect import open_teacher

    config = config_of(arguments)
    _section(config)
    look_once(config)
    with open_teacher(config) as teacher:
        found = counted(teacher.fetch_receipts(), "receipt", "receipts")
        yield f"missing until now, and kept from here on: {found}"


def _export(arguments: argparse.Namespace) -> Iterator[str]:
    source = _path(config_of(arguments))
    try:
        shutil.copyfile(source, arguments.out)
    except OSError as error:
        raise ConfigError(f"cannot write {arguments.out}: {error}") from None
    yield f"wrote {arguments.out}"


def _checkpoint(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.audit.log_monitor import newest_seen

    path = _path(config_of(arguments))
    newest = newest_seen(path)
    if newest is None:
        raise ConfigError(f"there are no receipts yet: {path}")
    yield newest.to_json()


def _compare(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.identity.revocations import look_once
    from moma_client.teacher.connect import open_teacher, remote_settings

    config = config_of(arguments)
    _section(config)
    pinned = remote_settings(config).end_to_end
    look_once(config)
    theirs = [_theirs(path, pinned) for path in arguments.checkpoint]
    with open_teacher(config) as teacher:
        teacher.compare_log(theirs)
    for each in theirs:
        size = counted(each.size, "entry", "entries")
        yield f"one log: {each.origin} at {size}, and what this site saw"


def _theirs(path: Path, pinned: "PinnedTeacher") -> Checkpoint:
    try:
        theirs = Checkpoint.parse(path.read_bytes().strip())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if theirs.keeper != f"{pinned.federation}/{pinned.teacher}":
        raise ConfigError(
            f"{path} is of the log {theirs.origin}, not of {pinned.teacher} in "
            f"{pinned.federation}"
        )
    theirs.check(pinned.teacher_key)
    return theirs
