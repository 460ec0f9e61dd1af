"""What most commands of `moma-server` do; each yields the lines that it prints.

Imports stand inside: a command loads what it needs, and `--help` loads nothing.
"""

import argparse
import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moma_core.errors import ConfigError
from moma_core.runtime.canonical_json import parsed_json
from moma_core.runtime.prompt import is_terminal

if TYPE_CHECKING:
    from moma_core.teacher.card.card import TeacherCard
    from moma_server.cli.init import ServerSetup
    from moma_server.config.server import ServerConfig

_TEACHER_FILES = ("recipe.yaml", "teacher")


def read_config(path: Path) -> "ServerConfig":
    """Returns the config in a file; raises as `ServerConfig.from_yaml`."""
    from moma_server.config.server import ServerConfig

    return ServerConfig.from_yaml(path)


def serve(arguments: argparse.Namespace) -> Iterator[str]:
    """Runs the roles of a config until it is stopped."""
    config = read_config(arguments.config)
    from moma_server.app import check_server, run_server

    if arguments.check:
        check_server(config)
        yield f"{arguments.config} is valid"
        return
    run_server(config)


def init(arguments: argparse.Namespace) -> Iterator[str]:
    """Makes a server's folder."""
    from pydantic import ValidationError

    from moma_core.config import faults
    from moma_server.cli.init import ServerSetup, init_server, prompted_setup

    values = _given_of(arguments, ServerSetup.model_fields)
    if not values and is_terminal():
        values = prompted_setup()
    try:
        setup = ServerSetup.model_validate(values)
    except ValidationError as error:
        raise ConfigError(next(faults(ServerSetup, values, error))) from None
    for path in init_server(arguments.folder, setup):
        yield f"wrote {path}"
    yield from _next_steps(arguments.folder / "server.yaml", setup)


def _next_steps(path: Path, setup: "ServerSetup") -> Iterator[str]:
    """Yields what is still to be done, in words for a shell."""
    config = shlex.quote(str(path))
    if "teacher" in setup.roles:
        from moma_server.membership.pinned_sites import teacher_key

        key = teacher_key(read_config(path))
        yield f"tell the sites the teacher's key, by a way of your own: {key}"
    if "coordinator" not in setup.roles:
        yield (
            "ask the coordinator for a token, then: "
            f"moma-server enrol --config {config} --token ..."
        )
    if "teacher" in setup.roles:
        recipe, out = (shlex.quote(str(path.with_name(n))) for n in _TEACHER_FILES)
        yield (
            f"write organ, task and data into {recipe}, then: "
            f"moma-server teacher train --recipe {recipe} --out {out}"
        )
        yield f"or, of a model you have: moma-server teacher import MODEL --out {out}"
    yield f"start it, and leave it running: moma-server --config {config}"
    if "coordinator" in setup.roles:
        yield (
            "a token for each member: "
            f"moma-server token create site-a --config {config}"
        )


def _given_of(arguments: argparse.Namespace, keys: Iterable[str]) -> dict[str, Any]:
    """Returns the values of a setup that the command line gives."""
    words = {**vars(arguments), "hosts": tuple(arguments.host or ())}
    if arguments.roles is not None:
        words["roles"] = tuple(arguments.roles.split(","))
    return {key: words[key] for key in keys if words[key] not in (None, ())}


def status(arguments: argparse.Namespace) -> Iterator[str]:
    """Shows the run of a coordinator and the budgets of a teacher."""
    from moma_server.cli.status import status_lines
    from moma_server.status import server_status

    found = server_status(read_config(arguments.config))
    if arguments.json:
        yield json.dumps(found)
    else:
        yield from status_lines(found)


def report(arguments: argparse.Namespace) -> Iterator[str]:
    """Writes what the coordinator knows of its run."""
    from moma_core.runtime.clock import utc_now
    from moma_server.reports.run_report import write_run_report

    config = read_config(arguments.config)
    for path in write_run_report(config, arguments.out, now=utc_now()):
        yield f"wrote {path}"


