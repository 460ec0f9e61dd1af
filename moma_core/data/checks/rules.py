"""Whether a set can be learned from and judged, before anybody tries.

A set that cannot is a problem, and no training begins; what may be meant, but seldom
is, is a warning. Nothing here reads a pixel.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from moma_core.data.augment.recipe import RecipeName
from moma_core.data.checks.census import Census
from moma_core.data.checks.names import misspelt_pairs, normalised
from moma_core.data.checks.origins import look_at_origins
from moma_core.data.checks.samples import MOST_NAMED, joined
from moma_core.data.consistency import SWAPPED, may_be_swapped
from moma_core.data.patch import (
    SPLITS,
    TRAIN,
    UNSEEN,
    VALIDATION,
    PatchIndex,
    PatchSource,
)
from moma_core.runtime.finding import Finding

_FEW_TO_TRAIN = 10  # patches of a class; the benchmark of few labels has five a class
_FEW_TO_JUDGE = 10  # of which one patch is ten points of a class's recall
_STRONG_IMBALANCE = 10
_FEW_UNREADABLE, _MANY_UNREADABLE = 10, 0.1
_MANY_CLASSES = 20
_MOST = 0.5  # of the training patches
_NO_CLASSES = frozenset(
    {"unlabelled", "unlabeled", "unknown", "unclear", "unsure", "exclude", "excluded"}
    | {"ignore", "todo", "tmp", "temp", "trash", "backup", "misc", "new_folder"}
    | {"neuer_ordner", "copy", "thumbnails", "images", "patches", "data", "masks"}
    | {"mask", "unassigned", "unclassified", "undefined", "unspecified", "not_known"}
    | {"no_label", "nolabel", "not_labelled", "not_labeled", "missing", "tbd", "null"}
    | {"nan", "na", "n.a.", "k.a.", "k._a.", "keine_angabe", "unbekannt", "unklar", "?"}
    | {"_1", "_9", "_99", "_999", "99", "999", "9999"}  # a minus is written as _
)
_REST_CLASSES = frozenset(
    {"other", "others", "rest", "various", "sonstige", "sonstiges", "andere", "autres"}
)
"""Classes by right, unless most patches are of them, and several others are there."""

_MONTH = r"(?:jan|feb|m[aä]r|mrz|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])"
_DATE = re.compile(rf"\d{{1,2}}[-. /]+{_MONTH}|{_MONTH}[-. /]+\d{{1,2}}", re.IGNORECASE)
"""What a spreadsheet makes of `3-4`."""


def look_at_set(
    source: PatchSource, *, figures_of: Mapping[str, str], max_unreadable: int | None
) -> Iterator[Finding]:
    """Yields what is to be said of a set: what is there, and what cannot work.

    Args:
        source: The set, as `open_source` opens it.
        figures_of: Splits of which figures are wanted, and what wants them, such as
            `egress.metrics`.
        max_unreadable: Patches that may be missing or broken; None: nobody said it.
    """
    census = Census(source.class_names, source.index)
    yield _counts(census)
    yield from _classes(census)
    yield from _splits(census, figures_of)
    yield from _numbers(census)
    yield from _names(census)
    yield from look_at_origins(source.index)
    yield from _files(source.index, max_unreadable)


def look_at_views(kind: str, views: RecipeName) -> Iterator[Finding]:
    """Yields whether views change what the classes of a set are.

    Args:
        kind: Of the `data` section.
        views: How patches are augmented.
    """
    if kind == "embedded" and views != "geometry_only":
        text = (
            f"views is {views}, and the classes of data.kind embedded are colours, "
            f"which these views change: set views: geometry_only"
        )
        yield Finding("views", "warning", text)


def _counts(census: Census) -> Finding:
    index = census.index
    labelled = len(index.rows(TRAIN, labelled=True))
    unlabelled = len(index.rows(TRAIN, labelled=False))
    text = (
        f"{labelled} labelled and {unlabelled} unlabelled to train on, "
        f"{len(index.rows(VALIDATION))} to validate, "
        f"{len(index.rows(UNSEEN))} unseen; {len(census.class_names)} classes "
        f"(patches / patients / slides below)"
    )
    more, facts = tuple(census.lines()), {"classes": census.as_json()}
    if labelled:
        return Finding("data", "ok", text, more=more, facts=dict(facts))
    text = (
        f"no labelled patch to train on: give patches of the split train a label, or "
        f"add some ({text})"
    )
    return Finding("data", "problem", text, more=more, facts=dict(facts))


def _classes(census: Census) -> Iterator[Finding]:
    """Yields the classes that cannot be learned, or not be told apart."""
    trained = census.patches(TRAIN)
    learned = [name for name, patches in trained.items() if patches]
    if len(learned) == 1:
        text = (
            f"all patches to train on are of one class, {learned[0]!r}: there is "
            f"nothing to tell apart; add labelled patches of another class, and see "
            f"that each class has its own folder or label"
        )
        yield Finding("classes", "problem", text)
        return
    validated, unseen = census.patches(VALIDATION), census.patches(UNSEEN)
    judged = {name: validated[name] + unseen[name] for name in census.class_names}
    yield from _unlearned(census, learned, judged)
    absent = [name for name in census.class_names if not trained[name] + judged[name]]
    if absent:
        text = (
            f"{_listed(absent)}: named, and without a patch; a student that cannot "
            f"know it says it all the same"
        )
        yield Finding("classes", "warning", text)


def _unlearned(
    census: Census, learned: list[str], judged: Mapping[str, int]
) -> Iterator[Finding]:
    """Yields the classes that are judged and not learned."""
    names = [name for name, n in judged.items() if n and name not in learned]
    if not names or not learned:
        return
    has, them = ("has", "it") if len(names) == 1 else ("have", "them")
    patches = sum(judged[name] for name in names)
    text = (
        f"{_listed(names)} {has} {patches} patches to judge by and none to learn from: "
        f"add labelled training patches of {them}, or take {them} out"
    )
    if len(census.index.rows(TRAIN, labelled=False)):
        text += "; data.keep_labelled, if set, may be too small"
    yield Finding("classes", "problem", text)


def _splits(census: Census, figures_of: Mapping[str, str]) -> Iterator[Finding]:
    """Yields the splits, and the classes in them, of which there can be no figure."""
    index = census.index
    for split in (VALIDATION, UNSEEN):
        if not len(index.rows(split, labelled=True)):
            yield _empty(split, figures_of.get(split))
        elif lacking := census.lacking(split):
            text = (
                f"{_listed(lacking)}: no {split} patch, so no {split} figure says how "
                f"well it is learned"
            )
            yield Finding("classes", "warning", text)
        if hidden := len(index.rows(split, labelled=False)):
            text = f"{hidden} {split} patches have no label: no figure counts them"
            yield Finding("data", "warning", text)
    trained, judged = len(index.rows(TRAIN)), len(index.rows(VALIDATION))
    if 0 < trained < judged:
        text = (
            f"{judged} patches to validate on, and {trained} to train on: were the two "
            f"splits exchanged?"
        )
        yield Finding("data", "warning", text)


def _empty(split: str, wanted_by: str | None) -> Finding:
    what = "to validate on" if split == VALIDATION else "that is unseen"
    if wanted_by is None:
        text = f"no labelled patch {what}: there will be no {split} figure"
        return Finding("data", "warning", text)
    text = (
        f"no labelled patch {what}, and {wanted_by} asks figures of the {split} split: "
        f"add {split} patches (whole patients of them), or have {wanted_by} ask none"
    )
    return Finding("data", "problem", text)


def _numbers(census: Census) -> Iterator[Finding]:
    """Yields the classes of which there are few, and how unequal they are."""
    for split in SPLITS:
        least = _FEW_TO_TRAIN if split == TRAIN else _FEW_TO_JUDGE
        few = [
            f"{name!r} {patches}"
            for name, patches in census.patches(split).items()
            if 0 < patches < least
        ]
        if few:
            aim = "to learn from" if split == TRAIN else "for a figure of its own"
            text = (
                f"few labelled patches {aim} ({split}): {joined(few)}; {least} and "
                f"more are better"
            )
            yield Finding("classes", "warning", text)
    sizes = {name: n for name, n in census.patches(TRAIN).items() if n}
    for label, name in enumerate(census.class_names):
        patches = sizes.get(name, 0)
        if patches >= _FEW_TO_TRAIN and census.count(TRAIN, label).patients == 1:
            text = (
                f"all {patches} training patches of class {name!r} are of one "
                f"patient: a student learns the patient as well"
            )
            yield Finding("classes", "warning", text)
    if len(sizes) < 2:
        return
    most, fewest = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
    if sizes[most] >= _STRONG_IMBALANCE * sizes[fewest]:
        text = (
            f"strong imbalance: {sizes[most]} training patches of {most!r}, "
            f"{sizes[fewest]} of {fewest!r}; look at macro-F1 and at each class, not "
            f"at accuracy, and at training.balance"
        )
        yield Finding("classes", "warning", text)


def _names(census: Census) -> Iterator[Finding]:
    """Yields class names that look like slips."""
    pairs = misspelt_pairs(census.class_names)
    for first, second in pairs[:MOST_NAMED]:
        text = f"classes {first!r} and {second!r} look like one that is written twice"
        yield Finding("classes", "warning", text)
    if (rest := len(pairs) - MOST_NAMED) > 0:
        text = f"and {rest} more pairs of classes look like one that is written twice"
        yield Finding("classes", "warning", text)
    count, patches = len(census.class_names), len(census.index)
    if count > _MANY_CLASSES and count > patches / _FEW_TO_TRAIN:
        text = (
            f"{count} classes of {patches} patches: does the label hold the name of a "
            f"patch, a slide or a patient?"
        )
        if may_be_swapped(census.index):
            text += SWAPPED
        yield Finding("classes", "warning", text)
    odd = [name for name in census.class_names if _is_no_class(name, census)]
    yield from _mostly_no_class(census, odd)
    if odd:
        text = (
            f"{_listed(odd)}: looks like no class; a patch that has no label has an "
            f"empty one in a manifest, and other folders belong outside the data's"
        )
        yield Finding("classes", "warning", text)
    if dates := [name for name in census.class_names if _DATE.fullmatch(name)]:
        text = (
            f"{_listed(dates)}: looks like a date that a spreadsheet made of a grade, "
            f"such as 3-4; have it hold this column as text, and write them again"
        )
        yield Finding("classes", "warning", text)


def _is_no_class(name: str, census: Census) -> bool:
    """Whether a name says that nobody knows; not 99, where 98 is a class as well."""
    is_counted = name.isdecimal() and str(int(name) - 1) in census.class_names
    return normalised(name) in _NO_CLASSES and not is_counted


def _mostly_no_class(census: Census, odd: list[str]) -> Iterator[Finding]:
    """Yields the class that says what most patches are not.

    One class against all others is ordinary where it is one of two.
    """
    trained = census.patches(TRAIN)
    total, learned = sum(trained.values()), sum(map(bool, trained.values()))
    for name, patches in trained.items():
        is_rest = learned > 2 and normalised(name) in _REST_CLASSES
        if (is_rest or name in odd) and total > patches > _MOST * total:
            text = (
                f"{patches} of {total} training patches are of class {name!r}, which "
                f"says what they are not: leave the label empty where nobody knows it, "
                f"or part the class into what it holds"
            )
            yield Finding("classes", "warning", text)


def _files(index: PatchIndex, max_unreadable: int | None) -> Iterator[Finding]:
    """Yields what is listed twice, what is not there, and what was passed over."""
    most = len(index) if max_unreadable is None else max_unreadable
    is_said = max_unreadable is not None
    if is_said and most > max(_FEW_UNREADABLE, len(index) * _MANY_UNREADABLE):
        text = (
            f"data.max_unreadable is {max_unreadable}, of {len(index)} patches: that "
            f"many may be broken, and others are shown in their place; set 10"
        )
        yield Finding("data", "warning", text)
    if index.files is not None and (twice := len(index) - len(np.unique(index.files))):
        text = (
            f"{twice} patches are listed again under the same label and split: they "
            f"count twice, in training and in figures; take the rows out"
        )
        yield Finding("data", "warning", text)
    for each in index.passed_over:
        if each.kind == "missing" and each.count > most:
            text = (
                f"{each}; data.max_unreadable tolerates {max_unreadable}: see that the "
                f"paths start at the right folder"
            )
            yield Finding("data", "problem", text, more=each.names)
        elif each.is_ordinary:
            yield Finding("data", "ok", f"passed over, {each}", more=each.names)
        else:
            # of a slide without annotations patches may be taken, without a class
            text = str(each) if each.kind == "unannotated" else f"passed over, {each}"
            yield Finding("data", "warning", text, more=each.names)


def _listed(names: list[str]) -> str:
    return f"class {names[0]!r}" if len(names) == 1 else f"classes {_quoted(names)}"


def _quoted(names: list[str]) -> str:
    return joined([repr(name) for name in names])
