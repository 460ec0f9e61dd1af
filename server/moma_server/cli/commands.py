"""What each command of `moma-server` does; each yields the lines that it prints.

Imports stand inside: a command loads what it needs, and `--help` loads nothing.
"""

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from moma_core.errors import ConfigError
from moma_core.pki.names import PeerKind, PeerName
from moma_server.config.recipe import TeacherRecipe
from moma_server.config.server import ServerConfig


def serve(arguments: argparse.Namespace) -> Iterator[str]:
    """Runs the roles of a config until it is stopped."""
    config = ServerConfig.from_yaml(arguments.config)
    if arguments.check:
        yield f"{arguments.config} is valid"
        return
    from moma_server.app import run_server

    run_server(config)


def init(arguments: argparse.Namespace) -> Iterator[str]:
    """Makes a server's folder."""
    from moma_server.cli.init import ServerSetup, init_server

    values: dict[str, Any] = {
        "roles": tuple(arguments.roles.split(",")),
        "federation": arguments.federation,
        "name": arguments.name,
    }
    if arguments.host:
        values["hosts"] = tuple(arguments.host)
    for name in ("enrolment", "passphrase_file", "rounds", "quorum"):
        if (given := getattr(arguments, name)) is not None:
            values[name] = given
    try:
        place = ServerSetup.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{where}: {fault['msg']}") from None
    for path in init_server(arguments.folder, place):
        yield f"wrote {path}"
    if "teacher" in place.roles:
        from moma_server.membership.pinned_sites import teacher_key

        key = teacher_key(ServerConfig.from_yaml(arguments.folder / "server.yaml"))
        yield f"tell the sites the teacher's key, by a way of your own: {key}"
    if "coordinator" not in place.roles:
        yield (
            "ask the coordinator for a token, then: "
            f"moma-server enrol --config {arguments.folder / 'server.yaml'} --token ..."
        )


def admit(arguments: argparse.Namespace) -> Iterator[str]:
    """Signs a member's request."""
    from moma_server.membership.members import admit_member

    config = ServerConfig.from_yaml(arguments.config)
    peer = PeerName(config.federation, *_who(arguments))
    try:
        request = arguments.csr.read_bytes()
        node_key = arguments.node_key.read_bytes() if arguments.node_key else None
    except OSError as error:
        raise ConfigError(f"cannot read the request: {error}") from None
    certificate = admit_member(
        config,
        peer,
        request=request,
        node_key=node_key,
        hosts=tuple(arguments.host or ()),
    )
    arguments.out.write_bytes(certificate)
    yield f"admitted {peer.kind} {peer.name}: {arguments.out}"


def _who(arguments: argparse.Namespace) -> tuple[PeerKind, str]:
    if arguments.coordinator:
        return "coordinator", "coordinator"
    if arguments.teacher:
        return "teacher", arguments.teacher
    return "site", arguments.site


def revoke(arguments: argparse.Namespace) -> Iterator[str]:
    """Takes a member's certificates back."""
    from moma_server.enrolment.service import enrolment_journal
    from moma_server.membership.members import revoke_member

    config = ServerConfig.from_yaml(arguments.config)
    peer = PeerName(config.federation, arguments.kind, arguments.name)
    count = revoke_member(config, peer)
    enrolment_journal(config, lambda: datetime.now(UTC)).note(
        "revoked", kind=peer.kind, name=peer.name
    )
    yield f"revoked {count} certificate(s) of {arguments.kind} {arguments.name}"


def site_approve(arguments: argparse.Namespace) -> Iterator[str]:
    """Serves a site for its own key."""
    from moma_server.membership.pinned_sites import approve_site

    config = ServerConfig.from_yaml(arguments.config)
    approve_site(config, arguments.name, arguments.key)
    yield f"approved {arguments.name} with {arguments.key}"


def site_forget(arguments: argparse.Namespace) -> Iterator[str]:
    """Serves a site no longer."""
    from moma_server.membership.pinned_sites import forget_site

    forget_site(ServerConfig.from_yaml(arguments.config), arguments.name)
    yield f"{arguments.name} is served no longer"


def site_list(arguments: argparse.Namespace) -> Iterator[str]:
    """Shows whom the teacher serves."""
    from moma_server.membership.pinned_sites import approval_lines, approval_rows

    rows = approval_rows(ServerConfig.from_yaml(arguments.config))
    if arguments.json:
        yield json.dumps(rows)
    else:
        yield from approval_lines(rows)


def teacher_key(arguments: argparse.Namespace) -> Iterator[str]:
    """Prints what sites pin."""
    from moma_server.membership.pinned_sites import teacher_key

    yield str(teacher_key(ServerConfig.from_yaml(arguments.config)))


def sites(arguments: argparse.Namespace) -> Iterator[str]:
    """Lists the members."""
    from moma_server.cli.status import member_lines, member_rows

    rows = member_rows(ServerConfig.from_yaml(arguments.config))
    if arguments.json:
        yield json.dumps(rows)
    else:
        yield from member_lines(rows)


def status(arguments: argparse.Namespace) -> Iterator[str]:
    """Shows how the run and the budgets stand."""
    from moma_server.cli.status import server_status, status_lines

    found = server_status(ServerConfig.from_yaml(arguments.config))
    if arguments.json:
        yield json.dumps(found)
    else:
        yield from status_lines(found)


def teacher_train(arguments: argparse.Namespace) -> Iterator[str]:
    """Makes a teacher from a labelled set."""
    from moma_server.cli.training_progress import progress_callback
    from moma_server.teacher.build.train import train_teacher

    recipe = TeacherRecipe.from_yaml(arguments.recipe)
    with progress_callback() as watch:
        made = train_teacher(recipe, arguments.out, watch)
    if arguments.json:
        yield json.dumps({"digest": made.card.digest, "figures": made.figures})
        return
    yield f"teacher {made.card.name}: {arguments.out / 'weights.safetensors'}"
    for name in ("validation_accuracy", "validation_macro_f1"):
        if name in made.figures:
            yield f"  {name} {made.figures[name]:.3f}"


def teacher_card(arguments: argparse.Namespace) -> Iterator[str]:
    """Shows a teacher's card, or makes one for weights that are there."""
    from moma_core.teacher.card.card import TeacherCard
    from moma_server.cli.card_text import card_lines

    if arguments.recipe is not None:
        from moma_server.teacher.build.from_weights import teacher_from_weights

        recipe = TeacherRecipe.from_yaml(arguments.recipe)
        card = teacher_from_weights(recipe, arguments.weights, arguments.out)
    else:
        config = ServerConfig.from_yaml(arguments.config)
        card = TeacherCard.load(config.own_teacher().card)
    if arguments.json:
        yield json.dumps(json.loads(card.to_json()))
    else:
        yield from card_lines(card)


def teacher_export(arguments: argparse.Namespace) -> Iterator[str]:
    """Writes a teacher's weights and card for a partner who may hold them."""
    from moma_server.teacher.build.export import export_teacher

    teacher = ServerConfig.from_yaml(arguments.config).own_teacher()
    keep = not arguments.without_classifier
    for path in export_teacher(teacher, arguments.out, with_classifier=keep):
        yield f"wrote {path}"


def demo(arguments: argparse.Namespace) -> Iterator[str]:
    """Runs a whole federation on this machine."""
    from moma_server.demo.run import run_demo

    yield from run_demo(arguments.data, arguments.out, as_json=arguments.json)
