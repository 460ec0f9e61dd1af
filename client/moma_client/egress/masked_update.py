"""A site's part in sums: its clipped update, masked for a group that it has checked.

The key of a try lives in memory alone and masks one update: a site that was killed in
between refuses the try, and takes part in the next. The update lies on the site's disk
from the end of training on, as the student does.
"""

import logging
from pathlib import Path
from typing import NamedTuple, Self

from moma_client.config.site import SiteConfig
from moma_client.egress.disclosed import DisclosureState, MaskedGroup
from moma_client.egress.outcome import StudentOutcome
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import CheckpointError, FederationError, UpdateRejectedError
from moma_core.federation.masked_sum import (
    MaskingKey,
    Try,
    check_group,
    clipped,
    start_digest,
    terms_of,
    weights_digest,
)
from moma_core.federation.task import Masking, RoundKey, RoundTask, Weights
from moma_core.federation.weights import load_with_metadata, save_weights

_logger = logging.getLogger(__name__)


class MaskedUpdate(NamedTuple):
    """A masked update, and the group in whose sum it is nothing but a part."""

    weights: Weights
    group: MaskedGroup


class MaskedWeights:
    """Masks this site's updates; used by one thread.

    Args:
        config: Settings of this site, with `coordinator.masked_weights`.

    Raises:
        CertificateError: The site's signing key cannot be read.
    """

    def __init__(self, config: SiteConfig) -> None:
        section = config.coordinator.masked_weights
        if section is None:
            raise ValueError("coordinator.masked_weights is not set")
        identity = config.identity
        self._site, self._federation = config.site, config.federation
        self._signing = SigningKey.load(identity.signing_key, identity.passphrase_file)
        self._pinned = {
            name: VerifyingKey.parse(key) for name, key in section.partners.items()
        }
        self._smallest_group = section.smallest_group
        self._runs = config.state_dir / "runs"
        self._key: MaskingKey | None = None

    @classmethod
    def of(cls, config: SiteConfig) -> Self | None:
        """Returns what masks a site's weights, None where none may leave masked."""
        return None if config.coordinator.masked_weights is None else cls(config)

    def keep(self, task: RoundTask, student: StudentOutcome) -> None:
        """Keeps what a student's round gave, clipped, until its sum is wanted.

        Nothing is kept of a student that is none, or that did not move, or that began
        elsewhere: who sent it from there would know it, and take it out of the sum.
        """
        path = self._file(task.run)
        path.unlink(missing_ok=True)
        start = student.start if task.weights is None else task.weights
        if task.kind != "train" or task.masking is None or start is None:
            return
        if student.began_from != start_digest(task):
            # a student takes over one for a round: asked for the round again with
            # others, it would have moved by what the coordinator chose
            _logger.warning(
                "round %d has no update: its student began from other weights than "
                "those that the coordinator names now",
                task.round,
            )
            return
        most = task.masking.max_update_norm
        try:
            weights, norm = clipped(student.weights, start, most)
        except UpdateRejectedError as error:
            _logger.warning("round %d has no update: %s", task.round, error)
            return
        _logger.info("the student moved by %.4g, clipped to %.4g", norm, most)
        if norm:
            path.parent.mkdir(parents=True, exist_ok=True)
            about = {"round": str(task.round), "terms": terms_of(task)}
            save_weights(path, weights, about)

    def new_key(self, task: RoundTask) -> RoundKey:
        """Returns a fresh key for a try; the last one is forgotten.

        Raises:
            FederationError: The site has no update for the round.
        """
        _, for_try = self._kept(task)
        self._key = MaskingKey(for_try, self._site, self._signing)
        return self._key.public

    def update(self, task: RoundTask, disclosed: DisclosureState) -> MaskedUpdate:
        """Returns the round's update under the masks of a group.

        The key is forgotten, whatever comes of it.

        Args:
            task: Names the group's keys.
            disclosed: What has left so far. An update leaves for one group: two sums
                that differ by one site would show that site's update.

        Raises:
            FederationError: The site does not mask for this group, or not any more.
        """
        key, self._key = self._key, None
        update, for_try = self._kept(task)
        if key is None or key.for_try != for_try:
            raise FederationError("this site has no key of this try, or not any more")
        keys = _masking(task).keys
        partners = check_group(keys, key, self._pinned, self._smallest_group)
        group = MaskedGroup(
            round=task.round,
            update=weights_digest(update),
            sites=tuple(sorted(each.site for each in keys)),
        )
        _check_once(disclosed, task.run, group)
        return MaskedUpdate(key.masked(update, partners), group)

    def _kept(self, task: RoundTask) -> tuple[Weights, Try]:
        """Returns the round's update, and the try for which it is wanted."""
        try:
            weights, metadata = load_with_metadata(self._file(task.run))
        except CheckpointError:
            metadata = {}
        if metadata.get("round") != str(task.round):
            raise FederationError("this site has no update of this round")
        try_id, terms = _masking(task).try_id, metadata["terms"]
        return weights, Try(self._federation, task.run, task.round, try_id, terms)

    def _file(self, run: str) -> Path:
        return self._runs / run / "clipped.safetensors"


def _masking(task: RoundTask) -> Masking:
    if task.masking is None:
        raise ValueError(f"{task.key} says nothing of masks")
    return task.masking


def _check_once(disclosed: DisclosureState, run: str, group: MaskedGroup) -> None:
    before = disclosed.masked.get(run)
    if before is not None and before.round > group.round:
        raise FederationError("this site has masked an update of a later round")
    for name, each in disclosed.masked.items():
        is_round = name == run and each.round == group.round
        if (is_round or each.update == group.update) and each.sites != group.sites:
            raise FederationError("this update has left for another group already")
    if disclosed.updates.get(group.update, group.sites_digest) != group.sites_digest:
        raise FederationError("this update has left for another group already")
