"""What `import moma_core` offers, and that it costs nothing until it is used."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import moma_core
from moma_core import (
    Backbone,
    DistillationSettings,
    FrozenTeacher,
    MomaError,
    MomentumTeacher,
    PatchSource,
    TrainingSettings,
    distill,
    evaluate,
    open_source,
    register_method,
)
from moma_core.distillation.methods.base import Baseline
from moma_core.models.backbone import Normalise
from moma_core.models.ema import MomentumTerms
from tests.support.site.tiny_site import ARCHITECTURE, write_teacher

TINY: dict[str, Any] = {
    "training": TrainingSettings(batch_size=16, learning_rate=0.01, threads=1),
    "settings": DistillationSettings(bank_size=64),
    "epochs": 1,
}


@pytest.fixture(scope="module")
def source() -> PatchSource:
    return open_source({"kind": "embedded", "part": "site-a", "keep_labelled": 20})


def _network() -> Backbone:
    return Backbone.create(ARCHITECTURE, 4, "random")


def test_the_public_names_are_these_and_all_can_be_had() -> None:
    assert moma_core.__all__ == sorted(moma_core.__all__)
    assert set(moma_core.__all__) == {
        "Backbone",
        "DistillationSettings",
        "Distiller",
        "Encoder",
        "Features",
        "FrozenTeacher",
        "MemoryBank",
        "MomaDistiller",
        "MomaError",
        "MomentumTeacher",
        "PatchSource",
        "Teacher",
        "TeacherCard",
        "TeacherOutput",
        "Trainer",
        "TrainingSettings",
        "distill",
        "evaluate",
        "make_distiller",
        "open_source",
        "register_method",
    }
    assert all(callable(getattr(moma_core, name)) for name in moma_core.__all__)
    assert set(moma_core.__all__) <= set(dir(moma_core))
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        moma_core.distil  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, moma_core; moma_core.__all__; "
        "print({'torch', 'timm', 'numpy', 'pydantic'} & set(sys.modules))"
    )

    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert found.stdout.strip() == "set()"


def test_a_name_is_the_function_whatever_was_imported_before() -> None:
    code = (
        "import moma_core.distillation.step, moma_core.evaluation.metrics; "
        "from moma_core import distill, evaluate; print(callable(distill), "
        "callable(evaluate))"
    )

    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert found.stdout.strip() == "True True"


@pytest.mark.parametrize("method", ["moma", "kd", "hint", "ce", "simkd", "crd"])
def test_a_student_learns_and_is_measured(source: PatchSource, method: str) -> None:
    teacher = FrozenTeacher.of(_network(), source.class_names)
    steps: list[tuple[int, int]] = []

    student = distill(
        teacher,
        source,
        _network(),
        method=method,
        on_step=lambda step, of, losses: steps.append((step, of)),
        **TINY,
    )

    assert steps[-1] == (len(steps), len(steps))
    assert not student.training
    assert student.view_size_px == 32
    macro_f1 = evaluate(student, source, "unseen").figures["macro_f1"]
    assert macro_f1.interval is not None
    assert 0 <= macro_f1.interval[0] < macro_f1.interval[1] <= 1
    assert macro_f1.patches == len(source.index.rows("unseen", labelled=True))


def test_nothing_is_warned_of_that_only_a_config_says(
    source: PatchSource, caplog: pytest.LogCaptureFixture
) -> None:
    distill(None, source, _network(), **{**TINY, "method": "ce"})

    assert caplog.messages
    assert not [text for text in caplog.messages if "max_unreadable" in text]


def test_the_same_seed_gives_the_same_student(source: PatchSource) -> None:
    def weights() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        teacher = FrozenTeacher.of(_network(), source.class_names)
        return distill(teacher, source, _network(), **TINY).state_dict()

    first, second = weights(), weights()

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_logits_teach_where_the_class_names_are_the_same_and_else_class_centres(
    source: PatchSource,
) -> None:
    def last_term(names: tuple[str, ...], **changes: Any) -> float:
        found: list[float] = []
        distill(
            FrozenTeacher.of(_network(), names),
            source,
            _network(),
            on_step=lambda step, of, losses: found.append(float(losses.distillation)),
            **TINY | {"settings": TINY["settings"].model_copy(update=changes)},
        )
        return found[-1]

    others = ("other", "classes", "are", "there")
    assert last_term(source.class_names, other_classes="ignored") > 0
    assert last_term(others, other_classes="ignored") == 0
    assert last_term(others) > 0


def test_a_teacher_that_moves_follows_the_student(source: PatchSource) -> None:
    network, student = _network(), _network()
    before = network.classifier.weight.clone()
    teacher = MomentumTeacher(
        network,
        student,
        Normalise(network.mean, network.std),
        MomentumTerms(0.9, "moving", tuple(range(4))),
        "single_pass",
        source.class_names,
    )

    distill(teacher, source, student, **TINY)

    assert not torch.equal(network.classifier.weight, before)


def test_a_teacher_is_read_from_its_folder(tmp_path: Path, source: PatchSource) -> None:
    card = write_teacher(tmp_path)

    teacher = FrozenTeacher.load(tmp_path)

    assert teacher.class_names == card.class_names
    assert teacher.encoder.view_size_px == card.input_size_px
    assert "macro_f1" in evaluate(teacher.encoder, source, "validation").values()


def test_weights_of_another_card_are_refused(tmp_path: Path) -> None:
    write_teacher(tmp_path)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")

    with pytest.raises(MomaError, match="its card says"):
        FrozenTeacher.load(tmp_path)


def test_a_path_is_a_source_by_its_ending(tmp_path: Path) -> None:
    for name in ("tumour", "stroma"):
        (tmp_path / "patches" / "train" / name).mkdir(parents=True)
        picture = Image.fromarray(np.full((16, 16, 3), 90, np.uint8))
        picture.save(tmp_path / "patches" / "train" / name / "a.png")

    source = open_source(tmp_path / "patches")

    assert source.class_names == ("stroma", "tumour")
    with pytest.raises(MomaError, match=r"none\.csv"):
        open_source(str(tmp_path / "none.csv"))


def test_what_is_no_source_is_refused_in_a_sentence() -> None:
    with pytest.raises(MomaError, match=r"no source of patches: .*part"):
        open_source({"kind": "embedded", "part": "site-c"})


def test_a_method_of_ones_own_is_one_class_and_one_line(source: PatchSource) -> None:
    class Shrink(Baseline):
        def __init__(self, student: Any, context: Any) -> None:
            super().__init__(student, context, weight=1.0)

        def loss(self, features: Any, output: Any) -> torch.Tensor:
            return features.embedding.square().mean()

    register_method("shrink", Shrink)
    teacher = FrozenTeacher.of(_network(), source.class_names)
    terms: list[float] = []

    distill(
        teacher,
        source,
        _network(),
        method="shrink",
        on_step=lambda step, of, losses: terms.append(float(losses.distillation)),
        **TINY,
    )

    assert terms[0] > 0
    with pytest.raises(ValueError, match="there is a method 'shrink' already"):
        register_method("shrink", Shrink)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"method": "mooma"}, MomaError, "no method 'mooma', only moma, ce"),
        ({"training": TrainingSettings(devices=2)}, ValueError, "one device, not 2"),
    ],
)
def test_what_does_not_fit_is_refused(
    source: PatchSource, options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        distill(None, source, _network(), **{**TINY, **options})


def test_a_split_without_labels_is_refused(source: PatchSource) -> None:
    with pytest.raises(MomaError, match="no split 'elsewhere', only train"):
        evaluate(_network(), source, "elsewhere")


def test_one_student_learns_from_several_teachers_by_their_weights(
    source: PatchSource,
) -> None:
    names = source.class_names
    knows = FrozenTeacher.of(_network(), names)
    other = FrozenTeacher.of(_network(), ("of", "other", "classes", "alone"))
    terms: list[float] = []

    for weights in ((1, 3), (3, 1)):
        torch.manual_seed(3)
        distill(
            [knows, other],
            source,
            _network(),
            teacher_weights=weights,
            on_step=lambda step, of, losses: (
                terms.append(float(losses.distillation)) if step == 1 else None
            ),
            **TINY,
        )

    assert terms[1] == pytest.approx(3 * terms[0], rel=1e-4)  # the KL is of one alone
    assert terms[0] > 0


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ({"teacher_weights": (1,)}, ValueError, "for each of 2 teachers"),
        ({"teacher_weights": (1, 0)}, ValueError, "one above 0"),
        ({"method": "simkd"}, MomaError, "simkd needs the inside of one teacher"),
    ],
)
def test_several_teachers_that_do_not_fit_are_refused(
    source: PatchSource, keys: dict[str, Any], error: type[Exception], said: str
) -> None:
    teacher = FrozenTeacher.of(_network(), source.class_names)

    with pytest.raises(error, match=said):
        distill([teacher, teacher], source, _network(), **TINY, **keys)


def test_of_several_teachers_none_moves(source: PatchSource) -> None:
    network, student = _network(), _network()
    terms = MomentumTerms(0.9, "moving", tuple(range(4)))
    prepare = Normalise(network.mean, network.std)
    moving: Any = MomentumTeacher(network, student, prepare, terms, "single_pass")

    with pytest.raises(MomaError, match="none can move"):
        distill([moving, moving], source, student, **TINY)
