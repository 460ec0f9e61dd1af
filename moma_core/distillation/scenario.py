"""Which of the paper's three scenarios a site and a teacher are in, and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from moma_core.data.checks.names import (
    did_you_mean,
    equal_names,
    near_pairs,
    normalised,
)
from moma_core.errors import ConfigError
from moma_core.runtime.finding import Finding
from moma_core.teacher.card.card import TeacherCard

ScenarioName = Literal["same", "relevant", "irrelevant"]

_WITH_KL = "cross-entropy, contrast, and KL to the teacher's class probabilities"
_WITHOUT_KL = "no KL to the teacher's class probabilities"
_MOST_NAMED = 30


@dataclass(frozen=True, slots=True)
class SiteTask:
    """What a site trains for: the counterpart of a teacher card.

    Args:
        organ: For example "colon".
        task: For example "tissue types".
        class_names: In the order of the site's labels.
        renamed: The site's name of a class: the teacher's name of it.
    """

    organ: str
    task: str
    class_names: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario with the reason for it, to be shown to the operator.

    Args:
        name: Same: CE + contrast + KL. Relevant: class centres in the KL's place.
            Irrelevant: CE alone, unless the config asks the teacher all the same.
        reason: One sentence.
        class_order: (C,) long, the teacher's logit of each of the site's classes, by
            name and never by position; None where the KL is off.
        details: Lines on the names that fit, and on those that do not.
        near_miss: What to write, where names that are near may be meant alike and then
            other losses apply; empty: nothing is near, or the config has decided.
    """

    name: ScenarioName
    reason: str
    class_order: Tensor | None
    details: tuple[str, ...] = ()
    near_miss: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"

    def findings(self) -> Iterator[Finding]:
        """Yields what an operator should read of it before a run."""
        losses = _WITHOUT_KL if self.class_order is None else _WITH_KL
        text = f"{self}: {losses}"
        facts: dict[str, object] = {"scenario": self.name}
        yield Finding("scenario", "ok", text, more=self.details, facts=facts)
        if self.near_miss:
            yield Finding("scenario", "warning", self.near_miss)


def choose_scenario(
    site: SiteTask, card: TeacherCard, override: ScenarioName | None = None
) -> Scenario:
    """Compares organ, task and class names; a config value overrides.

    Names are compared as people read them: case, blanks, hyphens and underscores do not
    count, nor in which form Unicode writes an accent.

    Raises:
        ConfigError: The override asks for the KL between different class sets, or the
            site renames a class that it or the teacher does not have.
    """
    names = _Names.of(site, card)
    found, reason = _compare(site, card, names)
    name = override or found
    if override and override != found:
        reason = f"the config says so ({reason}, which alone would be {found!r})"
    details = tuple(names.lines())
    if name != "same":
        hint = "" if override else _near_miss(site, card, names)
        return Scenario(name, reason, None, details, hint)
    if "logits" not in card.outputs:
        reason = f"{reason}; the teacher discloses no logits: no KL"
        return Scenario(name, reason, None, details)
    if not names.are_equal:
        raise ConfigError(
            "distillation.scenario is 'same', but the classes differ in "
            f"{sorted((*names.alone, *names.theirs_alone))}{names.advice()}"
        )
    order = class_order(site.class_names, card.class_names, site.renamed)
    return Scenario(name, reason, order, details)


def class_order(
    own: tuple[str, ...], theirs: tuple[str, ...], renamed: Mapping[str, str]
) -> Tensor | None:
    """Returns (C,) long, the teacher's logit of each class; None: they are not one set.

    Args:
        own: The site's names, by label.
        theirs: The teacher's, by logit.
        renamed: As in `SiteTask`.

    Raises:
        ConfigError: A class is renamed that one of both does not have.
    """
    pairs = _pairs(own, theirs, renamed)
    if not own or len(pairs) != len(own) or len(own) != len(theirs):
        return None
    place = {name: position for position, name in enumerate(theirs)}
    return torch.tensor([place[pairs[name]] for name in own], dtype=torch.long)


