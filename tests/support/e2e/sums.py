"""What each party says of a site's queries, by its own commands and its own files."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from moma_client.audit.receipts import read_receipts
from moma_core.audit.entry import QueryEntry, decode
from moma_core.audit.verify import lines_of
from moma_server.membership.pinned_sites import teacher_key
from moma_server.state import open_ledger
from tests.support.e2e.programs import ended
from tests.support.e2e.world import World, as_json

_COMMAND_SECONDS = 300.0


class Sum(NamedTuple):
    """What is said of one site.

    Args:
        queries: That have an entry, however they ended.
        patches: Asked about.
        charged: Patches.
    """

    queries: int
    patches: int
    charged: int


def sums(entries: Iterable[QueryEntry]) -> dict[str, Sum]:
    """Adds entries up, by site."""
    found: dict[str, Sum] = {}
    for each in entries:
        queries, patches, charged = found.get(each.site, Sum(0, 0, 0))
        found[each.site] = Sum(
            queries + each.queries, patches + each.patches, charged + each.charged
        )
    return found


@dataclass(frozen=True, slots=True)
class TeachersWord:
    """The teacher's log and budget.

    Args:
        entries: Of queries, from the export.
        verified: What `audit verify` says of the export.
        budgets: What `status` says of the budget.
    """

    entries: list[QueryEntry]
    verified: dict[str, Any]
    budgets: dict[str, Any]

    @classmethod
    def of(cls, world: World) -> "TeachersWord":
        config = world.folder / "teacher" / "server.yaml"
        path, key = world.folder / "log.jsonl", str(teacher_key(world.teacher_config()))
        said("moma-server", "audit", "export", "--config", config, "--out", path)
        verified = said("moma-server", "audit", "verify", path, "--key", key, "--json")
        status = said("moma-server", "status", "--config", config, "--json")
        return cls(_logged(path), as_json(verified), as_json(status)["budgets"])


@dataclass(frozen=True, slots=True)
class SitesWord:
    """A site's receipts.

    Args:
        entries: Of queries, one for each receipt of its export.
        verified: What `audit verify` says of the file.
        reconciled: What the teacher's `audit reconcile` says of the export.
    """

    entries: list[QueryEntry]
    verified: dict[str, Any]
    reconciled: dict[str, Any]

    @classmethod
    def of(cls, world: World, site: str) -> "SitesWord":
        config, path = _site_file(world, site), world.folder / f"{site}.jsonl"
        verified = said("moma-client", "audit", "verify", "--site", config, "--json")
        said("moma-client", "audit", "export", "--site", config, "--out", path)
        line = ("--config", world.folder / "teacher" / "server.yaml")
        reconciled = said(
            *("moma-server", "audit", "reconcile", *line), "--receipts", path, "--json"
        )
        return cls(_kept(path), as_json(verified), as_json(reconciled))


def reserved(world: World) -> int:
    """Returns how many queries are charged and have no entry yet."""
    config = world.teacher_config()
    assert config.teacher is not None
    with open_ledger(config, config.teacher) as ledger:
        rules = ledger.budget.rules
        return ledger.read(
            lambda database: sum(
                rules.reserved(database, site).queries for site in world.names
            )
        )


def assert_all_agree(teacher: TeachersWord, sites: Mapping[str, SitesWord]) -> None:
    """Holds log, budget, receipts and both parties' own commands against each other."""
    log = sums(teacher.entries)
    for site, word in sites.items():
        kept, said = sums(word.entries)[site], teacher.verified["sites"][site]
        outcomes = Counter(
            entry.outcome for entry in teacher.entries if entry.site == site
        )
        assert kept == log[site]
        assert word.verified["receipts"] == len(word.entries)
        assert word.verified["patches_charged"] == log[site].charged
        assert said["queries"] == outcomes
        assert said["charged_patches"] == log[site].charged
        budget = teacher.budgets[site]["charged_patches"]
        assert budget == log[site].charged
        assert word.reconciled["receipts"] == len(word.entries)
        assert word.reconciled["first"] == ""
        assert word.reconciled["mismatches"] == word.reconciled["reserved"] == 0
    assert set(log) == set(sites)


def charged_once(teacher: TeachersWord) -> set[tuple[str, str]]:
    """Returns who asked which answered query; fails where one was charged twice."""
    patches: dict[tuple[str, str], int] = {}
    charged = Counter[tuple[str, str]]()
    answered = set()
    for entry in teacher.entries:
        name = (entry.site, entry.request)
        patches[name] = entry.patches
        charged[name] += entry.charged
        if entry.outcome == "answered":
            answered.add(name)
    assert charged == patches
    return answered


def fetch(world: World, site: str) -> int:
    """Has a site fetch the receipts that it lacks; returns how many they were."""
    done = said("moma-client", "audit", "fetch", "--site", _site_file(world, site))
    return int(done.rpartition(": ")[2].split()[0])


def said(program: str, *arguments: str | Path) -> str:
    """Returns what a program says; it must end well."""
    done = ended(program, *arguments, seconds=_COMMAND_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _site_file(world: World, site: str) -> Path:
    return world.folder / site / "config.yaml"


def _kept(path: Path) -> list[QueryEntry]:
    placed = (decode(receipt.leaf).entry for receipt in read_receipts(path))
    return [entry for entry in placed if isinstance(entry, QueryEntry)]


def _logged(path: Path) -> list[QueryEntry]:
    with path.open("rb") as file:
        lines = [line for line in lines_of(file) if line.startswith(b'{"entry":')]
    placed = (decode(line).entry for line in lines)
    return [entry for entry in placed if isinstance(entry, QueryEntry)]
