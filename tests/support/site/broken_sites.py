"""Each breaks one thing of a site whose config has this path."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.licence import Licence, terms_digest
from tests.support.federation.pki import Pki
from tests.support.teacher.reference_patch_teacher import write_golden_teacher

FEDERATION = "test-federation"
LICENCE = Licence("CC-BY-NC-4.0", "see the repository", "for research alone")


def change(path: Path, section: str, **keys: Any) -> None:
    values = yaml.safe_load(path.read_text())
    values[section] |= keys
    path.write_text(yaml.safe_dump(values))


def card(path: Path, **fields: Any) -> None:
    card = path.parent / "teacher" / "card.json"
    replace(TeacherCard.load(card), **fields).save(card)


def no_section(path: Path) -> None:
    path.write_text("site: site-a\n")


def open_key(path: Path) -> None:
    (path.parent / "keys" / "key.pem").chmod(0o644)


def no_node_key(path: Path) -> None:
    change(path, "identity", node_key="none.key")


def no_certificate(path: Path) -> None:
    (path.parent / "keys" / "certificate.pem").unlink()


def other_name(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**values, "site": "site-b"}))


def other_authority(path: Path) -> None:
    Pki(FEDERATION).write(path.parent / "other", Pki(FEDERATION).site())
    authority = str(path.parent / "other" / "ca.pem")
    change(path, "identity", authority=authority)


def other_key(path: Path) -> None:
    other = Pki(FEDERATION)
    other.write(path.parent / "other", other.site())
    change(path, "identity", key=str(path.parent / "other" / "key.pem"))


def no_data(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    values["data"] = {"kind": "csv_manifest", "path": "none.csv"}
    path.write_text(yaml.safe_dump(values))


def wants_gpu(path: Path) -> None:
    change(path, "training", accelerator="cuda")


def no_teacher(path: Path) -> None:
    (path.parent / "teacher" / "card.json").unlink()


def other_weights(path: Path) -> None:
    card(path, digest="1" * 64)


def other_golden(path: Path) -> None:
    write_golden_teacher(path.parent / "other", seed=5)
    golden = TeacherCard.load(path.parent / "other" / "card.json").golden
    card(path, golden=golden)


def not_accepted(path: Path) -> None:
    change(path, "teacher", accepted_terms=None)


def new_terms(path: Path) -> None:
    card(path, licence=replace(LICENCE, derived_models="for nothing"))


def forbidden_students(path: Path) -> None:
    licence = replace(LICENCE, forbids_derived_models=True)
    card(path, licence=licence)
    change(path, "teacher", accepted_terms=terms_digest("teacher-a", licence))


def no_coordinator(path: Path) -> None:
    change(path, "coordinator", address="localhost:1")
