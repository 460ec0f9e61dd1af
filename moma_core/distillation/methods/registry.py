"""Every method's distiller, by its name."""

from collections.abc import Callable, Mapping

from moma_core.distillation.methods import (
    crd,
    feature_maps,
    outputs,
    semckd,
    teacher_classifier,
)
from moma_core.distillation.methods.context import (
    DistillationContext,
    RunFacts,
    TeacherFacts,
)
from moma_core.distillation.methods.names import Method, check_allowed
from moma_core.distillation.step import Distiller, MomaDistiller, TeacherShape
from moma_core.models.encoder import Encoder

__all__ = ["DistillationContext", "RunFacts", "TeacherFacts", "make_distiller"]

Make = Callable[[Encoder, DistillationContext], Distiller]
"""From a student and all else."""


def _without_teacher(student: Encoder, setup: DistillationContext) -> Distiller:
    return Distiller(student, setup.settings)


def _moma(student: Encoder, setup: DistillationContext) -> Distiller:
    teacher = setup.teacher
    shape = TeacherShape(teacher.embedding_length, teacher.classes)
    return MomaDistiller(student, setup.settings, shape, teacher.class_order)


_MAKERS: Mapping[Method, Make] = {
    "moma": _moma,
    "ce": _without_teacher,
    "kd": outputs.KnowledgeDistillation,
    "hint": outputs.Hint,
    "at": feature_maps.AttentionTransfer,
    "sp": outputs.SimilarityPreserving,
    "cc": outputs.CorrelationCongruence,
    "vid": feature_maps.VariationalInformation,
    "rkd": outputs.Relational,
    "pkt": outputs.Probabilistic,
    "crd": crd.ContrastiveRepresentation,
    "semckd": semckd.SemanticCalibration,
    "simkd": teacher_classifier.ReusedClassifier,
    "srrl": teacher_classifier.SoftmaxRegression,
    "ft": teacher_classifier.FineTuning,
}


def make_distiller(
    method: Method, student: Encoder, setup: DistillationContext
) -> Distiller:
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
    return _MAKERS[method](student, setup)
