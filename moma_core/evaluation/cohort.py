"""The patients on whom a figure is measured, counted while patches are read."""

import hashlib
from collections import defaultdict
from typing import Literal, NamedTuple

from moma_core.data.patch import Patch, PatchSource, WrappedSource
from moma_core.evaluation.figures import class_keys, count_of_groups
from moma_core.federation.disclosure import Cohort, UnknownPatients

_Kind = Literal["patient", "slide", "patch"]


class _Person(NamedTuple):
    kind: _Kind
    name: str


class CountedSource(WrappedSource):
    """A source that notes whose patches were read.

    A slide stands for its patient where that one is not named. A patch that stands in
    for an unreadable one is not counted, as no figure counts it.

    Args:
        source: Where the patches come from.
        unknown: How patches are counted that name neither patient nor slide.
    """

    def __init__(self, source: PatchSource, unknown: UnknownPatients) -> None:
        super().__init__(source)
        self._unknown = unknown
        self._patches: dict[int, bytes] = {}  # digests by row
        self._people: defaultdict[int, set[_Person]] = defaultdict(set)  # by label

    def read(self, row: int) -> Patch:
        """Decodes one patch, and notes it.

        Raises:
            DataError: As the source does.
        """
        patch = self._source.read(row)
        if not patch.is_stand_in:
            self._note(row, patch)
        return patch

    def cohort(self) -> Cohort:
        """Returns on whom a figure over all patches read so far was measured."""
        digest = hashlib.sha256(b"".join(sorted(self._patches.values())))
        people = set().union(*self._people.values())
        keys = class_keys(self.class_names)
        by_class = {keys[label]: len(found) for label, found in self._people.items()}
        return Cohort(digest.hexdigest(), len(people), by_class, self._counted(people))

    def _note(self, row: int, patch: Patch) -> None:
        person = self._person(row, patch)
        if patch.label is not None:
            self._people[patch.label].add(person)
        # other patches may come to lie in a row: what is there counts, not where
        named = "" if person.kind == "patch" else person.name
        head = repr((patch.pixels.shape, patch.label, person.kind, named)).encode()
        digest = hashlib.sha256(head)
        digest.update(patch.pixels.tobytes())
        self._patches[row] = digest.digest()

    def _person(self, row: int, patch: Patch) -> _Person:
        if patch.patient is not None:
            return _Person("patient", patch.patient)
        if patch.slide is not None:
            return _Person("slide", patch.slide)
        return _Person("patch", str(row) if self._unknown == "each" else "")

    def _counted(self, people: set[_Person]) -> str:
        kinds = [person.kind for person in people]
        parts = []
        if patients := kinds.count("patient"):
            parts.append(count_of_groups(patients, "patients"))
        if slides := kinds.count("slide"):
            name = "names" if slides == 1 else "name"
            parts.append(f"{count_of_groups(slides, 'slides')} that {name} no patient")
        if patches := kinds.count("patch"):
            parts.append(
                f"{patches} patches that name no patient and no slide, each as one"
                if self._unknown == "each"
                else "all patches that name no patient and no slide, as one"
            )
        return ", ".join(parts) or "nobody"
