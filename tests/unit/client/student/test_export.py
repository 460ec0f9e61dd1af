"""A student that leaves its site, and what is refused where it arrives."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moma_client.cli.main import main
from moma_client.config.site import SiteConfig
from moma_client.student.export import export_student, model_card
from moma_client.student.files import StudentCard, load_student, save_student
from moma_client.teacher.usage import read_queries
from moma_core.data.images import DECODING
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.data.stain_normalisation import StainTarget
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import CertificateError, ConfigError
from moma_core.models.backbone import Backbone, Normalise, create_backbone
from moma_core.models.weights import file_digest
from moma_core.runtime.files import write_private
from moma_core.teacher.card.licence import Licence, terms_digest
from tests.support.site.tiny_site import local_config
from tests.unit.client.student.test_files import CARD

LICENCE = Licence("CC-BY-NC-4.0", "see the repository", "for research alone")
TOLD = {
    "validation_macro_f1": 0.877,
    "unseen_accuracy": 0.5,
    "ce_validation_macro_f1": 0.1,
}
FIGURES = TOLD | {"validation_kappa": 0.4}  # on nobody's list


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.create()


@pytest.fixture
def config(tmp_path: Path, key: SigningKey) -> SiteConfig:
    """A site whose run is over."""
    write_private(tmp_path / "signing.key", key.to_pem())
    made = local_config(
        tmp_path, identity={"signing_key": "signing.key"}, baselines=["ce"]
    )
    run = made.state_dir / "runs" / "run-1"
    card = replace(
        CARD,
        class_names=CLASS_NAMES,
        teacher_licence=LICENCE,
        temperature=1.25,
        decoding=DECODING,
    )
    torch.manual_seed(0)
    save_student(run / "moma", Backbone(CARD.architecture, len(CLASS_NAMES)), card)
    line = {"round": 2, "kind": "close", "figures": FIGURES, "told": TOLD}
    (run / "figures.jsonl").write_text(json.dumps(line | {"decimals": 3}) + "\n")
    queries = {"asked": 1306, "charged": 1299}
    (run / "queries.json").write_text(json.dumps(queries))
    return made


@pytest.fixture
def exported(tmp_path: Path, config: SiteConfig) -> Path:
    return export(config, tmp_path / "out")


def export(config: SiteConfig, out: Path, **options: Any) -> Path:
    wanted = {"run": None, "method": "moma", "form": "safetensors", **options}
    export_student(config, out, **wanted)
    return out


def test_an_exported_student_says_exactly_what_it_said_at_its_site(
    config: SiteConfig, exported: Path, key: SigningKey
) -> None:
    here, _ = load_student(config.state_dir / "runs" / "run-1" / "moma")
    there, _ = load_student(exported, key.public)
    images = torch.rand(3, 3, 32, 32)

    with torch.inference_mode():
        one, other = here.eval()(images), there.eval()(images)

    assert torch.equal(one.logits, other.logits)


def test_its_card_says_where_it_comes_from(exported: Path, key: SigningKey) -> None:
    _, card = load_student(exported, key.public)

    origin = card.provenance
    assert origin is not None
    assert (origin.site, origin.federation, origin.run) == ("site-a", "moma", "run-1")
    assert origin.site_key == str(key.public)
    assert (origin.patches_asked, origin.patches_charged) == (1310, 1300)
    assert card.teacher_licence == LICENCE
    assert origin.terms == terms_digest("teacher-a", LICENCE)
    assert set(origin.versions) >= {"python", "torch", "timm", "moma-service"}
    assert card.digest == file_digest(exported / "student.safetensors")


def test_only_figures_that_were_told_and_rounded_counts_leave(exported: Path) -> None:
    _, card = load_student(exported)

    origin = card.provenance
    assert origin is not None
    assert origin.figures == {"validation_macro_f1": 0.877, "unseen_accuracy": 0.5}
    assert origin.patches["labelled"] == 20  # of 24
    assert all(count % 10 == 0 for count in origin.patches.values())


def test_a_person_can_read_its_card(exported: Path) -> None:
    text = (exported / "MODEL_CARD.md").read_text()

    assert "for research alone" in text
    assert "may not be published and may not be sold" in text
    assert "| patches asked | 1310 (rounded to 10) |" in text
    assert text.count("rounded to 10, 10 at least and 1000000 at most") == 1
    assert "| labelled | 20 |" in text
    assert text.count("rounded to 3 decimals") == 1
    assert "| unseen_accuracy | 0.5 |" in text
    assert "1. " + CLASS_NAMES[0] in text
    assert "| temperature | 1.25: divide the logits by it before a softmax |" in text
    assert f"| pictures | {DECODING} |" in text


def test_its_card_names_the_stain_normalisation_in_words(exported: Path) -> None:
    _, card = load_student(exported)
    assert card.provenance is not None
    target = StainTarget("macenko", (0.56, 0.22, 0.72, 0.8, 0.41, 0.56), (1.97, 1.03))

    text = model_card(replace(card, stain_normalisation=target), card.provenance)

    assert (
        "| stain normalisation | macenko: patches get the colours of a target" in text
    )
    assert "StainTarget" not in text


def test_a_card_that_was_changed_is_refused(exported: Path, key: SigningKey) -> None:
    path = exported / "student.json"
    values = json.loads(path.read_text())
    values["provenance"]["figures"]["unseen_accuracy"] = 0.99
    path.write_text(json.dumps(values))

    with pytest.raises(CertificateError, match="signature of the student card"):
        load_student(exported, key.public)


def test_another_site_signed_it(exported: Path) -> None:
    with pytest.raises(CertificateError, match="signature of the student card"):
        load_student(exported, SigningKey.create().public)


def test_weights_that_were_changed_are_refused(exported: Path, key: SigningKey) -> None:
    weights = exported / "student.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    with pytest.raises(ConfigError, match="its card says"):
        load_student(exported, key.public)


def test_a_card_without_its_signature_is_refused_where_a_key_is_pinned(
    exported: Path, key: SigningKey
) -> None:
    (exported / "student.json.sig").unlink()

    with pytest.raises(CertificateError, match="holds no signature"):
        load_student(exported, key.public)


class _Bomb:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = str(trace)

    def __reduce__(self) -> Any:
        return os.mkdir, (self._trace,)


def _bombs(trace: Path, folder: Path) -> dict[str, bytes]:
    torch.save({"weight": _Bomb(trace)}, folder / "zip")
    return {
        "pickle": pickle.dumps(_Bomb(trace)),
        "protocol 0": pickle.dumps(_Bomb(trace), protocol=0),
        "torch": (folder / "zip").read_bytes(),
    }


@pytest.mark.parametrize("kind", ["pickle", "protocol 0", "torch"])
def test_a_pickle_under_the_name_of_weights_is_refused_and_nothing_runs(
    tmp_path: Path, exported: Path, kind: str
) -> None:
    trace, weights = tmp_path / "trace", exported / "student.safetensors"
    bomb = _bombs(trace, tmp_path)[kind]
    weights.write_bytes(bomb)
    card = json.loads((exported / "student.json").read_text())
    card["digest"] = file_digest(weights)
    (exported / "student.json").write_text(json.dumps(card))

    with pytest.raises(ConfigError, match="no safetensors file; a pickle is never"):
        load_student(exported)

    assert not trace.exists()
    pickle.loads(pickle.dumps(_Bomb(trace)))
    assert trace.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.pkl", "w.ckpt"])
def test_a_weights_file_named_like_a_pickle_is_refused(
    tmp_path: Path, exported: Path, name: str
) -> None:
    shutil.copy(exported / "student.safetensors", tmp_path / name)
    values = {"architecture": CARD.architecture, "weights_file": str(tmp_path / name)}
    section = local_config(tmp_path, student=values).student

    with pytest.raises(ConfigError, match="named like a pickle"):
        create_backbone(section, len(CLASS_NAMES))


def test_the_program_exports_and_does_not_overwrite(
    tmp_path: Path, config: SiteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["export", "--site", str(tmp_path / "config.yaml")]
    line += ["--out", str(tmp_path / "out")]

    first, second = main(line), main(line)

    assert (first, second) == (0, 1)
    assert "student.json.sig" in capsys.readouterr().out


def test_onnx_needs_packages_that_are_named(
    tmp_path: Path, config: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moma_client.student.export.find_spec", lambda _name: None)

    with pytest.raises(ConfigError, match="ONNX needs onnx and onnxscript"):
        export(config, tmp_path / "out", form="onnx")

    assert not (tmp_path / "out").exists()


def test_an_onnx_file_says_what_the_student_says_and_what_one_needs_to_use_it(
    tmp_path: Path,
    config: SiteConfig,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxscript", reason="the extra `onnx` is absent")
    onnx = pytest.importorskip("onnx")
    out = tmp_path / "out"
    capfd.readouterr()
    line = ["export", "--site", str(tmp_path / "config.yaml"), "--format", "onnx"]

    assert main([*line, "--out", str(out)]) == 0

    printed = capfd.readouterr().out.splitlines()
    assert all(each.startswith(f"wrote {out}") for each in printed)
    model = onnx.load(out / "student.onnx")
    onnx.checker.check_model(model)
    found = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert found["class_names"] == list(CLASS_NAMES)
    assert found["view_size_px"] == CARD.view_size_px
    assert (found["mean"], found["std"]) == (list(CARD.mean), list(CARD.std))
    student, card = load_student(out)
    assert found["weights_sha256"] == card.digest
    assert found["temperature"] == card.temperature == 1.25
    torch.testing.assert_close(*_both_say(out, student, card))


def _both_say(
    out: Path, student: Backbone, card: StudentCard
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the logits of the ONNX file and of the student, for the same pixels."""
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    given = {"pixels": pixels.numpy()}
    (found,) = evaluator(str(out / "student.onnx")).run(None, given)
    with torch.inference_mode():
        said = student.eval()(Normalise(card.mean, card.std)(pixels)).logits
    return torch.from_numpy(found), said


