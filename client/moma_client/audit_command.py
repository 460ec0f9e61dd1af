"""`moma-client audit`: what the site holds in its hands about its queries."""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moma_client.config import RemoteTeacherSection, SiteConfig
from moma_core.errors import ConfigError
from moma_core.trust.signing import VerifyingKey

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_audit(commands: "Subparsers") -> None:
    """Adds the command and its actions."""
    audit = commands.add_parser("audit", help="the receipts of this site's queries")
    actions = audit.add_subparsers(title="actions", metavar="ACTION", required=True)
    verify = actions.add_parser("verify", help="check each, offline")
    verify.add_argument("--site", type=Path, required=True, metavar="CONFIG.YAML")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(command=_verify)
    fetch = actions.add_parser("fetch", help="those that a crash kept from the file")
    fetch.add_argument("--site", type=Path, required=True, metavar="CONFIG.YAML")
    fetch.set_defaults(command=_fetch)
    export = actions.add_parser("export", help="for `moma-server audit reconcile`")
    export.add_argument("--site", type=Path, required=True, metavar="CONFIG.YAML")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.set_defaults(command=_export)


def receipts_path(state_dir: Path, teacher: str) -> Path:
    """Returns where a teacher's receipts are kept."""
    return state_dir / "receipts" / f"{teacher}.jsonl"


def _section(config: SiteConfig) -> RemoteTeacherSection:
    if not isinstance(config.teacher, RemoteTeacherSection):
        raise ConfigError("a local teacher is asked nothing: there are no receipts")
    return config.teacher


def _path(config: SiteConfig) -> Path:
    path = receipts_path(config.state_dir, _section(config).name)
    if not path.exists():
        raise ConfigError(f"there are no receipts yet: {path}")
    return path


def _verify(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_client.receipts import verify_receipts

    config = SiteConfig.from_yaml(arguments.site)
    section = _section(config)
    found = verify_receipts(_path(config), VerifyingKey.parse(section.key))
    newest = found.newest
    if arguments.json:
        values = {"receipts": found.receipts, "patches_charged": found.patches}
        size = 0 if newest is None else newest.size
        yield json.dumps(values | {"teacher": section.name, "log_size": size})
        return
    yield (
        f"verified: {found.receipts} receipts of {section.name}, "
        f"{found.patches} patches charged"
    )
    if newest is not None:
        yield f"  newest state of its log: {newest.root} at {newest.size} entries"


def _fetch(arguments: argparse.Namespace) -> Iterator[str]:
    import threading
    from contextlib import closing

    from moma_client.connecting import connect, remote_settings
    from moma_client.metrics import silent_metrics

    config = SiteConfig.from_yaml(arguments.site)
    settings = remote_settings(config, _section(config))
    teacher = connect(settings, b"", threading.Event(), silent_metrics())
    with closing(teacher):
        yield f"{teacher.fetch_receipts()} receipts were missing, and are kept now"


def _export(arguments: argparse.Namespace) -> Iterator[str]:
    source = _path(SiteConfig.from_yaml(arguments.site))
    try:
        shutil.copyfile(source, arguments.out)
    except OSError as error:
        raise ConfigError(f"cannot write {arguments.out}: {error}") from None
    yield f"wrote {arguments.out}"
