"""The doctor's look at a site's patches: splits, classes, patients, pictures."""

from collections.abc import Iterator

from moma_client.config.site import SiteConfig
from moma_client.student.checks import look_at_patches, look_at_pictures
from moma_core.data.checks.pictures import SAMPLE
from moma_core.data.patch import TRAIN, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.runtime.finding import Finding


class DataLook:
    """Looks at the patches step by step.

    Args:
        config: Settings of this site.

    Attributes:
        found: Patches, once they were opened and there is one to train on.
    """

    def __init__(self, config: SiteConfig) -> None:
        self._config = config
        self.found: PatchSource | None = None

    def counts(self) -> Iterator[Finding]:
        """Yields what there is by class and split, and whether it can be learned.

        Raises:
            DataError: The patches cannot be read, or break a rule, such as a patient in
                two splits.
        """
        source = open_source(self._config.data)
        if len(source.index.rows(TRAIN, labelled=True)):
            self.found = source
        yield from look_at_patches(self._config, source)

    def pictures(self, *, all_of_them: bool) -> Iterator[Finding]:
        """Yields what pictures look like; names those that cannot be read.

        Args:
            all_of_them: Opens each; else a sample.
        """
        if self.found is None:
            raise ValueError("the patches were not counted")
        yield from look_at_pictures(
            self._config, self.found, all_of_them=all_of_them, sample=SAMPLE
        )
