"""Every method's distiller, by its name; `register_method` adds one of one's own."""

from collections.abc import Callable
from functools import partial

from moma_core.distillation.methods import (
    crd,
    feature_maps,
    outputs,
    semckd,
    teacher_classifier,
)
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.methods.names import check_allowed
from moma_core.distillation.step import Distiller, MomaDistiller
from moma_core.errors import ConfigError
from moma_core.models.encoder import Encoder

Make = Callable[[Encoder, DistillationContext], Distiller]
"""Builds a method around a student."""


def _without_teacher(student: Encoder, context: DistillationContext) -> Distiller:
    return Distiller(student, context.settings)


def _moma(student: Encoder, context: DistillationContext) -> Distiller:
    return MomaDistiller(
        student,
        context.settings,
        teacher_length=context.teacher_length,
        teacher_classes=context.teacher_classes,
        class_order=context.class_order,
    )


_MAKERS: dict[str, Make] = {
    "moma": _moma,
    "ce": _without_teacher,
    "kd": partial(outputs.LogitDistillation, method="kd"),
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
    "dist": partial(outputs.LogitDistillation, method="dist"),
    "dkd": partial(outputs.LogitDistillation, method="dkd"),
    "zkd": partial(outputs.LogitDistillation, method="zkd"),
    "wttm": partial(outputs.LogitDistillation, method="wttm"),
    "vkd": partial(outputs.StandardisedHint, projector="orthogonal"),
    "cosine_hint": partial(outputs.StandardisedHint, projector="linear"),
}


def register_method(method: str, make: Make) -> None:
    """Adds a method that learns from a teacher's outputs, for example a `Baseline`.

    Args:
        method: Its name, which no other method has.
        make: Builds it around a student.
    """
    if method in _MAKERS:
        raise ValueError(f"there is a method {method!r} already")
    _MAKERS[method] = make


def make_distiller(
    method: str, student: Encoder, context: DistillationContext
) -> Distiller:
    """Returns a method's step around a student.

    The distiller's own `student` is the one to evaluate and to keep: simkd puts the
    given one into a `ProjectedEncoder`, ft overwrites its weights.

    Args:
        method: Name of the method.
        student: Its parameters will learn.
        context: Settings, teacher and run; `context.teacher` for methods that need
            maps or weights.

    Raises:
        ConfigError: There is no such method, or the teacher's mode, classes or
            architecture do not allow it.
    """
    if method not in _MAKERS:
        known = ", ".join(_MAKERS)
        raise ConfigError(f"no method {method!r}, only {known}")
    check_allowed(method, teacher_is_local=context.teacher is not None)
    return _MAKERS[method](student, context)
