"""Makes a teacher of a model that others made, by a recipe that a person has read."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from moma_core.data.checks.rules import look_at_set
from moma_core.data.loader import evaluation_batches
from moma_core.data.patch import TRAIN, VALIDATION, PatchSource
from moma_core.data.resolution import look_at_mpp
from moma_core.data.sources.factory import open_source
from moma_core.errors import ConfigError
from moma_core.models.checkpoints import load_checkpoint, read_tensors
from moma_core.models.probe import fit_probe, save_probe
from moma_core.models.weights import save_weights
from moma_core.runtime.files import make_folder
from moma_core.runtime.finding import heed
from moma_core.teacher.card.card import TeacherCard
from moma_server.config.backend import BackendSection, TimmBackend
from moma_server.config.import_recipe import ImportRecipe
from moma_server.config.server import write_yaml
from moma_server.teacher.build.card import (
    checked_card,
    reference_pixels,
    with_reference_patch,
)
from moma_server.teacher.build.measures import COVERAGE, FIGURES, measured
from moma_server.teacher.build.onnx_graph import save_with_outputs
from moma_server.teacher.build.trial import tried
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.inference.digest import teacher_digest
from moma_server.teacher.inference.files import open_file
from moma_server.teacher.inference.load import network_of, open_backend

_logger = logging.getLogger(__name__)

HEAD, BACKEND = "head.safetensors", "backend.yaml"

_SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "exported": ".pt2"}


class ImportedTeacher(NamedTuple):
    """A teacher that was made of a model.

    Args:
        card: Its card.
        files: What was written, the lines for `server.yaml` last.
    """

    card: TeacherCard
    files: list[Path]


def teacher_from_model(
    recipe: ImportRecipe, folder: Path, device: torch.device
) -> ImportedTeacher:
    """Writes weights, card, and the lines that `server.yaml` needs.

    Args:
        recipe: Names, model and terms.
        folder: Where the files go.
        device: Where the model is tried.

    Raises:
        ConfigError: The model cannot be read, does not answer as it should, or a card
            is there.
    """
    if (folder / "card.json").exists():
        raise ConfigError(f"{folder / 'card.json'} exists; name another folder")
    make_folder(folder)
    weights = _take_in(recipe, folder)
    return _carded(recipe, folder, weights, None, device)


def fit_head(
    recipe: ImportRecipe, folder: Path, device: torch.device, *, hidden: int = 0
) -> ImportedTeacher:
    """Fits a probe on the recipe's labelled patches, and makes the card anew with it.

    Args:
        recipe: As the teacher was imported.
        folder: Of the teacher; gets the probe.
        device: Where the model runs.
        hidden: Width of the probe's hidden layer; 0: it is linear.

    Raises:
        ConfigError: There is no teacher, or the recipe names no labelled patches.
        DataError: Patches cannot be read.
    """
    card = TeacherCard.load(folder / "card.json")
    if recipe.data is None:
        raise ConfigError("the recipe names no data: fit-head needs labelled patches")
    source = open_source(recipe.data)
    most = recipe.data.max_unreadable
    heed(look_at_set(source, figures_of={}, max_unreadable=most), _logger)
    weights = _weights_of(recipe, folder)
    plain = replace(card, class_names=(), outputs=("embedding",), golden=None)
    backend = open_backend(_without_logits(recipe), plain, weights, None, device)
    train, validation = (
        _embeddings(backend, source, split) for split in (TRAIN, VALIDATION)
    )
    if len(train[1]) < len(source.class_names):
        raise ConfigError(
            f"fit-head needs labelled training patches, the data have {len(train[1])}"
        )
    classes = len(source.class_names)
    probe = fit_probe(
        train, validation, classes=classes, hidden=hidden, seed=recipe.seed
    )
    save_probe(probe, folder / HEAD)
    labelled = recipe.model_copy(
        update={"class_names": source.class_names, "backend": _without_logits(recipe)}
    )
    return _carded(labelled, folder, weights, folder / HEAD, device)


def _without_logits(recipe: ImportRecipe) -> BackendSection:
    backend = recipe.backend
    if isinstance(backend, TimmBackend):
        if recipe.class_names:
            raise ConfigError(
                "the recipe's model has a classifier of class_names: leave them out "
                "and import it again, for a probe in its place"
            )
        return backend
    outputs = backend.outputs
    if not outputs.embedding:
        raise ConfigError(
            "fit-head needs an output of embeddings: name backend.outputs.embedding"
        )
    return backend.model_copy(
        update={"outputs": outputs.model_copy(update={"logits": ""})}
    )


def _embeddings(
    backend: TeacherBackend, source: PatchSource, split: str
) -> tuple[Tensor, Tensor]:
    rows = source.index.rows(split, labelled=True)
    size = backend.card.input_size_px
    found, labels = [torch.empty(0, backend.card.embedding_length)], [torch.empty(0)]
    for views, label in evaluation_batches(source, rows, view_size_px=size):
        pixels = views.permute(0, 2, 3, 1).contiguous().numpy()
        found.append(torch.from_numpy(backend.predict(pixels)[0]))
        labels.append(label)
    return torch.cat(found), torch.cat(labels).long()


def _weights_of(recipe: ImportRecipe, folder: Path) -> Path | None:
    """Returns where the teacher's own copy of its model lies."""
    if recipe.model is None:
        return None
    suffix = _SUFFIXES.get(recipe.backend.kind)
    return folder / ("weights.safetensors" if suffix is None else f"model{suffix}")


