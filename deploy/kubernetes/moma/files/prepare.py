"""Lays a member's folder from what the pod is given, before the program starts.

Keys, config and what belongs to the metrics page go to a file system in memory, for
their owner alone: a Secret's files can be read by a group, which the programs refuse.
Certificates go to the disk, and only where there is none: the programs renew them.
"""

import os
import shutil
import sys
from pathlib import Path

import yaml

from moma_core.pki import revocations


def prepare(given: Path, member: Path, state: Path) -> None:
    """Fills `member` and `state` from `given`'s config, secret, metrics, database."""
    os.umask(0o077)
    for config in (given / "config").glob("*.yaml"):
        values = yaml.safe_load(config.read_text("utf-8"))
        url = given / "database" / "url"
        if url.exists():
            values["teacher"]["database"] = url.read_text("utf-8").strip()
        (member / config.name).write_text(yaml.safe_dump(values), "utf-8")
    for file in (given / "secret").glob("*.*"):
        if file.suffix != ".pem":
            shutil.copyfile(file, member / file.name)
        elif not (state / file.name).exists():
            shutil.copyfile(file, state / file.name)
    for file in (given / "metrics").glob("*.*"):
        shutil.copyfile(file, member / file.name)
    revocations.start(state / "revoked.json")


if __name__ == "__main__":
    prepare(*map(Path, sys.argv[1:] or ("/given", "/etc/moma", "/var/lib/moma")))