def teacher_train(arguments: argparse.Namespace) -> Iterator[str]:
    """Trains a teacher on labelled patches."""
    from moma_server.cli.training_progress import progress_callback
    from moma_server.config.recipe import TeacherRecipe
    from moma_server.teacher.build.train import train_teacher

    recipe = TeacherRecipe.from_yaml(arguments.recipe)
    with progress_callback() as callback:
        made = train_teacher(
            recipe, arguments.out, callback, logs_progress=not callback.shows_bar
        )
    if arguments.json:
        yield json.dumps({"digest": made.card.digest, "figures": made.as_json()})
        return
    yield f"teacher {made.card.name}: {arguments.out / 'weights.safetensors'}"
    for name in ("accuracy", "macro_f1"):
        figure = made.evaluations["validation"].figures[name]
        yield f"  validation_{name} {figure}"


def teacher_key(arguments: argparse.Namespace) -> Iterator[str]:
    """Prints the fingerprint that sites pin."""
    from moma_server.membership.pinned_sites import teacher_key

    yield str(teacher_key(read_config(arguments.config)))


def teacher_card(arguments: argparse.Namespace) -> Iterator[str]:
    """Shows a teacher's card, or makes one for weights that exist."""
    from moma_core.teacher.card.card import TeacherCard

    if arguments.recipe is not None:
        from moma_server.config.recipe import TeacherRecipe
        from moma_server.teacher.build.from_weights import teacher_from_weights

        recipe = TeacherRecipe.from_yaml(arguments.recipe)
        card = teacher_from_weights(recipe, arguments.weights, arguments.out)
    else:
        config = read_config(arguments.config)
        card = TeacherCard.load(config.own_teacher().card)
    if arguments.json:
        yield json.dumps(parsed_json(card.to_json()))
    else:
        yield from card_lines(card)


def card_lines(card: "TeacherCard") -> Iterator[str]:
    """Yields a teacher's card as a person reads it: a line a field, then the terms."""
    from moma_core.teacher.card.licence import terms_lines

    audit = card.membership_advantage
    granted = card.default_grant_patches
    rows = {
        "teacher": card.name,
        "weights": card.digest,
        "architecture": card.architecture,
        "embedding": f"{card.embedding_length} values, pooling {_said(card.pooling)}",
        "organ": card.organ,
        "task": card.task,
        "stain": _said(card.stain),
        "classes": ", ".join(card.class_names) or "none: embeddings alone",
        "patches": f"{card.input_size_px} px, microns a pixel: {_said(card.mpp)}",
        "views": _said(card.views),
        "mean, std": f"{list(card.mean)}, {list(card.std)}",
        "precision": card.precision,
        "outputs": ", ".join(card.outputs),
        "budget": f"patches a site by default: {_said(granted)}",
        "budget terms": _said(card.budget_terms),
        "momentum": "on, close to handing out the weights"
        if card.momentum_sessions
        else "off",
        "membership": "not measured"
        if audit is None
        else f"advantage {audit:g} (0 guesses, 1 is always right)",
        "reference patch": _reference_patch(card),
    }
    for name, text in rows.items():
        yield f"{name:15} {text}"
    if card.licence is None:
        yield f"{'licence':15} not said"
    else:
        yield from terms_lines(card.name, card.licence)


def _reference_patch(card: "TeacherCard") -> str:
    if card.golden is None:
        return "none"
    kind = "a picture" if card.golden.png else f"synthetic, seed {card.golden.seed}"
    return f"{kind}, tolerance {card.golden.tolerance:g}"


def _said(value: object) -> str:
    return "not said" if value in ("", None) else str(value)


def teacher_export(arguments: argparse.Namespace) -> Iterator[str]:
    """Writes a teacher's weights and card for a partner who may hold them."""
    from moma_server.teacher.build.export import export_teacher

    teacher = read_config(arguments.config).own_teacher()
    keep = not arguments.without_classifier
    for path in export_teacher(teacher, arguments.out, with_classifier=keep):
        yield f"wrote {path}"


def demo(arguments: argparse.Namespace) -> Iterator[str]:
    """Runs a whole federation on this machine."""
    from moma_server.demo.run import run_demo

    yield from run_demo(arguments.data, arguments.out, as_json=arguments.json)
