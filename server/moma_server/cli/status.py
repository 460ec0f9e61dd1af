"""The state of a server and its members, as a person reads it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from moma_server.config.server import ServerConfig
from moma_server.membership.members import members
from moma_server.status import Row, budgets


def status_lines(status: Row) -> Iterator[str]:
    """Yields what `server_status` returns, for a person."""
    yield f"federation {status['federation']}"
    run = status.get("run")
    if "run" in status and run is None:
        yield "run: never started"
    if run is not None:
        state = run["outcome"] or "running"
        yield f"run: {run['completed']} of {run['rounds']} rounds, {state}"
        if run["waiting"] is not None:
            yield f"waiting: {run['waiting']}"
        yield f"sites online: {', '.join(run['online']) or 'none'}"
        away = sorted(set(run["registered"]) - set(run["online"]))
        if away and run["outcome"] != "finished":  # after its last round they leave
            yield f"sites not connected: {', '.join(away)}"
        for record in run["history"]:
            took_part = ", ".join(record["took_part"]) or "nobody"
            yield (
                f"  {record['kind']} {record['round']}: {record['outcome']}, "
                f"took part: {took_part}"
            )
        yield from _figure_lines(run["history"])
    if "relay_links" in status:
        linked = [f"{name} ({n})" for name, n in status["relay_links"].items()]
        yield f"teachers linked to the relay: {', '.join(linked) or 'none'}"
    for site, budget in status.get("budgets", {}).items():
        yield (
            f"budget of {site}: {budget['charged_patches']} of "
            f"{budget['granted_patches']} patches asked"
        )
    yield from _audit_lines(status.get("audit"))


def _audit_lines(audit: Row | None) -> Iterator[str]:
    if audit is None:
        return
    yield f"log {audit['log']}: {audit['entries']} entries, root {audit['root']}"
    checked = audit["verification"]
    if checked is None:
        yield "  never verified here: `moma-server audit verify --config`"
    else:
        yield f"  {checked['outcome']} on {checked['at']}: {checked['sentence']}"


def _figure_lines(history: Sequence[Row]) -> Iterator[str]:
    """Yields the newest figures of each site, as it disclosed them."""
    newest: dict[str, tuple[Row, Row]] = {}
    for record in history:
        for site, entry in record["sites"].items():
            if entry["metrics"]:
                newest[site] = (record, entry["metrics"])
    for site, (record, figures) in sorted(newest.items()):
        shown = ", ".join(f"{name} {value:g}" for name, value in figures.items())
        yield f"  {site} in {record['kind']} {record['round']}: {shown}"
    if newest:
        yield (
            "  as each site disclosed them, rounded; their n and 95 % intervals stay "
            "at the site, where `moma-client evaluate` shows them"
        )


def member_rows(config: ServerConfig) -> list[Row]:
    """Returns the members that a coordinator admitted, and budgets if it teaches."""
    known = budgets(config)
    return [
        {
            **asdict(member),
            "expires": member.expires.isoformat(),
            **(known.get(member.name, {}) if member.kind == "site" else {}),
        }
        for member in members(config)
    ]


def member_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yields what `member_rows` returns, for a person."""
    if not rows:
        yield "no members yet; `moma-server token create` invites one"
    for row in rows:
        patches = ""
        if "granted_patches" in row:
            patches = f", {row['charged_patches']} of {row['granted_patches']} patches"
        yield (
            f"{row['kind']} {row['name']}: {row['state']}, "
            f"until {row['expires'][:10]}{patches}"
        )
