"""Teachers that are made without training, and those that leave their institution."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from moma_client.context import RunContext
from moma_client.metrics import silent_metrics
from moma_client.student.factory import SiteTeacher, StudentJob
from moma_client.student.launch import run_student
from moma_client.student.round import SiteCallback
from moma_client.teacher.onboarding import onboard
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.distillation.scenario import SiteTask, choose_scenario
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import CertificateError, ConfigError, MismatchError
from moma_core.federation.task import RoundTask
from moma_core.runtime.files import write_private
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.licence import Licence, terms_digest
from moma_server.cli.commands import card_lines
from moma_server.cli.init import ServerSetup, init_server
from moma_server.cli.main import main
from moma_server.config.recipe import TeacherRecipe
from moma_server.config.server import ServerConfig
from moma_server.teacher.build.from_weights import teacher_from_weights
from moma_server.teacher.inference.load import checked_card, load_backend
from tests.support.site.tiny_site import local_config
from tests.support.teacher.reference_patch_teacher import write_golden_teacher

LICENCE = Licence("CC-BY-NC-4.0", "see the repository", "for research alone")
ACCEPTED = terms_digest("teacher-a", LICENCE)
RECIPE = {
    "name": "teacher-a",
    "organ": "colon",
    "task": "stain",
    "view_size_px": 32,
    "model": {"architecture": "test_efficientnet", "weights": "random"},
}
ROUND = RoundTask(
    kind="train", run="run", round=1, rounds=1, local_epochs=1, mode="independent"
)


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.create()


@pytest.fixture
def config(tmp_path: Path, key: SigningKey) -> Path:
    """The config of an institution whose teacher is made."""
    folder = tmp_path / "institution"
    init_server(folder, ServerSetup())
    write_golden_teacher(folder / "teacher", licence=LICENCE)
    write_private(folder / "signing.key", key.to_pem())
    path = folder / "server.yaml"
    values = yaml.safe_load(path.read_text())
    values["teacher"] |= {"signing_key": "signing.key", "accelerator": "cpu"}
    path.write_text(yaml.safe_dump(values))
    return path


def _export(config: Path, *options: str) -> Path:
    out = config.parent.parent / "teacher"  # where `local_config` looks
    line = ["teacher", "export", "--config", str(config), "--out", str(out), *options]
    assert main(line) == 0
    return out


def _meet(folder: Path, **teacher: Any) -> TeacherCard:
    section = {"schedule": "frozen", "accepted_terms": ACCEPTED, **teacher}
    config = local_config(folder, teacher=section)
    card, _, _ = onboard(RunContext(config, threading.Event(), silent_metrics()))
    return card


def test_a_partner_meets_the_exported_teacher_as_it_was(
    tmp_path: Path, config: Path, key: SigningKey
) -> None:
    own = TeacherCard.load(config.parent / "teacher" / "card.json")

    _export(config)

    assert _meet(tmp_path, key=str(key.public)) == own


def test_a_partner_refuses_another_key_and_a_changed_card(
    tmp_path: Path, config: Path, key: SigningKey
) -> None:
    out = _export(config)

    with pytest.raises(CertificateError, match="exported teacher card is not of"):
        _meet(tmp_path, key=str(SigningKey.create().public))
    card = TeacherCard.load(out / "card.json")
    replace(card, licence=replace(LICENCE, may_sell=True)).save(out / "card.json")
    with pytest.raises(CertificateError, match="exported teacher card is not of"):
        _meet(tmp_path, key=str(key.public))


def test_without_its_classifier_a_teacher_gives_embeddings_alone(
    tmp_path: Path, config: Path, key: SigningKey
) -> None:
    _export(config, "--without-classifier")

    card = _meet(tmp_path, key=str(key.public))

    own = TeacherCard.load(config.parent / "teacher" / "card.json")
    assert (card.class_names, card.outputs) == ((), ("embedding",))
    assert card.digest != own.digest
    assert card.golden is not None
    assert own.golden is not None
    assert card.golden.embedding == own.golden.embedding


def test_a_student_learns_from_embeddings_alone(tmp_path: Path, config: Path) -> None:
    _export(config, "--without-classifier")
    card = _meet(tmp_path)
    section = {"schedule": "frozen", "accepted_terms": ACCEPTED}
    site = local_config(tmp_path, teacher=section)
    scenario = choose_scenario(SiteTask("colon", "stain", CLASS_NAMES), card, None)
    teacher = SiteTeacher(site, card, scenario)
    job = StudentJob(site, "moma", (teacher,), tmp_path / "moma", b"key", ROUND)
    watch = SiteCallback(
        RunContext(job.config, threading.Event(), silent_metrics()), None, "moma"
    )

    outcome = run_student(job, watch)

    assert scenario.class_order is None
    assert 0 <= outcome.figures["validation_macro_f1"] <= 1


def test_an_export_overwrites_nothing(config: Path) -> None:
    out = _export(config)
    line = ["teacher", "export", "--config", str(config), "--out", str(out)]

    assert main(line) == 1


def test_weights_of_another_digest_are_not_exported(config: Path) -> None:
    path = config.parent / "teacher" / "card.json"
    replace(TeacherCard.load(path), digest="1" * 64).save(path)
    out = str(config.parent / "out")

    assert main(["teacher", "export", "--config", str(config), "--out", out]) == 1
    assert not (config.parent / "out").exists()


def test_a_card_is_shown_to_a_person_and_to_a_script(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["teacher", "card", "--config", str(config)]

    assert main(line) == 0
    shown = capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)

    assert "reference patch synthetic, seed 0, tolerance 0.02" in shown
    assert ACCEPTED in shown
    assert values["licence"]["name"] == "CC-BY-NC-4.0"


def test_weights_that_are_there_get_a_card(tmp_path: Path, config: Path) -> None:
    weights = config.parent / "teacher" / "weights.safetensors"
    recipe = TeacherRecipe.model_validate({**RECIPE, "class_names": CLASS_NAMES})

    card = teacher_from_weights(recipe, weights, tmp_path / "made")

    assert (
        card.digest == TeacherCard.load(config.parent / "teacher" / "card.json").digest
    )
    assert card.class_names == CLASS_NAMES
    assert TeacherCard.load(tmp_path / "made" / "card.json") == card
    with pytest.raises(ConfigError, match="exists; name another folder"):
        teacher_from_weights(recipe, weights, tmp_path / "made")


def test_a_magnification_on_such_a_card_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = TeacherRecipe.model_validate({**RECIPE, "card": {"mpp": 40}})

    teacher_from_weights(recipe, None, tmp_path / "made")

    assert "card.mpp is 40 microns a pixel: is that a lens's" in caplog.text


@pytest.mark.parametrize("command", ["train", "card", "import"])
@pytest.mark.parametrize("mpp", ["0", "-0.5", ".nan", ".inf", "500", "fine", "'0,5'"])
def test_an_absurd_resolution_is_one_sentence_wherever_a_card_is_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str, mpp: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: teacher-a\ncard: {{mpp: {mpp}}}\n")
    line = ["teacher", command, "--recipe", str(recipe), "--out", str(tmp_path / "x")]

    assert main(line) == 1

    (said,) = [x for x in caplog.text.splitlines() if x.startswith("  card.mpp")]
    assert "Resolution in microns a pixel" in said
    assert not (tmp_path / "x").exists()


def test_a_timm_model_becomes_a_teacher_of_embeddings(tmp_path: Path) -> None:
    torch.manual_seed(3)
    recipe = TeacherRecipe.model_validate(RECIPE)

    card = teacher_from_weights(recipe, None, tmp_path / "made")

    assert (card.class_names, card.outputs) == ((), ("embedding",))
    institution = tmp_path / "institution"
    init_server(institution, ServerSetup())
    path = institution / "server.yaml"
    values = yaml.safe_load(path.read_text())
    values["teacher"] |= {
        "card": str(tmp_path / "made" / "card.json"),
        "weights_file": str(tmp_path / "made" / "weights.safetensors"),
        "accelerator": "cpu",
    }
    path.write_text(yaml.safe_dump(values))
    section = ServerConfig.from_yaml(path).own_teacher()
    backend = load_backend(section, checked_card(section))
    assert card.golden is not None
    embedding, logits = backend.predict(card.golden.pixels(32)[None])
    card.golden.check(embedding[0], logits[0])
    assert any("embeddings alone" in line for line in card_lines(card))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"class_names": CLASS_NAMES}, "name --weights"),
        ({"view_size_px": 16, "card": {"golden_patch": "none.png"}}, "golden_patch"),
    ],
)
def test_a_recipe_that_makes_no_card_says_why(
    tmp_path: Path, fields: Any, named: str
) -> None:
    recipe = TeacherRecipe.model_validate({**RECIPE, **fields})

    with pytest.raises(ConfigError, match=named):
        teacher_from_weights(recipe, None, tmp_path / "made")


def test_a_pickle_makes_no_teacher(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"\x80\x04")
    recipe = TeacherRecipe.model_validate({**RECIPE, "class_names": CLASS_NAMES})

    with pytest.raises(ConfigError, match="named like a pickle"):
        teacher_from_weights(recipe, tmp_path / "weights.pth", tmp_path / "made")


def test_a_recipe_without_data_trains_nothing() -> None:
    with pytest.raises(ConfigError, match="names no data"):
        TeacherRecipe.model_validate(RECIPE).labelled_data()


def test_a_teacher_that_does_not_say_what_its_card_says_is_not_served(
    tmp_path: Path, config: Path
) -> None:
    other = write_golden_teacher(tmp_path / "other", seed=9)
    path = config.parent / "teacher" / "card.json"
    replace(TeacherCard.load(path), golden=other.golden).save(path)
    section = ServerConfig.from_yaml(config).own_teacher()

    with pytest.raises(MismatchError, match="reference patch, embedding"):
        load_backend(section, checked_card(section))
