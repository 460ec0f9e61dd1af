"""The commands that make a teacher of a model that others made.

Imports stand inside: a command loads what it needs, and `--help` loads nothing.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moma_core.errors import ConfigError

if TYPE_CHECKING:
    from moma_server.teacher.build.from_model import ImportedTeacher

RECIPE = "import.yaml"


def teacher_import(arguments: argparse.Namespace) -> Iterator[str]:
    """Looks at a model and writes a recipe, or makes a teacher by a recipe."""
    from moma_server.config.import_recipe import ImportRecipe
    from moma_server.teacher.build.from_model import teacher_from_model
    from moma_server.teacher.inference.load import device_of

    device = device_of(arguments.accelerator)
    if arguments.recipe is None:
        yield from _inspect(arguments)
        return
    recipe = ImportRecipe.from_yaml(arguments.recipe)
    yield from _made(teacher_from_model(recipe, arguments.out, device))


def teacher_fit_head(arguments: argparse.Namespace) -> Iterator[str]:
    """Fits a probe on labelled patches, so that an imported teacher knows classes."""
    from moma_server.config.import_recipe import ImportRecipe
    from moma_server.teacher.build.from_model import fit_head
    from moma_server.teacher.inference.load import device_of

    recipe = ImportRecipe.from_yaml(arguments.recipe)
    device = device_of(arguments.accelerator)
    yield from _made(fit_head(recipe, arguments.out, device, hidden=arguments.hidden))


def _inspect(arguments: argparse.Namespace) -> Iterator[str]:
    from moma_core.runtime.files import make_folder
    from moma_server.config.server import write_yaml
    from moma_server.teacher.build.inspection import ImportSetup, inspect_model
    from moma_server.teacher.inference.load import device_of

    path: Path = arguments.out / RECIPE
    if path.exists():
        raise ConfigError(f"{path} exists: correct it, and name it with --recipe")
    classes = arguments.classes.split(",") if arguments.classes else []
    setup = ImportSetup(
        model=arguments.model,
        name=arguments.name,
        organ=arguments.organ,
        task=arguments.task,
        preset=arguments.preset,
        architecture=arguments.architecture or "",
        class_names=tuple(each.strip() for each in classes),
        side_px=arguments.input_size_px,
    )
    found = inspect_model(setup, device_of(arguments.accelerator))
    yield from found.lines()
    make_folder(arguments.out)
    licence = found.recipe.card.licence
    without = set() if found.recipe.backend.kind == "timm" else {"keys"}
    write_yaml(
        path,
        found.recipe.model_dump(mode="json", exclude_none=True, exclude=without),
        comment="What `moma-server teacher import` found. Read it, correct it, then:\n"
        f"moma-server teacher import --recipe {path} --out {arguments.out}",
    )
    yield f"licence      {licence.name}: {licence.derived_models}"
    yield f"wrote {path}: read and correct it, above all card.licence, then"
    yield f"  moma-server teacher import --recipe {path} --out {arguments.out}"


def _made(made: "ImportedTeacher") -> Iterator[str]:
    from moma_server.cli.commands import card_lines

    yield from card_lines(made.card)
    for path in made.files:
        yield f"wrote {path}"
    yield f"put the lines of {made.files[-1]} below teacher: in server.yaml"