def test_the_signed_card_says_how_its_numbers_are_rounded(exported: Path) -> None:
    card = json.loads((exported / "student.json").read_text())

    assert card["provenance"]["rounding"] == {
        "patches": "rounded to 10, 10 at least and 1000000 at most",
        "patches_asked": "rounded to 10",
        "patches_charged": "rounded to 10",
        "figures": "rounded to 3 decimals",
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "foo"], "run run-1 has no student 'foo'; there is moma"),
        (["--method", "mona"], "did you mean moma? there is moma"),
        (["--run", "run-2"], "no run 'run-2'; did you mean run-1? there is run-1"),
        (["--run", "x"], "there is no run 'x'; there is run-1"),
    ],
)
def test_a_misspelt_run_or_method_names_those_that_there_are(
    tmp_path: Path,
    config: SiteConfig,
    caplog: pytest.LogCaptureFixture,
    options: list[str],
    said: str,
) -> None:
    line = ["export", "--site", str(tmp_path / "config.yaml"), *options]

    assert main([*line, "--out", str(tmp_path / "out")]) == 1

    assert said in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_folder_without_queries_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "queries.json").write_text('{"asked": "many"}')

    assert read_queries(tmp_path) is None
    assert read_queries(tmp_path / "none") is None


def test_a_card_from_before_the_export_is_still_read(tmp_path: Path) -> None:
    save_student(tmp_path, Backbone(CARD.architecture, 2), CARD)
    path = tmp_path / "student.json"
    values = json.loads(path.read_text())
    del values["provenance"], values["teacher_licence"]
    path.write_text(json.dumps(values))

    _, card = load_student(tmp_path)

    assert isinstance(card, StudentCard)
    assert card.provenance is None


@pytest.mark.parametrize("torn", [b'{"round": 3, "kind": "cl', b"\xff\xfe", b"{}"])
def test_a_torn_last_line_of_the_figures_hides_none_that_were_disclosed(
    tmp_path: Path, config: SiteConfig, torn: bytes
) -> None:
    record = config.state_dir / "runs" / "run-1" / "figures.jsonl"
    record.write_bytes(record.read_bytes() + torn)

    export_student(
        config, tmp_path / "out", run=None, method="moma", form="safetensors"
    )

    text = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "None may leave" not in text
    assert "0.877" in text


def test_a_record_of_figures_that_cannot_be_read_is_no_record_of_none(
    tmp_path: Path, config: SiteConfig
) -> None:
    record = config.state_dir / "runs" / "run-1" / "figures.jsonl"
    record.write_bytes(record.read_bytes()[:20])

    with pytest.raises(ConfigError, match="holds no whole line"):
        export_student(
            config, tmp_path / "out", run=None, method="moma", form="safetensors"
        )