def _take_in(recipe: ImportRecipe, folder: Path) -> Path | None:
    """Copies the model into the teacher's folder; tensors under our own names."""
    target = _weights_of(recipe, folder)
    if recipe.model is None or target is None:
        return None
    if isinstance(recipe.backend, TimmBackend):
        network = network_of(recipe.backend, "", len(recipe.class_names))
        tensors = read_tensors(recipe.model, recipe.keys.nested)
        load_checkpoint(network, tensors, recipe.keys)
        save_weights(network, target)
        return target
    if not recipe.model.is_file():
        raise ConfigError(f"there is no file {recipe.model}")
    if target.exists() and target.samefile(recipe.model):
        return target
    if recipe.backend.kind == "onnx":
        # reads it as the server will, so that what is no ONNX is told here
        open_file("onnx", recipe.model, torch.device("cpu"))
        outputs = recipe.backend.outputs
        save_with_outputs(recipe.model, (outputs.embedding, outputs.logits), target)
    else:
        shutil.copyfile(recipe.model, target)
    return target


def _carded(
    recipe: ImportRecipe,
    folder: Path,
    weights: Path | None,
    head: Path | None,
    device: torch.device,
) -> ImportedTeacher:
    heed(look_at_mpp("card.mpp is", recipe.card.mpp), _logger)
    card = described(recipe)
    plain = replace(card, class_names=()) if head else card
    without_probe = open_backend(recipe.backend, plain, weights, None, device)
    embedding, logits = tried(without_probe)
    if head is None and logits.shape[1] != len(card.class_names):
        raise ConfigError(
            f"the model gives {logits.shape[1]} logits a patch, class_names has "
            f"{len(card.class_names)}"
        )
    card = replace(card, embedding_length=embedding.shape[1])
    backend = open_backend(recipe.backend, card, weights, head, device)
    patch = reference_pixels(recipe.card.golden_patch, recipe.input_size_px)
    card = with_reference_patch(card, backend.predict, *patch)
    card = replace(card, digest=teacher_digest(card, recipe.backend, weights, head))
    checked_card(card)
    if recipe.data is not None:
        card = measured(
            card,
            backend,
            open_source(recipe.data),
            folder,
            seed=recipe.seed,
            is_ordered=recipe.ordered,
        )
    card.save(folder / "card.json")
    _write_lines(recipe, folder, weights, head)
    made = [weights, head, folder / FIGURES, folder / COVERAGE]
    there = [path for path in made if path is not None and path.exists()]
    return ImportedTeacher(card, [*there, folder / "card.json", folder / BACKEND])


def described(recipe: ImportRecipe) -> TeacherCard:
    """Returns the card of a recipe; digest, length and reference patch are to come."""
    terms = recipe.card
    backend = recipe.backend
    pooled = backend if isinstance(backend, TimmBackend) else backend.outputs
    return TeacherCard(
        name=recipe.name,
        digest="0" * 64,
        architecture=recipe.shown_as,
        embedding_length=1,
        organ=recipe.organ,
        task=recipe.task,
        class_names=recipe.class_names,
        input_size_px=recipe.input_size_px,
        mean=recipe.mean,
        std=recipe.std,
        precision=recipe.precision,
        stain=terms.stain,
        mpp=terms.mpp,
        pooling=pooled.pooling,
        outputs=terms.outputs if recipe.class_names else ("embedding",),
        budget_terms=terms.budget_terms,
        default_grant_patches=terms.default_grant_patches,
        licence=terms.licence.as_licence(),
    )


def _write_lines(
    recipe: ImportRecipe, folder: Path, weights: Path | None, head: Path | None
) -> None:
    """Writes what belongs below `teacher:` in server.yaml."""
    values: dict[str, object] = {"card": str(folder.resolve() / "card.json")}
    if weights is not None:
        values["weights_file"] = str(weights.resolve())
    if head is not None:
        values["head_file"] = str(head.resolve())
    values["backend"] = recipe.backend.model_dump(
        mode="json", exclude_defaults=True
    ) | {"kind": recipe.backend.kind}
    comment = (
        "In server.yaml, below teacher:, in place of card and weights_file.\n"
        "The card's digest counts these lines: another pooling is another teacher.\n"
    )
    if (folder / COVERAGE).exists():
        comment += f"policy.coverage_map there: {folder.resolve() / COVERAGE}\n"
    write_yaml(folder / BACKEND, values, comment=comment)