@dataclass(frozen=True, slots=True)
class _Names:
    """Which of the site's classes are which of the teacher's.

    Args:
        pairs: The site's name: the teacher's.
        alone: The site's names that fit none.
        theirs_alone: The teacher's.
        near: Of those that fit none, which may be meant alike.
    """

    pairs: Mapping[str, str]
    alone: tuple[str, ...]
    theirs_alone: tuple[str, ...]
    near: Mapping[str, str]

    @classmethod
    def of(cls, site: SiteTask, card: TeacherCard) -> "_Names":
        own, theirs = site.class_names, card.class_names
        pairs = _pairs(own, theirs, site.renamed)
        alone = tuple(name for name in own if name not in pairs)
        fitting = set(pairs.values())
        theirs_alone = tuple(name for name in theirs if name not in fitting)
        return cls(pairs, alone, theirs_alone, near_pairs(alone, theirs_alone))

    @property
    def are_equal(self) -> bool:
        return bool(self.pairs) and not self.alone and not self.theirs_alone

    @property
    def may_be_equal(self) -> bool:
        """Whether they are once near names are taken for one."""
        found = len(self.pairs) + len(self.near)
        everything = len(self.pairs) + max(len(self.alone), len(self.theirs_alone))
        return found > 0 and found == everything

    def lines(self) -> Iterator[str]:
        fitting = [
            own if own == theirs else f"{own} = {theirs}"
            for own, theirs in self.pairs.items()
        ]
        if fitting:
            yield f"classes that fit: {_listed(fitting)}"
        if self.alone:
            nearest_ = [
                f"{name} (there {self.near[name]}?)" if name in self.near else name
                for name in self.alone
            ]
            yield f"only here: {_listed(nearest_)}"
        if self.theirs_alone:
            yield f"only at the teacher: {_listed(self.theirs_alone)}"

    def advice(self) -> str:
        """Returns what to write where near names are one."""
        if not self.near:
            return ""
        pairs = [f"{own!r}: {theirs!r}" for own, theirs in self.near.items()]
        return (
            f"; did you mean {', '.join(map(repr, self.near.values()))}? If they are "
            f"one, write task.classes: {{{', '.join(pairs[:_MOST_NAMED])}}}"
        )


def _pairs(
    own: tuple[str, ...], theirs: tuple[str, ...], renamed: Mapping[str, str]
) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for key, value in renamed.items():
        name = _known(key, own, f"task.classes names {key!r}, which is no class here")
        what = (
            f"task.classes says {key!r} is {value!r}, which the teacher does not know"
        )
        if (other := _known(value, theirs, what)) in pairs.values():
            raise ConfigError(
                f"task.classes gives the teacher's class {other!r} to two classes: "
                f"name one, or join the two in the data"
            )
        pairs[name] = other
    rest, taken = [name for name in own if name not in pairs], set(pairs.values())
    free = [name for name in theirs if name not in taken]
    pairs |= equal_names(rest, free)
    return {name: pairs[name] for name in own if name in pairs}


def _known(name: str, names: tuple[str, ...], complaint: str) -> str:
    found = equal_names([name], names)
    if name not in found:
        raise ConfigError(f"{complaint} ({_listed(names)}){did_you_mean(name, names)}")
    return found[name]


def _compare(
    site: SiteTask, card: TeacherCard, names: _Names
) -> tuple[ScenarioName, str]:
    if normalised(site.organ) != normalised(card.organ):
        return "irrelevant", f"organ {site.organ!r} here, {card.organ!r} there"
    if normalised(site.task) != normalised(card.task):
        return "relevant", f"one organ, task {site.task!r} here, {card.task!r} there"
    if not names.are_equal:
        return "relevant", f"organ {site.organ!r} on both sides, other classes"
    return "same", f"organ {site.organ!r}, task {site.task!r} and classes are equal"


def _near_miss(site: SiteTask, card: TeacherCard, names: _Names) -> str:
    """Returns what parts the two from *same*, where that may be a slip alone."""
    apart, lines = [], []
    for key, own, theirs in (
        ("organ", site.organ, card.organ),
        ("task", site.task, card.task),
    ):
        if normalised(own) != normalised(theirs):
            apart.append(f"{key} {own!r} against {theirs!r}")
            lines.append(f"task.{key}: {theirs}")
    if not names.may_be_equal:
        return "" if apart else _numbered_classes(names) or _missing_classes(names)
    if names.near:
        pairs = [f"{own!r}: {theirs!r}" for own, theirs in names.near.items()]
        apart.append(f"classes {_listed(pairs)}")
        lines.append(f"task.classes: {{{', '.join(pairs)}}}")
    return (
        f"but for {' and '.join(apart)} this would be 'same', and the student would "
        f"learn from the teacher's class probabilities too (KL): if they mean the "
        f"same, write {' and '.join(lines)}"
    )


def _missing_classes(names: _Names) -> str:
    if names.alone or not names.pairs:
        return ""
    return (
        f"all classes here are the teacher's, which knows "
        f"{_listed(names.theirs_alone)} as well: that alone turns the KL to its class "
        f"probabilities off. Is a class folder missing or empty? Where the site has no "
        f"such patch, name all of the teacher's classes in data.class_names"
    )


def _numbered_classes(names: _Names) -> str:
    """Returns what to do where classes are numbers here and have names there."""
    own, theirs = names.alone, names.theirs_alone
    if names.pairs or not own or len(own) != len(theirs):
        return ""
    if not all(map(str.isdecimal, own)) or any(map(str.isdecimal, theirs)):
        return ""
    return (
        f"the classes here are numbers ({_listed(own)}), the teacher's have names "
        f"({_listed(theirs)}): if they mean the same, write which is which into "
        f"task.classes, {{{own[0]!r}: ..., {own[-1]!r}: ...}}, and the student learns "
        f"from the teacher's class probabilities too (KL)"
    )


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMED
    shown = ", ".join(names[:_MOST_NAMED]) or "none"
    return f"{shown} and {rest} more" if rest > 0 else shown
