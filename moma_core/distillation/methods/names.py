"""Every method's name, and what it needs of a teacher; read without torch."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal, get_args

from moma_core.errors import ConfigError
from moma_core.teacher.card.card import Output, TeacherCard

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

_NEEDS: Mapping[Method, Need] = {
    "moma": "answers",
    "ce": "nothing",
    "kd": "answers",
    "hint": "answers",
    "at": "maps",
    "sp": "answers",
    "cc": "answers",
    "vid": "maps",
    "rkd": "answers",
    "pkt": "answers",
    "crd": "answers",
    "semckd": "maps",
    "simkd": "weights",
    "srrl": "weights",
    "ft": "weights",
}
"""Answers come from any teacher; feature maps and weights never leave a remote one."""

_WORDS = {"maps": "feature maps", "weights": "the teacher's weights"}
_OF_TORCHDISTILL = frozenset({"at", "vid", "rkd", "pkt"})


def need_of(method: Method) -> Need:
    """Returns what a method needs of a teacher."""
    return _NEEDS[method]


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
    if method in _OF_TORCHDISTILL and find_spec("torchdistill") is None:
        raise ConfigError(
            f"{method} needs torchdistill: pip install 'moma-service[bench]'"
        )


def check_disclosed(method: Method, card: TeacherCard) -> None:
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
