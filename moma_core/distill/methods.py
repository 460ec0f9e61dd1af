"""Every method by its name: what it needs of a teacher, and its distiller."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

from moma_core.distill.baselines import (
    answers,
    classifier,
    contrast,
    maps,
    semantic,
    torchdistill_losses,
)
from moma_core.distill.baselines.facts import RunFacts, Setup, TeacherFacts
from moma_core.distill.step import Distiller, MomaDistiller, TeacherShape
from moma_core.errors import ConfigError
from moma_core.models.encoder import Encoder
from moma_core.teacher.card import Output, TeacherCard

__all__ = ["METHODS", "Method", "RunFacts", "Setup", "TeacherFacts", "make_distiller"]

BaselineName = Literal[
    "ce",
    "kd",
    "hint",
    "at",
    "sp",
    "cc",
    "vid",
    "rkd",
    "pkt",
    "crd",
    "semckd",
    "simkd",
    "srrl",
    "ft",
]
Method = Literal["moma"] | BaselineName
Need = Literal["nothing", "answers", "maps", "weights"]

METHODS: tuple[Method, ...] = ("moma", *get_args(BaselineName))


class _Entry(NamedTuple):
    """One method.

    Args:
        need: What it needs of a teacher: nothing; answers, which any teacher gives;
            feature maps or weights, which never leave a remote one.
        make: From a student and all else.
    """

    need: Need
    make: Callable[[Encoder, Setup], Distiller]


def _without_teacher(student: Encoder, setup: Setup) -> Distiller:
    return Distiller(student, setup.settings)


def _moma(student: Encoder, setup: Setup) -> Distiller:
    teacher = setup.teacher
    shape = TeacherShape(teacher.embedding_length, teacher.classes)
    return MomaDistiller(student, setup.settings, shape, teacher.class_order)


_ENTRIES: Mapping[Method, _Entry] = {
    "moma": _Entry("answers", _moma),
    "ce": _Entry("nothing", _without_teacher),
    "kd": _Entry("answers", answers.KnowledgeDistillation),
    "hint": _Entry("answers", answers.Hint),
    "at": _Entry("maps", maps.AttentionTransfer),
    "sp": _Entry("answers", answers.SimilarityPreserving),
    "cc": _Entry("answers", answers.CorrelationCongruence),
    "vid": _Entry("maps", maps.VariationalInformation),
    "rkd": _Entry("answers", answers.Relational),
    "pkt": _Entry("answers", answers.Probabilistic),
    "crd": _Entry("answers", contrast.ContrastiveRepresentation),
    "semckd": _Entry("maps", semantic.SemanticCalibration),
    "simkd": _Entry("weights", classifier.ReusedClassifier),
    "srrl": _Entry("weights", classifier.SoftmaxRegression),
    "ft": _Entry("weights", classifier.FineTuning),
}
_WORDS = {"maps": "feature maps", "weights": "the teacher's weights"}
_OF_TORCHDISTILL = frozenset({"at", "vid", "rkd", "pkt"})


def need_of(method: Method) -> Need:
    """Returns what a method needs of a teacher."""
    return _ENTRIES[method].need


def asks_each_step(method: Method) -> bool:
    """Whether a method wants the teacher's answers to every batch."""
    return method not in {"ce", "ft"}


def check_allowed(method: Method, *, teacher_is_local: bool) -> None:
    """Refuses what the teacher's mode or the installation does not allow.

    Raises:
        ConfigError: It needs maps or weights of a remote teacher, or a package that
            is not here.
    """
    words = _WORDS.get(need_of(method))
    if words and not teacher_is_local:
        raise ConfigError(f"{method} needs {words}: teacher.mode local")
    if method in _OF_TORCHDISTILL and not torchdistill_losses.is_installed():
        raise ConfigError(
            f"{method} needs torchdistill: pip install 'moma-service[bench]'"
        )


def check_told(method: Method, card: TeacherCard) -> None:
    """Refuses a method that learns from what the teacher does not tell.

    Raises:
        ConfigError: It does.
    """
    wanted: Mapping[Method, Output] = {"kd": "logits"}
    if method == "moma" or not asks_each_step(method):
        return
    output = wanted.get(method, "embedding")
    if output not in card.outputs:
        raise ConfigError(f"{method} needs the {output} that the teacher does not tell")


def make_distiller(method: Method, student: Encoder, setup: Setup) -> Distiller:
    """Returns a method's step around a student.

    The distiller's own `student` is the one to evaluate and to keep: simkd puts the
    given one into a `ProjectedEncoder`, ft overwrites its weights.

    Args:
        method: Its name.
        student: Its parameters will learn.
        setup: All else; `setup.teacher.encoder` for methods that need maps or
            weights.

    Raises:
        ConfigError: The teacher's mode, classes or architecture do not allow it.
    """
    is_local = setup.teacher.encoder is not None
    check_allowed(method, teacher_is_local=is_local)
    return _ENTRIES[method].make(student, setup)
