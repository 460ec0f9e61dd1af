"""The digest of a teacher: over everything that decides what it answers."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moma_core.errors import ConfigError
from moma_core.models.weights import file_digest
from moma_core.runtime.canonical_json import canonical_json
from moma_core.teacher.card.card import TeacherCard
from moma_server.config.backend import BackendSection, OipBackend

_NOT_THE_MODEL = {"address", "ca_file", "timeout_seconds", "recheck_seconds"}


def teacher_digest(
    card: TeacherCard,
    backend: BackendSection | None,
    weights: Path | None,
    head: Path | None,
) -> str:
    """Returns the SHA-256 of what decides a teacher's answers, hex.

    That of a teacher of `teacher train` is its weights file's. Any other's counts its
    files, the preprocessing and precision of its card, architecture, arguments, pooling
    and names of outputs; behind a server, whose weights nobody sees here, its answer to
    the reference patch as well.

    Args:
        card: Its own digest is not looked at.
        backend: Section of the config; None: a teacher of `teacher train`.
        weights: File of weights; None where a server has them.
        head: File of the probe; None: there is none.

    Raises:
        ConfigError: A file cannot be read.
    """
    files = {"weights": _digest(weights), "head": _digest(head)}
    if backend is None and head is None and files["weights"] is not None:
        return files["weights"]
    described: dict[str, Any] = {
        **files,
        "backend": _model_of(backend),
        "input_size_px": card.input_size_px,
        "mean": card.mean,
        "std": card.std,
        "precision": card.precision,
        "class_names": card.class_names,
    }
    if isinstance(backend, OipBackend) and card.golden is not None:
        golden = card.golden
        described["answers"] = [golden.embedding, golden.logits]
        described["patch"] = [golden.seed, golden.png]
    return hashlib.sha256(canonical_json(described)).hexdigest()


def _model_of(backend: BackendSection | None) -> Mapping[str, Any] | None:
    if backend is None:
        return None
    return backend.model_dump(mode="json", exclude=_NOT_THE_MODEL)


def _digest(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return file_digest(path)
    except OSError as error:
        raise ConfigError(f"cannot read weights {path}: {error}") from error
