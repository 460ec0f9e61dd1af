"""A teacher whose outputs lie in the teacher cache; what is missing is queried."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from torch import Tensor

from moma_core.data.batch import Batch
from moma_core.errors import TeacherUnavailableError
from moma_core.teacher.cache.store import Found, TeacherCache
from moma_core.teacher.protocol import Teacher, TeacherOutput

_logger = logging.getLogger(__name__)


class CachedTeacher:
    """Implements `Teacher`; with a full cache it needs nobody.

    Args:
        cache: Where outputs are, and are kept.
        connect: Returns the teacher for what is missing; called at the first view that
            is, and not before.
        on_found: Called with the number of a batch's views that the cache had.
    """

    def __init__(
        self,
        cache: TeacherCache,
        connect: Callable[[], Teacher],
        on_found: Callable[[int], None],
    ) -> None:
        self._cache = cache
        self._connect = connect
        self._on_found = on_found

    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """Yields every batch once, in order, with its outputs.

        From the first missing view on it reads as far ahead as the teacher does, so
        that the loop does not wait for each query.

        Raises:
            TeacherError: Outputs are missing, and the teacher does not give them.
        """
        rest = iter(batches)
        for batch in rest:
            found = self._cache.read(batch)
            if len(found.missing):
                _logger.info("views are missing in the cache: the teacher is queried")
                yield from self._query_missing(chain([batch], rest))
                return
            self._on_found(len(batch.rows))
            yield batch, found.output

    def _query_missing(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        waiting: deque[tuple[Batch, Found]] = deque()

        def missing_parts() -> Iterator[Batch]:
            for batch in batches:
                found = self._cache.read(batch)
                waiting.append((batch, found))
                yield part_of(batch, found.missing)

        for part, output in self._connect().answer_batches(missing_parts()):
            batch, found = waiting.popleft()
            self._on_found(len(batch.rows) - len(part.rows))
            yield batch, self._completed(found, part, output)

    def _completed(
        self, found: Found, part: Batch, output: TeacherOutput | None
    ) -> TeacherOutput:
        if output is None:
            raise TeacherUnavailableError("no teacher gives what the cache lacks")
        if len(part.rows):
            kept = self._cache.write(part, output)
            found.output.embedding[found.missing] = kept.embedding
            found.output.logits[found.missing] = kept.logits
        return found.output


def part_of(batch: Batch, places: Tensor) -> Batch:
    """Returns a batch of some rows of another one, which may be none."""
    return Batch(
        views=batch.views[places],
        images=batch.images[places],
        labels=batch.labels[places],
        step=batch.step,
        rows=batch.rows[places],
        view_numbers=batch.view_numbers[places],
    )
